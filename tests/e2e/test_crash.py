"""A server that dies by SIGKILL: whoever connects after its end reaches the cloud, always."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from pathlib import Path

import pytest

from conftest import Figure
from e2e.load import Load
from e2e.test_transitions import nginx
from support import need_program, wait_until
from viscum.kernel.cgroup import Group
from viscum.lab import CLOUD4, CLOUD6, Lab
from viscum.names import HostNames

AFTER = 1000  # connections awaited after the server's end
PYTHON = """
from http.server import BaseHTTPRequestHandler
import os, socket, socketserver
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-From", f"edge:{os.getpid()}")
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")
    def log_message(self, *words): pass
class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    request_queue_size = 1024
Server(("::", 80), Handler).serve_forever()
"""


@pytest.fixture
def files(files: Path) -> Path:
    (files / "t").mkdir()
    return files


def kill_all(group: Group) -> tuple[int, int]:
    """SIGKILL to every process, one after the other; (how many, when the last one's pidfd was
    seen readable: CLOCK_MONOTONIC nanoseconds)."""
    pids = group.pids()
    fds = [os.pidfd_open(pid) for pid in pids]
    for fd in fds:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    for fd in fds:
        select.select([fd], [], [], 10)
        ended = time.monotonic_ns()
        os.close(fd)
    assert not group.pids(), "nothing of it is left"
    return len(pids), ended


@pytest.mark.req("N5", "N10")
@pytest.mark.parametrize("server", ["nginx", "python"])
def test_kill_9_costs_no_connection_made_after_it(
    lab: Lab, files: Path, figure: Figure, server: str
) -> None:
    need_program("nginx")
    lab.popen("cloud", nginx("cloud", files, files / "t"))
    wait_until(lambda: ":80" in lab.run("cloud", ["ss", "-Htln"]).stdout, "the cloud's nginx")
    (files / "server.py").write_text(PYTHON)
    python = ("/usr/bin/python3", "-I", "-S", str(files / "server.py"))
    ran = lab.viscum(
        "run", "--name", "web", "--on", "wlan0", "--target", CLOUD4, "--target", CLOUD6,
        "--port", "80/tcp", "--", *(nginx("edge", files) if server == "nginx" else python),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    group = Group(HostNames(str(lab.state_dir)).cgroup("web", 1, 0))

    with Load(lab, [CLOUD4, CLOUD6], short=8, pause=0.002) as load:
        load.wait(lambda a: a.origin.startswith("edge"), 200)
        processes, ended = kill_all(group)
        load.wait(lambda a: a.begun > ended, AFTER)
        (dead,) = json.loads(lab.viscum("ls", "--json").stdout)
        started = lab.viscum("start", "web")
        assert started.returncode == 0, started.stderr
        again = time.monotonic_ns()
        load.wait(lambda a: a.begun > again, 200)

    assert processes == (2 if server == "nginx" else 1)
    assert dead["state"] == "dead"
    assert dead["steering"] == "edge", "it is the edge's turn again as soon as it listens"
    before = [a for a in load.answers if a.begun <= ended]
    after = [a for a in load.answers if a.begun > ended]
    assert {":" in a.target for a in after[:AFTER]} == {True, False}, "IPv4 and IPv6"
    assert [a for a in after if a.error] == []
    gap = [a for a in after[:AFTER] if a.begun < again]
    assert all(a.origin.startswith("cloud") for a in gap)
    elsewhere = [a for a in after if a.begun > again and not a.origin.startswith("edge")]
    assert not elsewhere
    first = min(a.begun for a in after) - ended
    figure("connections begun after the end", len(after), f"(first {first / 1e6:.2f} ms after)")
    figure("errors among them", 0, "")
    hit = sum(bool(a.error) for a in before)
    figure("errors among those begun before", f"{hit} of {len(before)}", "")
