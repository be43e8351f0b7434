"""Real QUIC and real DNS through the eBPF director: exchanges that began before `run` go on."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kernel.topo import TARGET4, TARGET6, Topo, udp
from support import need_program, wait_until

PEER = Path(__file__).with_name("quic_peer.py")


@pytest.fixture
def start(topo: Topo) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start("s1", *argv)`: a process in that namespace, killed afterwards."""
    with ExitStack() as stack:

        def run(short: str, *argv: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{topo.name}-{short}", *argv],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield run


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.req("N6")
@pytest.mark.parametrize("target", [TARGET4, TARGET6], ids=["v4", "v6"])
def test_quic(
    topo: Topo, start: Callable[..., subprocess.Popen[str]], tmp_path: Path, target: str
) -> None:
    need_program("openssl")
    cert, key = str(tmp_path / "cert"), str(tmp_path / "key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=x", "-out", cert, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip
    for short, name in (("cl", "cloud"), ("s1", "edge")):
        server = start(short, sys.executable, str(PEER), "server", target, name, cert, key)
        assert line(server) == "ready"
    client = start("ue", sys.executable, str(PEER), "client", target)

    def ask(connection: str) -> str:
        assert client.stdin is not None
        client.stdin.write(f"{connection} hello\n")
        client.stdin.flush()
        return line(client)

    assert ask("first") == "cloud:hello"
    topo.steer(topo.service(ports=(udp(443),), quic_initial_only=True))
    assert [ask("first"), ask("second")] == ["cloud:hello", "edge:hello"]
    for enabled in (False, True):
        topo.change(enabled=enabled)
        assert [ask("first"), ask("second")] == ["cloud:hello", "edge:hello"]
    topo.change(enabled=False)
    assert ask("third") == "cloud:hello"
    assert [ask("first"), ask("second")] == ["cloud:hello", "edge:hello"]


NAME = b"\3www\7example\3com\0"
QUERY = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + NAME + struct.pack("!2H", 1, 1)


@pytest.mark.req("N6")
def test_dns(topo: Topo, start: Callable[..., subprocess.Popen[str]]) -> None:
    """dnsmasq on the wildcard address; one resolver that keeps its port, and new ones."""
    need_program("dnsmasq")
    for short, answer in (("cl", "192.0.2.1"), ("s1", "192.0.2.2")):
        start(
            short, "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=",
            "--pid-file=", "--user=root", f"--address=/#/{answer}",
        )  # fmt: skip

    for short in ("cl", "s1"):

        def listens(short: str = short) -> bool:
            return ":53" in topo.run(short, "ss -Huln sport = :53")

        wait_until(listens, "dnsmasq")

    def ask(resolver: socket.socket) -> str:
        resolver.send(QUERY)
        return ".".join(str(byte) for byte in resolver.recv(512)[-4:])

    old = topo.udp_client(TARGET4, 53)
    assert ask(old) == "192.0.2.1"
    armed = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 60_000_000_000
    topo.steer(topo.service(ports=(udp(53),), arm_until_ns=armed))
    assert ask(old) == "192.0.2.1"
    topo.change(arm_until_ns=0)
    assert ask(old) == "192.0.2.1"
    new = topo.udp_client(TARGET4, 53)
    assert ask(new) == "192.0.2.2"
    topo.change(enabled=False)
    assert [ask(old), ask(new), ask(topo.udp_client(TARGET4, 53))] == [
        "192.0.2.1", "192.0.2.2", "192.0.2.1",
    ]  # fmt: skip
