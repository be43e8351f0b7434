"""sock_diag against the sockets themselves and `ss`; resets that hit only what was meant."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from kernel.conftest import NewSpace, Space
from support import need_kernel, wait_until
from viscum.kernel import sockets
from viscum.kernel.sockets import (
    CLOSE_WAIT,
    ESTABLISHED,
    FIN_WAIT2,
    SYN_RECV,
    TIME_WAIT,
    Listener,
    SockDiag,
    TcpFlow,
)
from viscum.kernel.syscalls import in_netns, pidfd_open

V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes what the test opened."""
    with ExitStack() as stack:
        yield stack


def _socket(space: Space, family: int, kind: int = STREAM) -> socket.socket:
    return in_netns(space.fd, socket.socket, family, kind)


def _server(
    space: Space, opened: ExitStack, family: int, address: str, port: int = 0, v6only: bool = False
) -> socket.socket:
    s = opened.enter_context(_socket(space, family))
    if family == V6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    s.bind((address, port))
    s.listen()
    return s


def _connect(
    space: Space, opened: ExitStack, server: socket.socket, address: str
) -> tuple[socket.socket, socket.socket]:
    """(client, accepted)"""
    client = opened.enter_context(_socket(space, V6 if ":" in address else V4))
    client.settimeout(10)
    client.connect((address, server.getsockname()[1]))
    accepted, _ = server.accept()
    accepted.settimeout(10)
    return client, opened.enter_context(accepted)


def _inode(s: socket.socket) -> int:
    return os.fstat(s.fileno()).st_ino


# ---- listeners ---------------------------------------------------------------------------------


def test_every_kind_of_listener_is_seen_as_it_was_bound(space: Space, opened: ExitStack) -> None:
    space.run("ip", "addr", "add", "203.0.113.7/32", "dev", "lo")
    bound = _server(space, opened, V4, "0.0.0.0", 85)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
    servers = {
        (6, "0.0.0.0", 80, False, 0): _server(space, opened, V4, "0.0.0.0", 80),
        (6, "203.0.113.7", 81, False, 0): _server(space, opened, V4, "203.0.113.7", 81),
        (6, "::", 82, False, 0): _server(space, opened, V6, "::", 82),
        (6, "::", 83, True, 0): _server(space, opened, V6, "::", 83, v6only=True),
        (6, "203.0.113.7", 84, False, 0): _server(space, opened, V6, "::ffff:203.0.113.7", 84),
        (6, "0.0.0.0", 85, False, 1): bound,
    }
    for family, address, port in ((V4, "0.0.0.0", 80), (V6, "::", 81), (V6, "::1", 82)):
        s = opened.enter_context(_socket(space, family, DATAGRAM))
        s.bind((address, port))
        servers[17, address, port, address == "::1", 0] = s  # the kernel: an address is v6only
    connected = opened.enter_context(_socket(space, V4, DATAGRAM))
    connected.connect(("127.0.0.1", 80))
    _connect(space, opened, servers[6, "0.0.0.0", 80, False, 0], "127.0.0.1")

    found = sockets.listeners(space.fd)
    seen = {(x.proto, str(x.address), x.port, x.v6only, x.bound_ifindex): x.inode for x in found}
    assert seen == {key: _inode(s) for key, s in servers.items()}
    assert len(found) == len(servers)
    lines = space.run("ss", "-H", "-l", "-n", "-t", "-u").stdout.splitlines()
    ports = {(line.split()[0], int(line.split()[4].rpartition(":")[2])) for line in lines}
    assert {({6: "tcp", 17: "udp"}[x.proto], x.port) for x in found} == ports


def test_a_listener_says_whose_cgroup_it_is(space: Space, opened: ExitStack) -> None:
    """The number is that of the v2 hierarchy's directory, so its inode is the oracle."""
    root = Path("/sys/fs/cgroup")
    root = root / "unified" if (root / "unified").is_dir() else root
    need_kernel("cgroup v2", (root / "cgroup.procs").exists())
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    _server(space, opened, V4, "127.0.0.1")
    (listener,) = sockets.listeners(space.fd)
    assert listener.cgroup_id == (root / own.lstrip("/")).stat().st_ino


def test_sockets_elsewhere_are_not_seen(space: Space) -> None:
    assert sockets.listeners(space.fd) == []
    assert sockets.tcp_flows(space.fd) == []


def test_many_sockets_are_dumped_whole(space: Space, opened: ExitStack) -> None:
    servers = [_server(space, opened, V4, "127.0.0.1") for _ in range(700)]
    found = sockets.listeners(space.fd)
    assert {x.inode for x in found} == {_inode(s) for s in servers}
    assert len(found) == 700


# ---- flows -------------------------------------------------------------------------------------


def _pairs(flows: list[TcpFlow]) -> set[tuple[int, str, int, str, int]]:
    return {(f.state, str(f.local), f.local_port, str(f.remote), f.remote_port) for f in flows}


def test_flows_of_each_family_are_seen_from_both_ends(space: Space, opened: ExitStack) -> None:
    dual = _server(space, opened, V6, "::")
    port = dual.getsockname()[1]
    expected = set()
    inodes = set()
    for address in ("127.0.0.1", "::1"):  # the first is IPv4 through a dual-stack socket
        client, accepted = _connect(space, opened, dual, address)
        other = client.getsockname()[1]
        expected.add((ESTABLISHED, address, other, address, port))
        expected.add((ESTABLISHED, address, port, address, other))
        inodes |= {_inode(client), _inode(accepted)}
    flows = sockets.tcp_flows(space.fd)
    assert _pairs(flows) == expected
    assert {f.inode for f in flows} == inodes


def test_what_is_left_in_time_wait_is_told_apart(space: Space, opened: ExitStack) -> None:
    server = _server(space, opened, V4, "127.0.0.1")
    client, accepted = _connect(space, opened, server, "127.0.0.1")
    tuple_ = (*client.getsockname(), *accepted.getsockname())
    client.close()
    assert accepted.recv(1) == b""
    accepted.close()
    (flow,) = wait_until(
        lambda: [f for f in sockets.tcp_flows(space.fd) if f.state == TIME_WAIT], "TIME_WAIT"
    )
    assert (str(flow.local), flow.local_port, str(flow.remote), flow.remote_port) == tuple_
    assert flow.inode == 0
    assert sockets.destroy(space.fd, lambda _: True) == 0


def _half_open(space: Space, opened: ExitStack, server: socket.socket, address: str) -> None:
    """A connection whose SYN-ACK never arrives, so that the server's side stays a request."""
    space.run(
        "nft",
        "add table inet vt; add chain inet vt in { type filter hook input priority 0; };"
        " add rule inet vt in tcp flags & (syn | ack) == syn | ack drop",
    )
    client = opened.enter_context(_socket(space, V6 if ":" in address else V4))
    client.setblocking(False)
    assert client.connect_ex((address, server.getsockname()[1])) == errno.EINPROGRESS


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_request_is_a_flow_and_can_be_ended(
    space: Space, opened: ExitStack, address: str
) -> None:
    server = _server(space, opened, V6, "::")
    _half_open(space, opened, server, address)

    def requests() -> list[TcpFlow]:
        return [f for f in sockets.tcp_flows(space.fd) if f.state == SYN_RECV]

    (request,) = wait_until(requests, "the request")
    assert request.local == ip_address(address)
    assert request.local_port == server.getsockname()[1]
    assert sockets.destroy(space.fd, lambda f: f.state == SYN_RECV) >= 1
    assert request.cookie not in {f.cookie for f in requests()}
    assert len(sockets.listeners(space.fd)) == 1


# ---- resets ------------------------------------------------------------------------------------


def _is_reset(s: socket.socket) -> bool:
    try:
        return s.recv(1) == b"?"
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.mark.req("N9")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_only_the_chosen_flows_are_reset(space: Space, opened: ExitStack, address: str) -> None:
    dual = _server(space, opened, V6, "::")
    chosen = [_connect(space, opened, dual, address) for _ in range(5)]
    spared = [_connect(space, opened, dual, address) for _ in range(3)]
    ports = {client.getsockname()[1] for client, _ in chosen}
    ended = sockets.destroy(
        space.fd, lambda f: f.remote == ip_address(address) and f.remote_port in ports
    )
    assert ended == 5
    for client, _ in chosen:
        assert _is_reset(client)
    for client, accepted in spared:
        accepted.sendall(b"still here")
        assert client.recv(100) == b"still here"
    # The listener is what it was.
    assert [x.port for x in sockets.listeners(space.fd)] == [dual.getsockname()[1]]
    _connect(space, opened, dual, address)


@pytest.mark.req("N9")
def test_choosing_everything_never_ends_a_listener(space: Space, opened: ExitStack) -> None:
    server = _server(space, opened, V4, "127.0.0.1")
    client, accepted = _connect(space, opened, server, "127.0.0.1")
    accepted.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert sockets.destroy(space.fd, lambda _: True) >= 1
    assert sockets.tcp_flows(space.fd) == []
    assert [x.inode for x in sockets.listeners(space.fd)] == [_inode(server)]
    _connect(space, opened, server, "127.0.0.1")


@pytest.mark.req("N9")
def test_a_flow_that_is_gone_does_not_lead_to_the_listener(space: Space, opened: ExitStack) -> None:
    """The kernel, asked for a 4-tuple it does not know, finds the listener: the cookie saves it."""
    server = _server(space, opened, V4, "127.0.0.1")
    port = server.getsockname()[1]
    gone = TcpFlow(
        state=ESTABLISHED,
        local=IPv4Address("127.0.0.1"),
        local_port=port,
        remote=IPv4Address("127.0.0.1"),
        remote_port=1,
        inode=0,
        ifindex=0,
        cookie=bytes(range(8)),
    )
    with SockDiag(space.fd) as diag:
        assert not diag._destroy(gone)
    assert [x.port for x in sockets.listeners(space.fd)] == [port]


# ---- waiting -----------------------------------------------------------------------------------

LISTEN = """
import socket, sys
sys.stdin.readline()
s = socket.create_server(("::1", 4433), family=socket.AF_INET6)
sys.stdin.readline()
"""


@pytest.fixture
def server(space: Space) -> Iterator[tuple[Space, subprocess.Popen[bytes]]]:
    """A process that listens after one line of input and ends after the next."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", LISTEN], stdin=subprocess.PIPE)

    process = in_netns(space.fd, start)
    yield space, process
    process.kill()
    process.communicate()


def _line(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def test_waiting_ends_when_the_server_listens(
    server: tuple[Space, subprocess.Popen[bytes]], opened: ExitStack
) -> None:
    space, process = server
    pidfd = pidfd_open(process.pid)
    opened.callback(os.close, pidfd)
    assert sockets.wait_listening(space.fd, pidfd, 0) == "timeout"
    _line(process)

    def ready(found: list[Listener]) -> bool:
        return any(x.port == 4433 and x.address == IPv6Address("::1") for x in found)

    assert sockets.wait_listening(space.fd, pidfd, 30, ready) == "listening"


def test_waiting_ends_when_the_server_does(
    server: tuple[Space, subprocess.Popen[bytes]], opened: ExitStack
) -> None:
    space, process = server
    pidfd = pidfd_open(process.pid)
    opened.callback(os.close, pidfd)
    _line(process)
    _line(process)
    assert sockets.wait_listening(space.fd, pidfd, 30, lambda _: False) == "exited"


def test_what_listens_after_its_parent_has_gone_is_seen(
    server: tuple[Space, subprocess.Popen[bytes]], opened: ExitStack
) -> None:
    """A server that puts itself into the background: its first process ends."""
    space, process = server
    pidfd = pidfd_open(process.pid)
    opened.callback(os.close, pidfd)
    process.kill()
    process.wait()
    _server(space, opened, V4, "127.0.0.1")
    assert sockets.wait_listening(space.fd, pidfd, 30) == "listening"


@pytest.mark.req("C7")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_survey_sees_what_each_namespace_has(
    new_space: NewSpace, opened: ExitStack, address: str
) -> None:
    quiet, busy = new_space(), new_space()
    for space in (quiet, busy):
        _server(space, opened, V4, "127.0.0.1", 81)
    server = _server(busy, opened, V6 if ":" in address else V4, address, 80)
    client, accepted = _connect(busy, opened, server, address)

    found = sockets.survey(["vt-none", quiet.name, busy.name])
    assert found.keys() == {quiet.name, busy.name}
    for space in (quiet, busy):
        assert set(found[space.name].listeners) == set(sockets.listeners(space.fd))
        assert found[space.name].tcp_flows == sockets.tcp_flows(space.fd)
    assert found[quiet.name].tcp_flows == []
    assert [f.state for f in found[busy.name].tcp_flows] == [ESTABLISHED] * 2

    client.close()  # its end is left in FIN_WAIT2, the other one in CLOSE_WAIT
    wait_until(
        lambda: {f.state for f in sockets.tcp_flows(busy.fd)} == {FIN_WAIT2, CLOSE_WAIT}, "a FIN"
    )
    assert sockets.survey([busy.name])[busy.name].tcp_flows == sockets.tcp_flows(busy.fd)
    server.close()
    accepted.close()  # what is left is no socket any more
    wait_until(lambda: [f.state for f in sockets.tcp_flows(busy.fd)] == [TIME_WAIT], "the end")
    assert sockets.survey([busy.name])[busy.name].tcp_flows == sockets.tcp_flows(busy.fd)
