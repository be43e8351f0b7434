"""A client, an access point and a cloud in namespaces, and services beside the access point.

    ue (10.1.0.2) ── wlan0 ap wan0 ── cloud (198.18.0.10 = TARGET4, .11)
                          ap vs1 ── service in slot 1 …

Bare on purpose: what the tests of the data path need and nothing that the code above it does.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, ParamSpec, Self, TypeVar

from msgspec.structs import replace

from viscum import names
from viscum.kernel.director import Explanation, explain
from viscum.kernel.director.ebpf import EbpfDirector
from viscum.kernel.syscalls import in_netns
from viscum.model import (
    Counters,
    Network,
    SteerGeneration,
    SteerInstance,
    SteerPort,
    SteerService,
)

P = ParamSpec("P")
T = TypeVar("T")

UE4, UE6 = "10.1.0.2", "2001:db8:1::2"
AP4, AP6 = "10.1.0.1", "2001:db8:1::1"
TARGET4, TARGET6 = "198.18.0.10", "2001:db8:c::10"
OTHER4, OTHER6 = "198.18.0.11", "2001:db8:c::11"  # the cloud's, not in `targets` by default
TARGETS: tuple[Network, ...] = (ip_network(TARGET4), ip_network(TARGET6))

# Seconds for a datagram to arrive. A link's carrier may come up late: then the first neighbour
# solicitation is lost, and sent again a second later.
WAIT = 5.0 if "VISCUM_VM" in os.environ else 2.5

_serial = itertools.count()


def own4(slot: int) -> IPv4Address:
    return IPv4Address("10.200.0.0") + 2 * slot + 1


def own6(slot: int) -> IPv6Address:
    return IPv6Address("2001:db8:2::") + 2 * slot + 1


def is6(address: str) -> bool:
    return ":" in address


def any_address(address: str) -> str:
    """Of the same version."""
    return "::" if is6(address) else "0.0.0.0"


class Topo:
    """Made at once; `close` takes everything away."""

    def __init__(self, attach: str = "auto", sizes: Mapping[str, int] | None = None) -> None:
        self.name = f"vt-{os.getpid()}-t{next(_serial)}"
        self.fds: dict[str, int] = {}
        self.socks: list[socket.socket] = []
        self.director = EbpfDirector(attach, sizes=sizes or {})
        self.last: tuple[SteerService, ...] = ()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- building

    def _build(self) -> None:
        ue, ap, cl = (self._namespace(n) for n in ("ue", "ap", "cl"))
        for short in self.fds:  # no link waits to see whether its own address is taken
            self.sysctl(short, **{"net/ipv6/conf/default/accept_dad": 0})
        self.sh(f"ip -n {ap} link add wlan0 type veth peer name eth0 netns {ue}")
        self.sh(f"ip -n {ap} link add wan0 type veth peer name eth0 netns {cl}")
        self.sysctl("ap", **{
            "net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1,
            "net/ipv4/conf/all/rp_filter": 0, "net/ipv4/conf/default/rp_filter": 0,
            "net/ipv4/conf/wlan0/rp_filter": 0, "net/ipv4/conf/wan0/rp_filter": 0,
        })  # fmt: skip
        self.batch(
            "ue",
            f"""addr add {UE4}/24 dev eth0
            addr add {UE6}/64 dev eth0 nodad
            link set eth0 up
            route add default via {AP4}
            route add default via {AP6}""",
        )
        self.batch(
            "ap",
            f"""addr add {AP4}/24 dev wlan0
            addr add {AP6}/64 dev wlan0 nodad
            link set wlan0 up
            addr add 198.18.0.1/24 dev wan0
            addr add 2001:db8:c::1/64 dev wan0 nodad
            link set wan0 up""",
        )
        self.batch(
            "cl",
            f"""addr add {TARGET4}/24 dev eth0
            addr add {OTHER4}/24 dev eth0
            addr add {TARGET6}/64 dev eth0 nodad
            addr add {OTHER6}/64 dev eth0 nodad
            link set eth0 up
            route add default via 198.18.0.1
            route add default via 2001:db8:c::1""",
        )
        self.wlan = self.index("ap", "wlan0")
        self.wlan_mac = self.mac("ap", "wlan0")

    def _namespace(self, short: str) -> str:
        full = f"{self.name}-{short}"
        self.sh(f"ip netns add {full}")
        self.fds[short] = os.open(f"/run/netns/{full}", os.O_RDONLY | os.O_CLOEXEC)
        self.sh(f"ip -n {full} link set lo up")
        return full

    def add_service(self, slot: int, targets: tuple[Network, ...] = TARGETS) -> str:
        """A namespace for the slot, connected as the product does it; its short name."""
        short, link, number = f"s{slot}", names.link(slot), names.number(slot)
        full = self._namespace(short)
        # else it asks for the host's MAC with a target as its source, which strict rp_filter drops
        self.sysctl(
            short, **{"net/ipv6/conf/default/accept_dad": 0, "net/ipv4/conf/all/arp_announce": 2}
        )
        self.sh(f"ip -n {self.name}-ap netns set {full} {number}")
        self.sh(
            f"ip -n {self.name}-ap link add {link} index {number} type veth"
            f" peer name eth0 netns {full}"
        )
        self.sysctl("ap", **{f"net/ipv4/conf/{link}/rp_filter": 0})
        self.batch(
            "ap",
            f"""addr add {own4(slot) - 1}/31 dev {link}
            addr add {own6(slot) - 1}/127 dev {link} nodad
            link set {link} up""",
        )
        hosts = [t.network_address for t in targets if t.prefixlen == t.max_prefixlen]
        mine = "\n".join(f"addr add {a} dev lo" + " nodad" * (a.version == 6) for a in hosts)
        self.batch(
            short,
            f"""addr add {own4(slot)}/31 dev eth0
            addr add {own6(slot)}/127 dev eth0 nodad
            link set eth0 up
            route add default via {own4(slot) - 1}
            route add default via {own6(slot) - 1}
            {mine}""",
        )
        return short

    def close(self) -> None:
        for sock in self.socks:
            sock.close()
        for short, fd in self.fds.items():
            os.close(fd)
            subprocess.run(["ip", "netns", "del", f"{self.name}-{short}"], check=False)
        self.fds.clear()

    # ---- commands

    def sh(self, command: str) -> str:
        return _run(command.split())

    def run(self, short: str, command: str) -> str:
        """A command in a namespace."""
        return _run(["nsenter", f"--net=/run/netns/{self.name}-{short}", *command.split()])

    def batch(self, short: str, lines: str) -> None:
        _run(["ip", "-n", f"{self.name}-{short}", "-batch", "-"], lines)

    def nft(self, short: str, rules: str) -> None:
        _run(["nsenter", f"--net=/run/netns/{self.name}-{short}", "nft", "-f", "-"], rules)

    def sysctl(self, short: str, **values: int) -> None:
        def write() -> None:
            for key, value in values.items():
                with open(f"/proc/sys/{key}", "w") as file:
                    file.write(str(value))

        self.inside(short, write)

    def inside(self, short: str, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return in_netns(self.fds[short], fn, *args, **kwargs)

    def index(self, short: str, link: str) -> int:
        return self.inside(short, socket.if_nametoindex, link)

    def mac(self, short: str, link: str) -> str:
        return _mac(self.sh(f"ip -n {self.name}-{short} link show {link}"))

    # ---- steering

    def service(self, **changes: Any) -> SteerService:
        """Slot 1, both targets, every port."""
        return replace(
            SteerService(
                sid=1, name="web", enabled=True, interfaces=(self.wlan,), targets=TARGETS,
                ports=(), clients=(), generations=(generation(1, 1),),
            ),
            **changes,
        )  # fmt: skip

    def steer(self, *services: SteerService) -> list[str]:
        """Plans and applies; what was done."""
        steps = self.inside("ap", self.director.plan, services, ())
        for step in steps:
            self.inside("ap", step.apply)
        self.last = services
        return [step.describe() for step in steps]

    def change(self, **changes: Any) -> list[str]:
        return self.steer(*(replace(s, **changes) for s in self.last))

    def counters(self, sid: int = 1) -> Counters:
        return self.inside("ap", self.director.counters)[sid]

    def since(self, sid: int = 1) -> Callable[[], dict[str, int]]:
        """What has been counted from now on, by reason."""
        before = self.counters(sid).packets

        def difference() -> dict[str, int]:
            now = self.counters(sid).packets
            return {k: n - before.get(k, 0) for k, n in now.items() if n != before.get(k, 0)}

        return difference

    def asked(self, text: str) -> Explanation:
        """What the director says of a packet that arrives at wlan0."""
        return self.answers([text])[0]

    def answers(self, texts: Iterable[str]) -> list[Explanation]:
        frames = [explain.parse(text).frame(self.wlan_mac) for text in texts]
        return self.inside(
            "ap", lambda: [self.director.explain(self.wlan, frame) for frame in frames]
        )

    def raw(self, packet: explain.Packet, times: int = 1, fresh_ports: bool = False) -> None:
        """Sends it from the client's namespace, whatever its source address (IPv4)."""
        sock = self.sock("ue", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        for n in range(times):
            if fresh_ports:
                packet = replace(packet, sport=1024 + n % 60000, seq=n + 1)
            sock.sendto(packet.frame("")[14:], (str(packet.dst), 0))

    # ---- sockets

    def sock(self, short: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        sock = self.inside(short, socket.socket, family, kind, protocol)
        self.socks.append(sock)
        sock.settimeout(3)
        return sock

    def listen(self, short: str, address: str, port: int = 80, backlog: int = 64) -> socket.socket:
        sock = self.sock(short, _family(address), socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if _family(address) == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(backlog)
        return sock

    def connect(
        self, address: str, port: int = 80, sport: int = 0, timeout: float = 3
    ) -> socket.socket:
        sock = self.sock("ue", _family(address), socket.SOCK_STREAM)
        sock.settimeout(timeout)
        if sport:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", sport))
        sock.connect((address, port))
        return sock

    def udp(self, short: str, address: str = "", port: int = 0) -> socket.socket:
        family = _family(address)
        sock = self.sock(short, family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port:
            sock.bind((address, port))
        return sock

    def udp_client(self, target: str, port: int = 443) -> socket.socket:
        sock = self.sock("ue", _family(target), socket.SOCK_DGRAM)
        sock.connect((target, port))
        return sock


def generation(number: int, *slots: int, accepting: bool = True) -> SteerGeneration:
    return SteerGeneration(
        number,
        accepting,
        tuple(SteerInstance(s, names.number(s), names.number(s), own4(s), own6(s)) for s in slots),
    )


def tcp(first: int, last: int = 0) -> SteerPort:
    return SteerPort(6, first, last or first)


def udp(first: int, last: int = 0) -> SteerPort:
    return SteerPort(17, first, last or first)


def accepted(
    socks: dict[str, socket.socket], timeout: float = 3
) -> tuple[str, socket.socket | None]:
    """Which listener has a connection, and the connection; "nobody" if none has."""
    ready, _, _ = select.select(list(socks.values()), [], [], timeout)
    if not ready:
        return "nobody", None
    name = next(n for n, s in socks.items() if s is ready[0])
    conn, _ = ready[0].accept()
    conn.settimeout(3)
    return name, conn


def received(socks: dict[str, socket.socket], timeout: float = WAIT) -> tuple[str, bytes, Any]:
    """Which socket has a datagram, the datagram, and from where; "nobody" if none has."""
    ready, _, _ = select.select(list(socks.values()), [], [], timeout)
    if not ready:
        return "nobody", b"", None
    name = next(n for n, s in socks.items() if s is ready[0])
    data, sender = ready[0].recvfrom(65536)
    return name, data, sender


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _mac(shown: str) -> str:
    words = shown.split()
    return words[words.index("link/ether") + 1]


def _run(argv: list[str], stdin: str = "") -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(argv)}: {done.stderr or done.stdout}")
    return done.stdout
