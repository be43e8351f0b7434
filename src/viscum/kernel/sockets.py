"""The sockets of a namespace by sock_diag: who listens, which flows live, and ending them.

Source: linux/inet_diag.h, linux/sock_diag.h, sock_diag(7).
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import Literal

import msgspec

from viscum.kernel import netlink, netns
from viscum.kernel.knobs import read
from viscum.kernel.netlink import Netlink
from viscum.kernel.syscalls import CLONE_NEWNET, in_thread, setns

Ip = IPv4Address | IPv6Address

TCP, UDP = 6, 17

# include/net/tcp_states.h
ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT = 1, 2, 3, 4, 5, 6
CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = 7, 8, 9, 10, 11
_FLOWS = 0xFFF & ~(1 | 1 << CLOSE | 1 << LISTEN)

_NETLINK_SOCK_DIAG = 4
_TCPDIAG_GETSOCK = 18
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_INET_DIAG_SKV6ONLY = 11
_INET_DIAG_CGROUP_ID = 21
_INET_DIAG_NOCOOKIE = b"\xff" * 8

# inet_diag_req_v2: family, protocol, ext, states, then inet_diag_sockid
_REQUEST = Struct("=BBBxI")
# inet_diag_req: family, lengths, ext, then inet_diag_sockid, states, dbs
_TCP_REQUEST = Struct("=BBBB48xII")
_SOCKID = Struct("=2s2s16s16sI8s")  # ports, addresses, interface, cookie
_ANY = _SOCKID.pack(b"", b"", b"", b"", 0, _INET_DIAG_NOCOOKIE)
# inet_diag_msg: family, state, timer, retrans, sockid, expires, rqueue, wqueue, uid, inode
_MESSAGE = Struct("=BBBB2s2s16s16sI8sIIIII")

_DESTROY_ROUNDS = 10
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.001, 0.05


class Listener(msgspec.Struct, frozen=True):
    """A TCP listener or an unconnected UDP socket.

    proto: 6 or 17; address: as bound (``::`` takes IPv4 too unless v6only; ``::ffff:a.b.c.d`` is
    shown as IPv4); bound_ifindex: of SO_BINDTODEVICE, 0 if none; cgroup_id: of the v2 hierarchy,
    None if the kernel does not say.
    """

    proto: int
    address: Ip
    port: int
    inode: int
    v6only: bool
    bound_ifindex: int
    cgroup_id: int | None


class TcpFlow(msgspec.Struct, frozen=True):
    """A TCP socket that does not listen; IPv4 through a dual-stack socket is shown as IPv4.

    state: ESTABLISHED …; SYN_RECV: a request that has no socket of its own yet; TIME_WAIT, and
    FIN_WAIT2 with inode 0: only a remainder is left. cookie: the kernel's name for this very one.
    """

    state: int
    local: Ip
    local_port: int
    remote: Ip
    remote_port: int
    inode: int
    ifindex: int
    cookie: bytes


class Sockets(msgspec.Struct, frozen=True):
    """What there is in a namespace."""

    listeners: list[Listener]
    tcp_flows: list[TcpFlow]


Outcome = Literal["listening", "exited", "timeout"]


class SockDiag(Netlink):
    """One NETLINK_SOCK_DIAG socket inside a namespace; a context manager."""

    def __init__(self, netns_fd: int | None = None) -> None:
        super().__init__(_NETLINK_SOCK_DIAG, netns_fd)

    def listeners(self) -> list[Listener]:
        found = []
        for proto, sockets in ((TCP, self._tcp(1 << LISTEN)), (UDP, self._udp())):
            for data in sockets:
                f = _MESSAGE.unpack_from(data)
                a = netlink.parse(data, _MESSAGE.size)
                cgroup = a.get(_INET_DIAG_CGROUP_ID)
                found.append(
                    Listener(
                        proto=proto,
                        address=_ip(f[0], f[6]),
                        port=int.from_bytes(f[4], "big"),
                        inode=f[14],
                        v6only=a.get(_INET_DIAG_SKV6ONLY, b"\0") != b"\0",
                        bound_ifindex=f[8],
                        cgroup_id=int.from_bytes(cgroup, netlink.NATIVE) if cgroup else None,
                    )
                )
        return found

    def tcp_flows(self) -> list[TcpFlow]:
        found = []
        for data in self._tcp(_FLOWS):
            f = _MESSAGE.unpack_from(data)
            found.append(
                TcpFlow(
                    state=f[1],
                    local=_ip(f[0], f[6]),
                    local_port=int.from_bytes(f[4], "big"),
                    remote=_ip(f[0], f[7]),
                    remote_port=int.from_bytes(f[5], "big"),
                    inode=f[14],
                    ifindex=f[8],
                    cookie=f[9],
                )
            )
        return found

    def destroy(self, select: Callable[[TcpFlow], bool]) -> int:
        """Ends every flow that `select` accepts; both sides get a reset. Returns how many.

        Never a listener: sockets are named by their cookie, and a flow that is gone or has become
        another socket meanwhile is looked for again, until none is left. TIME_WAIT is left alone:
        there is nobody to tell. OSError(EOPNOTSUPP) if the kernel has no INET_DIAG_DESTROY.
        """
        ended: set[tuple[Ip, int, Ip, int]] = set()
        for _ in range(_DESTROY_ROUNDS):
            chosen = [f for f in self.tcp_flows() if f.state != TIME_WAIT and select(f)]
            if not chosen:
                break
            for flow in chosen:
                if self._destroy(flow):
                    ended.add((flow.local, flow.local_port, flow.remote, flow.remote_port))
        return len(ended)

    def _destroy(self, flow: TcpFlow) -> bool:
        """False if it was gone already."""
        family = socket.AF_INET if flow.local.version == 4 else socket.AF_INET6
        ports = (n.to_bytes(2, "big") for n in (flow.local_port, flow.remote_port))
        sockid = _SOCKID.pack(
            *ports, flow.local.packed, flow.remote.packed, flow.ifindex, flow.cookie
        )
        body = _REQUEST.pack(family, TCP, 0, 1 << flow.state) + sockid
        try:
            self.request(_SOCK_DESTROY, 0, body, f"flow from {flow.remote}:{flow.remote_port}")
        except OSError as e:
            if e.errno in (errno.ENOENT, errno.ESTALE):
                return False
            raise
        return True

    def _tcp(self, states: int) -> list[bytes]:
        """By the older request, which alone answers for both families at once: looking for flows
        costs a walk over the machine's whole table of connections (1.3 ms for 262,144 buckets)."""
        body = _TCP_REQUEST.pack(socket.AF_INET, 0, 0, 0, states, 0)
        return [m.body for m in self.dump(_TCPDIAG_GETSOCK, body, "sockets")]

    def _udp(self) -> list[bytes]:
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _REQUEST.pack(family, UDP, 0, 1 << CLOSE) + _ANY
            try:
                found += self.dump(_SOCK_DIAG_BY_FAMILY, body, "sockets")
            except OSError as e:
                if e.errno != errno.ENOENT:  # a kernel without this family or protocol
                    raise
        return [m.body for m in found]


class Sole:
    """A name that one process at a time holds in this network namespace, for as long as it lives.

    An abstract Unix socket: nothing is left of it, however the process ends (unix(7)). Raises
    OSError EADDRINUSE if another one holds it.
    """

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.bind(f"\0{name}")
            self._socket.listen()
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()


def holder(name: str) -> int | None:
    """The pid of the process that holds the name (Sole); None if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(f"\0{name}")
        except OSError:
            return None
        credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[:4], netlink.NATIVE)


def listeners(netns_fd: int | None = None) -> list[Listener]:
    with SockDiag(netns_fd) as diag:
        return diag.listeners()


def tcp_flows(netns_fd: int | None = None) -> list[TcpFlow]:
    with SockDiag(netns_fd) as diag:
        return diag.tcp_flows()


def survey(names: Iterable[str]) -> dict[str, Sockets]:
    """Of many namespaces, by name; those that are not there are left out.

    One thread joins one after the other. The table of connections is walked only where the
    namespace has more TCP sockets than listeners; a half-open connection (SYN_RECV) alone is not
    counted as one, so it may be overlooked while there is no other.
    """
    return in_thread(_survey, tuple(names))


def _survey(names: tuple[str, ...]) -> dict[str, Sockets]:
    found = {}
    for name in names:
        try:
            with netns.opened(name) as fd:
                setns(fd, CLONE_NEWNET)
        except FileNotFoundError:
            continue
        with SockDiag() as diag:
            listeners = diag.listeners()
            more = _hashed() != sum(s.proto == TCP for s in listeners)
            found[name] = Sockets(listeners, diag.tcp_flows() if more else [])
    return found


def _hashed() -> int:
    """TCP sockets of the calling thread's namespace: listeners, open connections, TIME_WAIT."""
    count = 0
    for file in ("sockstat", "sockstat6"):
        try:
            text = read(f"/proc/thread-self/net/{file}")
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in text.splitlines():
            name, *words = line.split()
            if name in ("TCP:", "TCP6:"):
                count += sum(int(words[words.index(w) + 1]) for w in ("inuse", "tw") if w in words)
    return count


def destroy(netns_fd: int | None, select: Callable[[TcpFlow], bool]) -> int:
    """See SockDiag.destroy."""
    with SockDiag(netns_fd) as diag:
        return diag.destroy(select)


def wait_listening(
    netns_fd: int,
    pidfd: int,
    timeout: float,
    ready: Callable[[list[Listener]], bool] = bool,
) -> Outcome:
    """Waits until `ready` accepts the namespace's listeners (default: there is one).

    "exited" if the process ends before that, "timeout" after `timeout` seconds. The kernel tells
    nobody when a socket starts to listen, so it is asked again and again: after 1 ms at first,
    every 50 ms later; the end of the process is an event.
    """
    deadline = time.monotonic() + timeout
    process = select.poll()
    process.register(pidfd, select.POLLIN)
    wait = _FIRST_WAIT_S
    with SockDiag(netns_fd) as diag:
        while True:
            # In this order: what listened before the process ended is not missed.
            exited = bool(process.poll(0))
            if ready(diag.listeners()):
                return "listening"
            if exited:
                return "exited"
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout"
            process.poll(max(1, int(min(wait, left) * 1000)))
            wait = min(wait * 1.5, _LONGEST_WAIT_S)


def _ip(family: int, raw: bytes) -> Ip:
    if family == socket.AF_INET:
        return IPv4Address(raw[:4])
    address = IPv6Address(raw)
    return address.ipv4_mapped or address
