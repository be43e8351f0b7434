"""One lock per host: a second command waits, says for whom, and can time out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import snapshot
from support import need_program, wait_until
from viscum import store
from viscum.lab import CLOUD4, Lab

VISCUM = str(Path(sys.executable).with_name("viscum"))


def run(name: str, target: str) -> tuple[str, ...]:
    steer = ("--on", "wlan0", "--target", target, "--port", "80/tcp")
    return ("run", "--name", name, *steer, "--", "busybox", "httpd", "-f", "-p", "[::]:80")


def states(lab: Lab) -> dict[str, str]:
    return {s["name"]: s["state"] for s in json.loads(lab.viscum("ls", "--json").stdout)}


def start(lab: Lab, *args: str, **options: object) -> subprocess.Popen[str]:
    return lab.popen(
        "ap", [VISCUM, *args], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def told(holder: str) -> None:
    raise AssertionError(f"the lock should be free, but {holder}")


@pytest.mark.req("N16")
def test_a_second_command_waits_and_says_for_whom(lab: Lab) -> None:
    need_program("busybox")
    with store.lock(str(lab.state_dir), "run other", 0, told):
        second = start(lab, *run("web", CLOUD4))
        assert second.stderr is not None
        line = second.stderr.readline()
        assert line == f"waiting for `viscum run other` (pid {os.getpid()})\n"
        assert second.poll() is None
    _, err = second.communicate(timeout=30)
    assert second.returncode == 0, err
    assert states(lab) == {"web": "running"}


@pytest.mark.req("N16")
def test_waiting_can_time_out(lab: Lab) -> None:
    before = snapshot.operator(lab)
    with store.lock(str(lab.state_dir), "run other", 0, told):
        done = lab.viscum("--lock-timeout", "0.2", *run("web", CLOUD4))
    assert done.returncode == 1
    assert f"lock is held by `viscum run other` (pid {os.getpid()})" in done.stderr
    assert "nothing was changed" in done.stderr
    assert "--lock-timeout" in done.stderr
    assert snapshot.differences(before, snapshot.operator(lab)) == []
    assert states(lab) == {}


@pytest.mark.req("N16")
def test_the_lock_of_a_killed_command_is_free(lab: Lab) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with store.lock(str(lab.state_dir), "run other", 0, told):
            os.write(writer, b"x")
            signal.pause()
        os._exit(1)
    os.read(reader, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    done = lab.viscum("--lock-timeout", "0", *run("web", CLOUD4))
    assert done.returncode == 0, done.stderr


@pytest.fixture
def slow_nft() -> Iterator[Path]:
    """A PATH whose nft says that it began, and waits until it may go on."""
    directory = Path(tempfile.mkdtemp(prefix="vt-nft-", dir="/var/tmp"))
    real = shutil.which("nft")
    for name in ("begun", "go"):
        os.mkfifo(directory / name)
    script = directory / "nft"
    script.write_text(
        f'#!/bin/sh\necho >{directory}/begun\nread go <{directory}/go\nexec {real} "$@"\n'
    )
    script.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.req("N16")
def test_what_a_killed_command_had_begun_is_finished_before_the_next_one(
    lab: Lab, slow_nft: Path
) -> None:
    """Else the next one would be overtaken: nft would make the table after `rm --all` looked."""
    before = snapshot.operator(lab)
    path = {**lab.environment("ap"), "PATH": f"{slow_nft}:{os.environ['PATH']}"}
    first = start(lab, *run("web", CLOUD4), env=path)
    assert (slow_nft / "begun").read_text() == "\n"
    first.kill()
    first.communicate()
    second = start(lab, "rm", "--all")
    assert second.stderr is not None
    assert "`viscum run web`" in second.stderr.readline()
    (slow_nft / "go").write_text("\n")
    _, err = second.communicate(timeout=30)
    assert second.returncode == 0, err
    wait_until(lambda: not snapshot.differences(before, snapshot.operator(lab)), "all gone")


@pytest.mark.req("N16")
def test_two_runs_at_once(lab: Lab) -> None:
    both = [start(lab, *run("one", CLOUD4)), start(lab, *run("two", "198.18.0.11"))]
    for command in both:
        _, err = command.communicate(timeout=30)
        assert command.returncode == 0, err
    assert states(lab) == {"one": "running", "two": "running"}


@pytest.mark.req("N16")
def test_ten_commands_at_once_end_in_a_consistent_state(lab: Lab) -> None:
    before = snapshot.operator(lab)
    for name, target in (("one", CLOUD4), ("two", "198.18.0.11")):
        ran = lab.viscum(*run(name, target))
        assert ran.returncode == 0, ran.stderr
    commands = [
        run("three", "198.18.0.12"),
        run("four", "198.18.0.13"),
        ("disable", "one"),
        ("enable", "one"),
        ("restart", "one"),
        ("rm", "two"),
        ("ls", "--json"),
        ("disable", "--now", "one"),
        ("tidy",),
        run("one", CLOUD4),
    ]
    running = [start(lab, *command) for command in commands]
    for started in running:
        _, err = started.communicate(timeout=60)
        assert started.returncode == 0, f"{started.args!r}: {err}"
    assert states(lab) == {"four": "running", "one": "running", "three": "running"}
    for name in ("one", "three", "four"):
        shown = json.loads(lab.viscum("status", name, "--json").stdout)
        assert shown["drift"] == []
    assert lab.viscum("rm", "--all").returncode == 0
    wait_until(lambda: not snapshot.differences(before, snapshot.operator(lab)), "all gone")
    assert not any(snapshot.traces(lab).values())
