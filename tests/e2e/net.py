"""Sockets and servers in the lab, for tests that talk to them themselves."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from e2e.peers import BLOCK, content, datagram
from support import wait_until
from viscum.kernel import sysctl
from viscum.kernel.syscalls import in_netns
from viscum.lab import Lab
from viscum.lab.plan import AP_LAN4, AP_LAN6, AP_WAN4, AP_WAN6, CLOUDS4, CLOUDS6, ue4, ue6
from viscum.lab.processes import NETNS_DIR

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
PEERS = str(Path(__file__).with_name("peers.py"))
PORT = 7000
TIMEOUT = 10.0  # seconds; only a broken data path takes that long


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def sock(
    lab: Lab, role: str, address: str, kind: int = STREAM, proto: int = 0, timeout: float = TIMEOUT
) -> socket.socket:
    """A socket of the address' family that lives in a namespace of the lab."""
    made: socket.socket = inside(lab, role, socket.socket, family(address), kind, proto)
    made.settimeout(timeout)
    return made


def inside(lab: Lab, role: str, function: Any, *args: Any) -> Any:
    """Call it in a namespace of the lab."""
    fd = os.open(NETNS_DIR / lab.namespace(role), os.O_RDONLY)
    try:
        return in_netns(fd, function, *args)
    finally:
        os.close(fd)


def set_sysctl(lab: Lab, role: str, **values: str) -> None:
    """Names with `__` for a dot."""
    for name, value in values.items():
        inside(lab, role, sysctl.write, name.replace("__", "."), value)


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}: {done.stdout}{done.stderr}"
    return done.stdout


# ---- servers -----------------------------------------------------------------------------------


ADDRESSES = {
    "ue": (ue4(), ue6()),
    "ap": (AP_LAN4, AP_LAN6, AP_WAN4, AP_WAN6),
    "cloud": (*CLOUDS4, *CLOUDS6),
}


def peer_command(
    name: str, port: int = PORT, bind: tuple[str, ...] = ("::",), more: int | None = None
) -> tuple[str, ...]:
    ports = str(port) if more is None else f"{port},{more}"
    return (sys.executable, "-I", "-S", PEERS, name, ports, *bind)


def start_peer(
    lab: Lab, role: str = "cloud", name: str = "cloud", port: int = PORT
) -> subprocess.Popen[Any]:
    """peers.py there, listening when this returns."""
    addresses = ADDRESSES[role]
    child = lab.popen(role, peer_command(name, port, addresses))
    wait_until(
        lambda: (
            lab.run(role, ["ss", "-Hltn", f"sport = {port}"]).stdout.count("LISTEN")
            >= len(addresses)
        ),
        f"{name} on {port}",
    )
    return child


def run(lab: Lab, name: str, targets: tuple[str, ...], *args: str, on: str = "wlan0") -> str:
    """`viscum run`; args: options, "--" and the command. Returns what it noted."""
    words = [word for target in targets for word in ("--target", target)]
    done = lab.viscum("run", "--name", name, "--on", on, *words, *args)
    ok(done)
    return done.stderr


def apply(lab: Lab, text: str) -> None:
    """`viscum apply` of one spec."""
    path = lab.directory / "spec.toml"
    path.write_text(text)
    ok(lab.viscum("apply", str(path)))


# ---- clients -----------------------------------------------------------------------------------


def ask(conn: socket.socket) -> list[str]:
    """[who answers, what address it sees] on a connected socket of either kind."""
    conn.send(b"who\n")
    return conn.recv(4096).decode().split()


def connect(lab: Lab, target: str, role: str = "ue", port: int = PORT) -> socket.socket:
    conn = sock(lab, role, target)
    conn.connect((target, port))
    return conn


def who(lab: Lab, target: str, role: str = "ue", port: int = PORT) -> str:
    """Who answers a new TCP connection; an error's name if nobody does."""
    try:
        with connect(lab, target, role, port) as conn:
            return ask(conn)[0]
    except OSError as error:
        return type(error).__name__


def who_udp(lab: Lab, target: str, role: str = "ue", port: int = PORT) -> str:
    """Who answers a new UDP flow."""
    try:
        with flow(lab, target, role, port, timeout=2.0) as sock:
            return ask(sock)[0]
    except OSError as error:
        return type(error).__name__


def flow(
    lab: Lab, target: str, role: str = "ue", port: int = PORT, timeout: float = TIMEOUT
) -> socket.socket:
    """A connected UDP socket: it takes answers only from the address it sends to."""
    made = sock(lab, role, target, DGRAM, timeout=timeout)
    made.connect((target, port))
    return made


def download(conn: socket.socket, size: int, seed: int = 1) -> str:
    """Gets it and compares every byte by checksum; who sent it."""
    conn.sendall(f"get {size} {seed}\n".encode())
    with conn.makefile("rb") as stream:
        name = stream.readline().decode().strip()
        digest, left = hashlib.sha256(), size
        while left:
            block = stream.read(min(left, BLOCK))
            assert block, f"ended {left} bytes early"
            digest.update(block)
            left -= len(block)
        said = stream.read(64).decode()
    own = hashlib.sha256()
    for block in content(seed, size):
        own.update(block)
    assert digest.hexdigest() == own.hexdigest() == said
    return name


def upload(conn: socket.socket, size: int, seed: int = 2) -> str:
    """Sends it; who got it, having compared checksums."""
    conn.sendall(f"put {size}\n".encode())
    digest = hashlib.sha256()
    for block in content(seed, size):
        digest.update(block)
        conn.sendall(block)
    name, said = conn.makefile("rb").readline().decode().split()
    assert said == digest.hexdigest()
    return name


BURST = 32  # datagrams in flight: fits every buffer on the way


def download_udp(conn: socket.socket, count: int, size: int) -> None:
    """count datagrams of size bytes, each one compared."""
    for first in range(0, count, BURST):
        number = min(BURST, count - first)
        conn.send(f"get 3 {first} {number} {size}".encode())
        for i in range(first, first + number):
            assert conn.recv(65535) == datagram(3, i, size)


def upload_udp(conn: socket.socket, count: int, size: int) -> str:
    """The same the other way; who got them."""
    conn.send(b"sync")
    assert conn.recv(4096).split()[1] == b"0"
    digest, said = hashlib.sha256(), [""]
    for first in range(0, count, BURST):
        for i in range(first, min(first + BURST, count)):
            data = b"put " + datagram(4, i, size - 4)
            digest.update(data)
            conn.send(data)
        conn.send(b"sync")
        said = conn.recv(4096).decode().split()
        assert said[1] == str(min(first + BURST, count)), "a datagram was lost"
    assert said[2] == digest.hexdigest()
    return said[0]
