"""`run --foreground`: what other commands do to the service, and when it is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from e2e import echo
from support import wait_until
from viscum.lab import CLOUD4, Lab


@pytest.fixture
def box(lab: Lab) -> Lab:
    """A lab whose cloud runs the server."""
    echo.start(lab, "cloud", "cloud")
    return lab


def begin(box: Lab, *flags: str) -> subprocess.Popen[str]:
    """The service, in the foreground; SIGTERM ends its server with status 9."""
    return echo.begin(
        box, "run", "--foreground", "--start-timeout", "1m", "--name", "web", "--on", "wlan0",
        "--target", CLOUD4, "--port", "7000/tcp", "--",
        *echo.command("edge", "--term", "9", *flags),
    )  # fmt: skip


@pytest.fixture
def running(box: Lab) -> Iterator[subprocess.Popen[str]]:
    child = begin(box)
    assert child.stdout
    assert "started" in child.stdout.readline()
    yield child
    if child.poll() is None:
        child.terminate()
    child.communicate(timeout=20)


def pid(box: Lab) -> int:
    """Of the newest server."""
    return int(echo.status(box)["generations"][0]["instances"][0]["pid"])


@pytest.mark.req("N8")
@pytest.mark.parametrize("how", ["restart", "stop and start"])
def test_a_new_server_is_stood_by_for(box: Lab, running: subprocess.Popen[str], how: str) -> None:
    old = pid(box)
    for verb in how.split(" and "):
        echo.viscum(box, verb, "web")
    wait_until(lambda: not os.path.exists(f"/proc/{old}"), "the old server is collected")
    echo.viscum(box, "restart", "web")
    assert echo.who(box, CLOUD4) == "edge"
    assert running.poll() is None
    os.kill(pid(box), signal.SIGKILL)
    running.communicate(timeout=20)
    assert running.returncode == 1, "how another command's child ended is not known"
    assert echo.status(box) == {}
    assert echo.who(box, CLOUD4) == "cloud"


@pytest.mark.req("N2")
def test_under_nohup_it_stays(box: Lab) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        child = begin(box)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert child.stdout
    assert "started" in child.stdout.readline()
    child.send_signal(signal.SIGHUP)
    echo.viscum(box, "restart", "web")
    assert child.poll() is None
    assert echo.who(box, CLOUD4) == "edge"
    child.terminate()
    child.communicate(timeout=20)


@pytest.mark.req("N2")
def test_taken_away_by_another_command(box: Lab, running: subprocess.Popen[str]) -> None:
    echo.viscum(box, "rm", "web")
    _, err = running.communicate(timeout=20)
    assert running.returncode == 9, err


@pytest.mark.req("N2", "N16")
def test_told_to_end_before_the_server_listens(box: Lab) -> None:
    child = begin(box, "--wait", "/nonexistent")
    wait_until(lambda: echo.status(box).get("state") == "not listening" and pid(box), "a server")
    server = pid(box)
    child.terminate()
    child.communicate(timeout=20)
    assert echo.status(box) == {}
    assert not os.path.exists(f"/proc/{server}"), "nobody would supervise it"
