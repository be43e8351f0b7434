"""The desired and the observed world, as plain data between store, plan, kernel and status."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import zip_longest

from msgspec import Struct, field

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


# ---- what a director is asked for ------------------------------------------------------------


class SteerInstance(Struct, frozen=True):
    """One instance as a director sees it: its host-side link and its namespace."""

    slot: int
    ifindex: int  # of the host-side link; 0: the link is not there
    nsid: int
    own4: Address | None = None
    own6: Address | None = None


class SteerGeneration(Struct, frozen=True):
    """All instances started from one version of a spec; `accepting` ones take new flows."""

    number: int
    accepting: bool
    instances: tuple[SteerInstance, ...]


class SteerPort(Struct, frozen=True):
    """`first`-`last` of `proto` (6 or 17; 0 with first = last = 0: every protocol and port)."""

    proto: int
    first: int
    last: int


class SteerService(Struct, frozen=True):
    """What one service wants of a director. Generations newest first."""

    sid: int
    name: str
    enabled: bool
    interfaces: tuple[int, ...]  # ifindexes of the client interfaces
    targets: tuple[Network, ...]  # /32 and /128 are hosts, shorter ones prefixes
    ports: tuple[SteerPort, ...]  # empty: all
    clients: tuple[Network, ...]  # empty: all
    generations: tuple[SteerGeneration, ...]
    share: int = 100  # percent
    share_by_flow: bool = False
    drop_when_down: bool = False
    honour_firewall: bool = False
    quic_initial_only: bool = False
    ping_edge: bool = False
    udp_idle_ns: int = 60_000_000_000
    udp_epoch: int = 0
    arm_until_ns: int = 0  # CLOCK_BOOTTIME
    until_ns: int = 0  # CLOCK_BOOTTIME; 0: for ever; then `enabled` turns into its opposite
    held: tuple[int, ...] = ()  # ifindexes where flows go on that are there, and none begins


Steering = tuple[SteerService, ...]


class Hold(Struct, frozen=True):
    """The most a controller lets a service have of new flows, in percent: 100 is all of `share`."""

    load: float = 100.0  # because of the box's load
    health: float = 100.0  # because of the service's own health: 0 or 100
    quota: float = 100.0  # because its tenant has as many flows as it may: 0 or 100

    @property
    def share(self) -> float:
        return min(self.load, self.health, self.quota)


FREE = Hold()


class Histogram(Struct, frozen=True):
    """How long things took. counts[n]: how many took less than 2**n microseconds and not less than
    2**(n-1); the last one also holds what took longer. sum_us: of all, in microseconds."""

    sum_us: int = 0
    counts: tuple[int, ...] = ()

    def __add__(self, other: Histogram) -> Histogram:
        both = zip_longest(self.counts, other.counts, fillvalue=0)
        return Histogram(self.sum_us + other.sum_us, tuple(a + b for a, b in both))

    def __sub__(self, before: Histogram) -> Histogram:
        """What has come since."""
        return self + Histogram(-before.sum_us, tuple(-n for n in before.counts))

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, part: float) -> float | None:
        """Seconds within which `part` (0 … 1) of all ended, evenly spread inside a bucket, as
        Prometheus has it; None: nothing ended."""
        left = part * self.count
        for n, count in enumerate(self.counts):
            if count and left <= count:
                low, high = 1 << n >> 1, 1 << n
                return (low + (high - low) * max(left, 0) / count) / 1e6
            left -= count
        return None


class Counters(Struct, frozen=True):
    """Since the service was made: bytes of clients' flows each way, bytes of the server's own flows
    to others, packets by reason (enum v_reason's names), and how long handshakes took.

    connect: from a client's SYN to the server's SYN-ACK; rtt: from there to the client's ACK.
    """

    in_bytes: int = 0
    out_bytes: int = 0
    own_in_bytes: int = 0
    own_out_bytes: int = 0
    packets: Mapping[str, int] = field(default_factory=dict)
    connect: Histogram = Histogram()
    rtt: Histogram = Histogram()

    def __add__(self, other: Counters) -> Counters:
        packets = dict(self.packets)
        for reason, n in other.packets.items():
            packets[reason] = packets.get(reason, 0) + n
        return Counters(
            self.in_bytes + other.in_bytes,
            self.out_bytes + other.out_bytes,
            self.own_in_bytes + other.own_in_bytes,
            self.own_out_bytes + other.own_out_bytes,
            packets,
            self.connect + other.connect,
            self.rtt + other.rtt,
        )


# ---- the inside of a service's namespace, and what is ours on the host -----------------------


class InnerRoute(Struct, frozen=True):
    """`dst` None: the default route. `local`: every address of `dst` is the namespace's own."""

    family: int
    dst: Network | None
    table: int
    via: Address | None = None
    src: Address | None = None
    local: bool = False


class InnerRule(Struct, frozen=True):
    family: int
    pref: int
    table: int
    iif: str | None = None


class Inner(Struct, frozen=True):
    """Addresses as (link, "address/length"), routes, rules and links that are up."""

    addresses: frozenset[tuple[str, str]] = frozenset()
    routes: frozenset[InnerRoute] = frozenset()
    rules: frozenset[InnerRule] = frozenset()
    up: frozenset[str] = frozenset()


class HostRule(Struct, frozen=True):
    """A routing rule of ours on the host (protocol names.PROTO), for `firewall = "honour"`."""

    family: int
    pref: int
    fwmark: int
    iif: str
    table: int


class HostRoute(Struct, frozen=True):
    """default via `via` dev `oif` in `table` (protocol names.PROTO)."""

    family: int
    table: int
    via: Address
    oif: str


class HostLink(Struct, frozen=True):
    """A link in the host's namespace."""

    ifindex: int
    name: str
    kind: str
    mtu: int
    up: bool
    alias: str
    nsid: int | None
    mac: str = ""
    has_default: bool = False  # a default route leaves by it
    uplink: bool = False  # so does one of any table, or half of one (0.0.0.0/1, as VPNs set)
    networks: tuple[Network, ...] = ()  # its connected networks
    behind: tuple[Network, ...] = ()  # networks that a gateway on it leads to, but the default
    addresses: tuple[Address, ...] = ()


class Group(Struct, frozen=True):
    """A cgroup of ours: whether processes live in it, and its limits as the kernel has them."""

    populated: bool
    cpu: float | None = None  # CPUs
    memory: int | None = None  # bytes
    processes: int | None = None


class Observed(Struct, frozen=True):
    """One snapshot of the host: what is ours, and what it must not clash with."""

    links: Mapping[str, HostLink]
    namespaces: Mapping[str, int | None]  # ours by name -> netns id as seen from here
    inner: Mapping[str, Inner]  # by namespace name; only those that were asked for
    groups: Mapping[
        str, Group
    ]  # our cgroups by "service/generation.instance"; childless ones above
    rules: frozenset[HostRule]
    routes: frozenset[HostRoute]
    networks: tuple[Network, ...]  # every destination the host's main table routes, but default
    nft: str | None  # comment of our table (the digest of its rules), None: no table
    nsids: frozenset[int] = frozenset()  # in use here, also of namespaces without a name
