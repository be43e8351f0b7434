"""UDP flows that began before the service stay where they are (N6): DNS, QUIC, datagrams."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from e2e.net import (
    PORT,
    TIMEOUT,
    apply,
    ask,
    flow,
    ok,
    peer_command,
    start_peer,
    who_udp,
)
from support import need_program, wait_until
from viscum.kernel.process import Process
from viscum.lab import CLOUD4, CLOUD6, Lab
from viscum.lab.plan import CLOUDS4, CLOUDS6

TARGETS = (CLOUD4, CLOUD6)
EACH = pytest.mark.parametrize("target", TARGETS, ids=["v4", "v6"])
TRACKED = pytest.mark.parametrize(
    "lab", [{"firewall": "router"}, {"firewall": "none"}], indirect=True, ids=["tracked", "armed"]
)
QUIC = str(Path(__file__).with_name("quic.py"))
ARM = 1.5  # seconds
VISCUM = str(Path(sys.executable).with_name("viscum"))


def kill_server(lab: Lab) -> None:
    service = json.loads(ok(lab.viscum("status", "svc", "--json")))
    with Process(service["generations"][0]["instances"][0]["pid"]) as process:
        process.send(signal.SIGKILL)
        assert process.wait(TIMEOUT)


def apply_in_use(lab: Lab, text: str, *flows: Callable[[], str]) -> None:
    """`apply` while these speak with the cloud, as clients do: one that is silent for as long as
    the arming lasts, which on a busy machine `apply` may take, is taken for a new one."""
    path = lab.directory / "spec.toml"
    path.write_text(text)
    with lab.popen("ap", [VISCUM, "apply", str(path)]) as applying:
        while applying.poll() is None:
            assert [flow() for flow in flows] == ["cloud"] * len(flows)
    assert applying.returncode == 0


def spec(command: tuple[str, ...], port: int, udp: str, targets: tuple[str, ...] = TARGETS) -> str:
    return f"""
name = "svc"
command = {json.dumps(command)}
[steer]
interfaces = ["wlan0"]
targets = {json.dumps(targets)}
ports = ["{port}/udp"]
udp = {{ {udp} }}
[run]
drain = "1s"
"""


# ---- DNS ---------------------------------------------------------------------------------------


def dnsmasq(answer: str, *more: str) -> tuple[str, ...]:
    """Answers every name with `answer`, and big.test with more than a packet holds."""
    texts = ",".join(f"{n:02d}" + "x" * 200 for n in range(15))
    return (
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
        "--pid-file=", "--user=root", "--edns-packet-max=4096", f"--address=/where.test/{answer}",
        f"--txt-record=big.test,{answer},{texts}", *more,
    )  # fmt: skip


CLOUD_DNS, EDGE_DNS = "192.0.2.1", "192.0.2.2"
PLACES = {socket.inet_aton(CLOUD_DNS): "cloud", socket.inet_aton(EDGE_DNS): "edge"}


def query(sock: socket.socket, name: str, kind: int = 1) -> bytes:
    """RFC 1035, with the EDNS of RFC 6891: the whole answer."""
    question = b"".join(bytes((len(p),)) + p.encode() for p in name.split(".")) + b"\0"
    edns = struct.pack("!BHHIH", 0, 41, 4096, 0, 0)
    ident = query.number = getattr(query, "number", 0) + 1 & 0xFFFF  # type: ignore[attr-defined]
    sock.send(struct.pack("!6H", ident, 0x100, 1, 0, 0, 1) + question
              + struct.pack("!HH", kind, 1) + edns)  # fmt: skip
    answer = sock.recv(65535)
    assert answer[:2] == struct.pack("!H", ident)
    return answer


def where(sock: socket.socket) -> str:
    answer = query(sock, "where.test")
    return next(place for address, place in PLACES.items() if address in answer)


def where_new(lab: Lab, target: str) -> str:
    with flow(lab, target, port=53) as sock:
        return where(sock)


@pytest.fixture
def cloud_dns(lab: Lab) -> Lab:
    need_program("dnsmasq")
    lab.popen("cloud", dnsmasq(CLOUD_DNS), stderr=subprocess.DEVNULL)
    listening = lambda: lab.run("cloud", ["ss", "-Hlun", "sport = 53"]).stdout  # noqa: E731
    wait_until(listening, "dnsmasq")
    return lab


@pytest.mark.req("N6", "N10")
@TRACKED
def test_dns_begun_before(cloud_dns: Lab) -> None:
    """Old flows stay, new ones move, and when the server dies the next query is the cloud's."""
    lab = cloud_dns
    old = [flow(lab, t, port=53) for t in TARGETS]
    assert [where(s) for s in old] == ["cloud", "cloud"]
    text = spec(dnsmasq(EDGE_DNS), 53, f'arm = "{ARM}s"')
    apply_in_use(lab, text, *(partial(where, s) for s in old))
    assert [where(s) for s in old] == ["cloud", "cloud"]
    if lab.settings.firewall == "router":  # seeded: nothing to wait for
        assert [where_new(lab, t) for t in TARGETS] == ["edge", "edge"]
    wait_until(lambda: [where_new(lab, t) for t in TARGETS] == ["edge"] * 2, "the end of arming")
    assert [where(s) for s in old] == ["cloud", "cloud"]

    new = [flow(lab, t, port=53) for t in TARGETS]
    assert [where(s) for s in new] == ["edge", "edge"]
    ok(lab.viscum("disable", "svc"))
    assert [where(s) for s in (*old, *new)] == ["cloud", "cloud", "edge", "edge"]
    assert [where_new(lab, t) for t in TARGETS] == ["cloud", "cloud"]
    ok(lab.viscum("enable", "svc"))
    assert [where(s) for s in (*old, *new)] == ["cloud", "cloud", "edge", "edge"]
    assert [where_new(lab, t) for t in TARGETS] == ["edge", "edge"]
    kill_server(lab)
    assert [where(s) for s in (*old, *new)] == ["cloud"] * 4
    assert [where_new(lab, t) for t in TARGETS] == ["cloud", "cloud"]
    for sock in (*old, *new):
        sock.close()


@pytest.mark.req("N6", "N7")
@pytest.mark.parametrize("bound", ["wildcard", "target"])
@pytest.mark.parametrize("firewall", ["bypass", "honour"])
def test_answers_come_from_where_they_were_asked(cloud_dns: Lab, bound: str, firewall: str) -> None:
    """Also those that are larger than a packet (a connected socket takes nothing else)."""
    more = ["--bind-interfaces", *(f"--listen-address={t}" for t in TARGETS)]
    text = spec(dnsmasq(EDGE_DNS, *(more if bound == "target" else ())), 53, 'arm = "0"')
    apply(cloud_dns, text.replace("[steer]", f'[steer]\nfirewall = "{firewall}"'))
    for target in TARGETS:
        with flow(cloud_dns, target, port=53) as sock:
            assert where(sock) == "edge"
            answer = query(sock, "big.test", 16)
            assert len(answer) > 3000
            assert EDGE_DNS.encode() in answer
            assert re.findall(rb"(\d\d)x{200}", answer) == [b"%02d" % n for n in range(15)]


# ---- sources -----------------------------------------------------------------------------------


@pytest.mark.req("N6", "N7")
@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "targets"])
@pytest.mark.parametrize("size", [5, 4000], ids=["small", "fragmented"])
def test_a_server_that_does_not_care_about_its_address(lab: Lab, bind: str, size: int) -> None:
    """It answers with sendto() from whatever address the kernel chooses."""
    address = TARGETS if bind == "targets" else (bind,)
    apply(lab, spec(peer_command("edge", PORT, address), PORT, 'arm = "0"', TWO))
    data = b"echo" + bytes(range(256)) * (size // 256)
    for target in TARGETS if bind == "targets" else (TWO[:2] if bind == "0.0.0.0" else TWO):
        with flow(lab, target) as sock:
            assert ask(sock)[0] == "edge"
            sock.send(data)
            assert sock.recv(65535) == data


TWO = (CLOUDS4[0], CLOUDS4[1], CLOUDS6[0], CLOUDS6[1])


@pytest.mark.req("N6")
@TRACKED
def test_several_old_flows(lab: Lab) -> None:
    """Only one of them speaks while the service starts: the others are old all the same."""
    start_peer(lab)
    old = [flow(lab, t) for t in TARGETS for _ in range(5)]
    assert [ask(s)[0] for s in old] == ["cloud"] * 10
    with lab.popen("ap", [VISCUM, "run", "--name", "svc",
                          "--on", "wlan0", "--target", CLOUD4, "--target", CLOUD6, "--port",
                          f"{PORT}/udp", "--", *peer_command("edge")]) as running:  # fmt: skip
        while running.poll() is None:
            assert ask(old[0])[0] == "cloud"
    assert running.returncode == 0
    assert [ask(s)[0] for s in old] == ["cloud"] * 10
    wait_until(lambda: who_udp(lab, CLOUD4) == "edge", "new flows at the edge", 20)
    assert [ask(s)[0] for s in old] == ["cloud"] * 10
    for sock in old:
        sock.close()


@pytest.mark.req("N6")
@TRACKED
@pytest.mark.parametrize("what", ["port", "target"])
def test_flows_that_a_change_would_newly_cover(lab: Lab, what: str) -> None:
    """Adding a port or a target to a running service moves no flow either."""
    start_peer(lab)
    start_peer(lab, "cloud", "cloud", PORT + 1)
    target, port = (CLOUD4, PORT + 1) if what == "port" else (CLOUDS4[1], PORT)
    with flow(lab, target, port=port) as old:
        assert ask(old)[0] == "cloud"
        text = spec(peer_command("edge", PORT, more=PORT + 1), PORT, f'arm = "{ARM}s"', (CLOUD4,))
        apply_in_use(lab, text, lambda: ask(old)[0])
        assert ask(old)[0] == "cloud"
        if what == "port":
            text = text.replace(f'"{PORT}/udp"', f'"{PORT}/udp", "{PORT + 1}/udp"')
        else:
            text = text.replace(f'"{CLOUD4}"', f'"{CLOUD4}", "{CLOUDS4[1]}"')
        apply_in_use(lab, text, lambda: ask(old)[0])
        assert ask(old)[0] == "cloud"
        wait_until(lambda: who_udp(lab, target, port=port) == "edge", "new flows at the edge")
        assert ask(old)[0] == "cloud"


# ---- QUIC --------------------------------------------------------------------------------------


@pytest.fixture
def certificate() -> Iterator[tuple[str, str]]:
    """Not below /tmp, which is private to services."""
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/var/tmp") as directory:
        made, key = f"{directory}/cert.pem", f"{directory}/key.pem"
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                 "-nodes", "-subj", "/CN=cloud.example", "-days", "1", "-keyout", key,
                 "-out", made]  # fmt: skip
        subprocess.run(words, check=True, capture_output=True)
        yield made, key


class Connection:
    """One QUIC connection of a client."""

    def __init__(self, lab: Lab, target: str) -> None:
        self.child = lab.popen(
            "ue", [sys.executable, "-I", QUIC, "client", target, "443"], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ask(self) -> str:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return str(self.child.stdout.readline()).strip()

    def close(self) -> None:
        self.child.communicate(timeout=TIMEOUT)


def quic_server(name: str, certificate: tuple[str, str], address: str = "::") -> tuple[str, ...]:
    return (sys.executable, "-I", QUIC, "server", name, address, "443", *certificate)


def asked_once(lab: Lab, target: str) -> str:
    connection = Connection(lab, target)
    said = connection.ask()
    connection.close()
    return said


@pytest.mark.req("N6")
@TRACKED
@EACH
@pytest.mark.parametrize("opens", ["any", "quic-initial"])
def test_quic_begun_before(lab: Lab, target: str, opens: str, certificate: tuple[str, str]) -> None:
    """A connection keeps its server through run, disable, enable and rm; new ones move at once
    (armed, after the arming)."""
    lab.popen("cloud", quic_server("cloud", certificate, target))
    wait_until(lambda: lab.run("cloud", ["ss", "-Hlun", "sport = 443"]).stdout, "the cloud")
    old = Connection(lab, target)
    assert old.ask() == "cloud"
    text = spec(quic_server("edge", certificate), 443, f'open = "{opens}", arm = "{ARM}s"')
    apply_in_use(lab, text, old.ask)
    assert old.ask() == "cloud"
    if lab.settings.firewall == "none" and opens == "any":
        wait_until(lambda: asked_once(lab, target) == "edge", "new connections at the edge", 30)
    new = Connection(lab, target)
    assert (old.ask(), new.ask()) == ("cloud", "edge")
    ok(lab.viscum("disable", "svc"))
    assert (old.ask(), new.ask(), asked_once(lab, target)) == ("cloud", "edge", "cloud")
    ok(lab.viscum("enable", "svc"))
    assert (old.ask(), new.ask(), asked_once(lab, target)) == ("cloud", "edge", "edge")
    new.close()
    ok(lab.viscum("rm", "svc"))
    assert (old.ask(), asked_once(lab, target)) == ("cloud", "cloud")
    old.close()
