"""What sockets can't show: a server that accepts and does not answer. What clients see of it, with
and without a probe."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import Figure, LabFactory
from e2e import echo, moody
from e2e.daemon import Daemon, running
from e2e.net import apply, ok
from e2e.servers import cloud_web, nginx_command
from support import need_program, wait_until
from viscum.kernel.cgroup import Group
from viscum.lab import CLOUD4, Lab
from viscum.names import HostNames
from viscum.spec import toml_value

SPEC = """
name = "web"
command = {command}
[steer]
interfaces = ["wlan0"]
targets = ["{target}"]
ports = ["80/tcp"]
{probe}
"""
PROBE = """
[probe]
type = "http"
interval = "200ms"
timeout = "200ms"
failures = 2
"""
LASTS = 1.5  # seconds for which new clients come
EACH = 0.05  # seconds between two
WAITS = 0.7  # seconds that a client waits for its answer


class Client(NamedTuple):
    """One connection: when it began, and how long its answer took (None: there was none)."""

    begun: float
    waited: float | None


def clients() -> list[Client]:
    """New connections for a while, each with a request; who waits for WAITS gives up."""
    started: list[tuple[float, socket.socket]] = []
    found: list[Client] = []
    end = time.monotonic() + LASTS
    while (begun := time.monotonic()) < end:
        sock = socket.create_connection((CLOUD4, 80), WAITS)
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        sock.setblocking(False)
        started.append((begun, sock))
        found += _answered(started)
        time.sleep(max(0.0, EACH - (time.monotonic() - begun)))
    while started and time.monotonic() < end + WAITS:
        found += _answered(started)
        time.sleep(0.005)
    found += [Client(begun, None) for begun, _ in started]
    for _, sock in started:
        sock.close()
    return found


def _answered(started: list[tuple[float, socket.socket]]) -> list[Client]:
    found = []
    for entry in list(started):
        begun, sock = entry
        try:
            answer = sock.recv(1000)
        except BlockingIOError:
            continue
        assert b"cloud" in answer
        found.append(Client(begun, time.monotonic() - begun))
        sock.close()
        started.remove(entry)
    return found


@pytest.fixture(scope="module")
def box(lab_factory: LabFactory) -> Iterator[tuple[Lab, Daemon]]:
    need_program("nginx", "curl")
    lab = lab_factory()
    cloud_web(lab)
    with running(lab) as daemon:
        yield lab, daemon
    lab.down()


class Frozen:
    """nginx, all of whose processes are stopped: the kernel goes on accepting for it."""

    def __init__(self, lab: Lab, files: Path) -> None:
        self.lab = lab
        self.command = nginx_command("edge", files)

    def _signal(self, number: int) -> None:
        names = HostNames(str(self.lab.state_dir))
        for pid in Group(names.cgroup("web", 1, 0)).pids():
            os.kill(pid, number)

    def hang(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)


class Hanging:
    """A server that reads requests, and is then busy with something else."""

    def __init__(self, lab: Lab, files: Path) -> None:
        self.mood = files / "mood"
        self.go_on()
        self.command = moody.command(str(self.mood), 7001, 80)

    def hang(self) -> None:
        self.mood.write_text("hang")

    def go_on(self) -> None:
        self.mood.write_text("well")


@pytest.fixture
def clean(box: tuple[Lab, Daemon]) -> Iterator[None]:
    """Nothing runs afterwards."""
    yield
    ok(box[0].viscum("rm", "--all", "--now"))


@pytest.mark.req("C3")
@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("probe", [PROBE, ""], ids=["with a probe", "without a probe"])
@pytest.mark.parametrize("how", [Frozen, Hanging], ids=["stopped nginx", "busy program"])
def test_a_server_that_accepts_and_does_not_answer(
    box: tuple[Lab, Daemon],
    files: Path,
    probe: str,
    how: Callable[[Lab, Path], Frozen | Hanging],
    figure: Figure,
) -> None:
    lab, daemon = box
    server = how(lab, files)
    apply(lab, SPEC.format(command=toml_value(list(server.command)), target=CLOUD4, probe=probe))
    seen = len(daemon.events("service.unhealthy"))
    if probe:
        wait_until(lambda: healthy(lab), "the first good answer")
    before = echo.within(lab, "ue", lambda: socket.create_connection((CLOUD4, 80), 5))
    begun = time.monotonic()
    server.hang()
    found: list[Client] = echo.within(lab, "ue", clients)
    lost = [c for c in found if c.waited is None]
    if probe:
        daemon.wait("service.unhealthy", "web", seen + 1)
        served = [c for c in found if c.waited is not None]
        assert served, "the cloud took over"
        assert min(c.begun for c in served) > max(c.begun for c in lost), "once, for all"
        figure("the last new flow to be lost", max(c.begun for c in lost) - begun, "s later")
    else:
        assert len(lost) == len(found), "nothing else tells"
    figure(f"lost of new flows in {LASTS:g} s", f"{len(lost)} of {len(found)}", "")
    server.go_on()
    before.settimeout(5)
    before.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = b"".join(iter(lambda: before.recv(1000), b""))
    assert b"edge" in answer or b"all is well" in answer, "the flow that was open is the edge's"
    before.close()


def healthy(lab: Lab) -> bool:
    """As the API says."""
    done = lab.run("ap", ["curl", "-s", "--unix-socket", str(lab.state_dir / "api.sock"),
                          "http://localhost/v1/services/web"])  # fmt: skip
    return '"state":"healthy"' in done.stdout.replace(" ", "")
