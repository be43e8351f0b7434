"""`tiny.py` in the lab's cloud, and clients that ask it; no Viscum in between."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from e2e import stranger
from e2e.certificates import Authority
from support import need_root, wait_until
from viscum.lab import CLOUD4, CLOUD6, Lab

EXAMPLES = Path(__file__).parents[1]
MOST, UPLOADS, CONNECTIONS, EACH = 1 << 20, 3 << 20, 6, 4
LONG = 60.0  # s that nothing takes
SECONDS = 2.0  # that `hasty` waits


@dataclass(frozen=True)
class Tiny:
    """The server as those see it who ask one of its addresses."""

    lab: Lab
    child: subprocess.Popen[Any]
    log: Path
    certificate: Path
    port: int = 80
    tls_port: int = 443
    address: str = CLOUD4

    def curl(
        self, *words: str, path: str = "/", scheme: str = "http", role: str = "ue"
    ) -> tuple[int, Any]:
        """Status and answer."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        port = self.tls_port if scheme == "https" else self.port
        trust = ("--cacert", str(self.certificate))
        url = f"{scheme}://{host}:{port}{path}"
        return stranger.curl(self.lab, *trust, *words, url, role=role)

    def connect(self, role: str = "ue", port: int = 0) -> socket.socket:
        return stranger.connect(self.lab, role, self.address, port or self.port, LONG)

    def told(self, data: bytes, role: str = "ue") -> bytes:
        """All that comes for this, the last that the client sends."""
        with self.connect(role) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return stranger.whole(connection)

    def await_status(self, status: int, *words: str, role: str = "ue") -> None:
        what = f"{role} to be answered {status}"
        wait_until(lambda: self.curl(*words, role=role)[0] == status, what, LONG)

    def await_words(self, words: str) -> None:
        """In its log."""
        wait_until(lambda: words in self.log.read_text(), f"it to say: {words}", LONG)


def head(length: object, method: str = "POST", more: str = "") -> bytes:
    """Of a request; more: lines of its own."""
    words = f"{method} / HTTP/1.1\r\nHost: tiny\r\nContent-Length: {length}\r\n{more}\r\n"
    return words.encode()


def answer(came: bytes) -> tuple[int, Any]:
    """Status and answer. AssertionError if it is not exactly one."""
    assert came.count(b"HTTP/1.1 ") == 1, came
    start, _, body = came.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(body)


Start = Callable[..., Tiny]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """`start(port=81, tls_port=444, …)`: options of the server, which lives as long as the lab. No
    address is translated on the way: two clients are two to it."""
    need_root()
    directory = tmp_path_factory.mktemp("tiny")
    authority = Authority(directory, alt=f"IP:{CLOUD4},IP:{CLOUD6}")
    both = directory / "both.pem"
    both.write_text("".join(path("ca").read_text() for path in (authority.crt, authority.key)))
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}

    def make(port: int, tls_port: int, **options: float) -> Tiny:
        options |= {"port": port, "tls_port": tls_port}
        words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        log = directory / f"{port}.log"
        argv = [sys.executable, "-m", "serving.tiny", f"--certificate={both}", *words]
        with log.open("wb") as file:
            child = lab.popen("cloud", argv, env=environment, stdout=file, stderr=file)
        tiny = Tiny(lab, child, log, authority.crt("ca"), port, tls_port)
        tiny.await_words("listens on")
        return tiny

    name = f"vt-{os.getpid()}-serving"
    with Lab(name, clients=2, firewall="none", wan_rtt=0, wan_rate=0, radio_rate=0) as lab:
        yield make


@pytest.fixture(scope="session")
def patient_server(start: Start) -> Tiny:
    limits = {"max_bytes": MOST, "max_uploads": UPLOADS, "upload_seconds": 10 * LONG}
    return start(80, 443, max_connections=CONNECTIONS, client_connections=EACH, **limits)


@pytest.fixture(scope="session")
def hasty_server(start: Start) -> Tiny:
    return start(81, 444, client_connections=EACH, upload_seconds=SECONDS)


@pytest.fixture
def own(start: Start) -> Iterator[Tiny]:
    """For one test, which may do what it likes with it."""
    tiny = start(82, 445)
    yield tiny
    tiny.child.kill()
    tiny.child.wait()


@pytest.fixture(params=[CLOUD4, CLOUD6], ids=["v4", "v6"])
def tiny(patient_server: Tiny, request: pytest.FixtureRequest) -> Iterator[Tiny]:
    """One that waits as long as a test may take."""
    yield from unshaken(replace(patient_server, address=request.param))


@pytest.fixture
def hasty(hasty_server: Tiny) -> Iterator[Tiny]:
    yield from unshaken(hasty_server)


def unshaken(tiny: Tiny) -> Iterator[Tiny]:
    """Whatever a test sends, the same process serves the next client, who finds room; nothing was a
    failure of the server's, and no request fills its log."""
    before = len(tiny.log.read_text())
    yield tiny
    tiny.await_status(200)
    assert tiny.child.poll() is None
    log = tiny.log.read_text()[before:]
    assert "Traceback" not in log
    assert "HTTP/" not in log
