"""The desired and the observed world, as plain data between store, plan, kernel and status."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

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


class Counters(Struct, frozen=True):
    """Since the service was made: bytes each way and packets by reason (enum v_reason's names)."""

    in_bytes: int = 0
    out_bytes: int = 0
    packets: Mapping[str, int] = field(default_factory=dict)


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
