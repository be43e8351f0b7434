"""Every type of probe against servers of every mood, in a namespace made as a service's is."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from conftest import Figure
from e2e import moody
from support import need_program, wait_until
from viscum.controller.engine import Engine
from viscum.controller.events import Events
from viscum.controller.health.asking import Asker, Failed
from viscum.host import Host
from viscum.kernel import netns, sockets
from viscum.kernel.syscalls import in_netns
from viscum.plan import Instance
from viscum.spec import from_mapping
from viscum.store import Generation, Record

T4, T6, OWN = "203.0.113.7", "2001:db8::7", "100.64.0.1"
TLS_PORT, ALONE4, ALONE6, INSIDE = 8443, 8004, 8006, 8127
TIMEOUT = 0.4
# As plan.inner makes it: what the server sends to a target leaves the namespace.
SETUP = f"""
ip link set lo up
ip link add eth0 type veth peer name far
ip link set eth0 up
ip link set far up
ip addr add {OWN}/31 dev eth0
ip addr add fd00::1/127 dev eth0 nodad
ip neigh replace 100.64.0.0 lladdr 02:00:00:00:00:01 dev eth0 nud permanent
ip neigh replace fd00:: lladdr 02:00:00:00:00:01 dev eth0 nud permanent
ip addr add {T4}/32 dev lo
ip addr add {T6}/128 dev lo
ip route add default via 100.64.0.0
ip -6 route add default via fd00::
ip rule add pref 100 lookup local
ip -6 rule add pref 100 lookup local
ip rule del pref 0
ip -6 rule del pref 0
ip rule add pref 50 iif lo lookup 50
ip -6 rule add pref 50 iif lo lookup 50
ip route add {T4} via 100.64.0.0 src {OWN} table 50
ip -6 route add {T6} via fd00:: src fd00::1 table 50
"""


class Site:
    """The namespace, a server in it, and who asks."""

    def __init__(self, name: str, files: Path) -> None:
        self.netns = name
        self.mood = files / "mood"
        self.said = files / "said"
        self.engine = Engine(Host(str(files / "state")), Events())
        self.asker = Asker(self.engine)

    def ask(self, mood: str, **probe: Any) -> str:
        """What is wrong with a server in that mood; "": nothing."""
        self.mood.write_text(mood)
        try:
            asyncio.run(self._ask(self.at(**probe), 1))
        except Failed as failed:
            return str(failed)
        return ""

    def at(self, **probe: Any) -> Instance:
        """The instance, with a probe that says so."""
        probe = {"type": "http", "port": moody.HEALTH, "timeout": TIMEOUT, **probe}
        probe = {key.replace("_", "-"): value for key, value in probe.items()}
        spec = from_mapping(
            {
                "name": "web",
                "command": ["server"],
                "steer": {
                    "interfaces": ["lo"],
                    "targets": [T6, T4],
                    "ports": [f"{moody.HEALTH}/tcp", f"{moody.HEALTH}/udp"],
                },
                "probe": probe,
            }
        )
        record = Record("web", 1, spec, (f"{T6}/128", f"{T4}/32"))
        generation = Generation(1, spec, (0,))
        own = (ip_address(OWN), ip_address(OWN), 31)
        return Instance(record, generation, 0, 0, self.netns, "a", "viscum-t/web/1.0", (own,))

    def cost(self, times: int) -> float:
        """Processor time of asking once, in seconds."""
        begun = time.process_time()
        asyncio.run(self._ask(self.at(), times))
        return (time.process_time() - begun) / times

    async def _ask(self, at: Instance, times: int) -> None:
        for _ in range(times):
            async with asyncio.timeout(TIMEOUT + 5):
                await self.asker.ask(at)

    def listens(self) -> set[int]:
        with netns.opened(self.netns) as fd:
            return {s.port for s in sockets.listeners(fd)}

    def heard(self) -> str:
        """What the server was asked last."""
        return self.said.read_bytes().decode().rpartition("GET ")[2]


def refused_elsewhere(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.listen(8)
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    need_program("ip", "openssl")
    files = tmp_path_factory.mktemp("asking")
    name = f"vt-ask-{os.getpid()}"
    os.close(netns.create(name))
    children: list[subprocess.Popen[Any]] = []
    alone: list[socket.socket] = []
    made = Site(name, files)
    try:
        enter = ["nsenter", f"--net=/run/netns/{name}"]
        subprocess.run([*enter, "sh", "-ec", SETUP], check=True)
        pem = files / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "1", "-subj", "/CN=somebody.else", "-keyout", pem,
             "-out", files / "cert.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
        pem.write_text(pem.read_text() + (files / "cert.pem").read_text())
        made.mood.write_text("well")
        with made.said.open("w") as said:
            for ports, more in (
                ((moody.PORT, moody.HEALTH), {}),
                ((moody.PORT + 1, TLS_PORT), {"CERTIFICATE": str(pem)}),
            ):
                children.append(
                    subprocess.Popen(
                        [*enter, *moody.command(str(made.mood), *ports)],
                        stdout=said,
                        env=os.environ | more,
                    )
                )
        with netns.opened(name) as fd:
            for address, port in ((T4, ALONE4), (T6, ALONE6), ("127.0.0.1", INSIDE)):
                alone.append(in_netns(fd, refused_elsewhere, address, port))
        wait_until(lambda: {moody.HEALTH, TLS_PORT} <= made.listens(), "the servers")
        yield made
    finally:
        for child in children:
            child.kill()
            child.wait()
        for sock in alone:
            sock.close()
        made.asker.close()
        made.engine.close()
        netns.delete(name)


# What is asked, and what is answered: "" is healthy.
HTTP: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("well", {}, ""),
    ("well", {"expect": "is well"}, ""),
    ("chunked", {"expect": "is well"}, ""),
    ("hints", {"expect": "well"}, ""),
    ("redirect", {}, ""),
    ("kept", {}, ""),
    ("endless body", {}, ""),
    ("kept", {"expect": "well"}, "answered 200, but 'well' is not in the first 64 KB of it"),
    ("ill", {"expect": "well"}, "answered 200, but 'well' is not in the first 64 KB of it"),
    ("endless body", {"expect": "y"}, "answered 200, but 'y' is not in the first 64 KB of it"),
    ("slow body", {"expect": "y"}, "did not answer with 'y' within 400ms"),
    ("error", {}, "answered 503"),
    ("hang", {}, "accepted a connection, but did not answer within 400ms"),
    ("close", {}, "closed the connection without an answer"),
    ("half", {}, "closed the connection in the middle of its answer"),
    ("reset", {}, "broke the connection off: Connection reset by peer"),
    ("garbage", {}, "answered something that is not HTTP: 'SSH-2.0-OpenSSH_9.2"),
    ("no status", {}, "answered something that is not HTTP: 'HTTP/1.1 "),
    ("headers", {}, "answered something that is not HTTP: 'X-More: and"),
    ("endless head", {}, "the head of its answer is longer than 64 KB"),
    ("drip", {}, "did not finish the head of its answer within 400ms"),
)


@pytest.mark.req("C3")
@pytest.mark.parametrize(("mood", "probe", "wrong"), HTTP)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_over_http(site: Site, scheme: str, mood: str, probe: dict[str, Any], wrong: str) -> None:
    port = {"port": TLS_PORT} if scheme == "https" else {}
    if scheme == "https" and mood == "garbage":
        wrong = "failed the TLS handshake: WRONG_VERSION_NUMBER"
    said = site.ask(mood, type=scheme, **port, **probe)
    assert said.startswith(wrong)
    assert bool(said) == bool(wrong)


@pytest.mark.req("C3")
def test_the_server_is_asked_as_a_client_would(site: Site) -> None:
    assert site.ask("well", path="/healthz?deep=1") == ""
    assert site.heard().startswith(f"/healthz?deep=1 HTTP/1.1\r\nHost: [{T6}]:{moody.HEALTH}\r\n")
    assert site.ask("well", host="cloud.example.com") == ""
    assert "\r\nHost: cloud.example.com\r\n" in site.heard()
    assert site.ask("well", type="https", port=TLS_PORT, host="cloud.example.com:9") == ""
    assert "\r\nHost: cloud.example.com:9\r\n" in site.heard()
    assert "SNI cloud.example.com\n" in site.said.read_text()
    wrong = site.ask("well", type="https", port=TLS_PORT, host="a..b")
    assert wrong.startswith("can't be asked for as 'a..b': ")


TCP: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("well", {}, ""),
    ("hang", {}, ""),  # the kernel accepts; whoever asks no more learns no more
    ("hang", {"send": "x"}, ""),
    (
        "hang",
        {"send": "x", "expect": "y"},
        "accepted a connection, but did not answer within 400ms",
    ),
    ("garbage", {"expect": "SSH-2.0"}, ""),
    ("garbage", {"expect": "SSH-3.0"}, "'SSH-3.0' is not in the first 64 KB of its answer"),
    ("well", {"send": "GET / HTTP/1.0\r\n\r\n", "expect": "all is well"}, ""),
    ("close", {"send": "\r\n\r\n", "expect": "x"}, "accepted a connection, and closed it without"),
    ("reset", {"send": "\r\n\r\n", "expect": "x"}, "broke the connection off: Connection reset"),
    ("endless body", {"send": "\r\n\r\n", "expect": "y"}, "'y' is not in the first 64 KB"),
    ("well", {"port": 9}, "nothing listens on 9/tcp"),
    ("well", {"port": ALONE4}, ""),
    ("well", {"port": ALONE6}, ""),
    ("well", {"port": INSIDE}, ""),
)


@pytest.mark.req("C3")
@pytest.mark.parametrize(("mood", "probe", "wrong"), TCP)
def test_over_tcp(site: Site, mood: str, probe: dict[str, Any], wrong: str) -> None:
    said = site.ask(mood, type="tcp", **probe)
    assert said.startswith(wrong)
    assert bool(said) == bool(wrong)


UDP: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("well", {}, ""),
    ("ill", {}, "did not answer with 'well' within 400ms"),
    ("hang", {}, "did not answer within 400ms"),
    ("well", {"port": 9}, "nothing listens on 9/udp"),
)


@pytest.mark.req("C3")
@pytest.mark.parametrize(("mood", "probe", "wrong"), UDP)
def test_over_udp(site: Site, mood: str, probe: dict[str, Any], wrong: str) -> None:
    assert site.ask(mood, type="udp", send="?", expect="well", **probe) == wrong


@pytest.mark.req("C3")
def test_a_full_accept_queue_is_no_answer(site: Site) -> None:
    """Not one that is refused: the next address is not tried."""
    with netns.opened(site.netns) as fd:
        full = in_netns(fd, refused_elsewhere, T4, 8200)
        full.listen(0)
        clients = [in_netns(fd, _dial, 8200) for _ in range(3)]
    wait_until(lambda: 8200 in site.listens(), "the listener")
    wrong = site.ask("well", type="tcp", port=8200)
    for sock in (full, *clients):
        sock.close()
    assert wrong == "did not accept a connection within 400ms"


def _dial(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
    made.bind(("127.0.0.1", 0))
    made.setblocking(False)
    made.connect_ex((T4, port))
    return made


@pytest.mark.req("C3")
def test_what_is_asked_leaves_nothing_open_and_needs_little(site: Site, figure: Figure) -> None:
    site.ask("endless body", expect="y")
    fds = len(os.listdir("/proc/self/fd"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for mood in ("endless body", "endless head", "reset", "drip"):
        for scheme, port in (("http", moody.HEALTH), ("https", TLS_PORT)):
            site.ask(mood, type=scheme, port=port, expect="y")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert len(os.listdir("/proc/self/fd")) == fds
    assert grown < 4096
    assert site.ask("well") == ""
    figure("CPU of asking once by HTTP", site.cost(100) * 1e3, "ms")
    figure("more memory at the most, while servers answer without end", grown, "KB")


@pytest.mark.req("C3")
def test_a_namespace_that_is_gone(site: Site) -> None:
    other = Site("vt-no-such", site.mood.parent)
    try:
        assert other.ask("well") == "can't be asked: no such network namespace"
    finally:
        other.asker.close()
        other.engine.close()
