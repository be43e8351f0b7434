"""The desired and the observed world, as plain data between store, plan, kernel and status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


# ---- what a director is asked for ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SteerInstance:
    """One instance as a director sees it: its host-side link and its namespace."""

    slot: int
    ifindex: int  # of the host-side link; 0: the link is not there
    nsid: int
    own4: IPv4Address | None = None
    own6: IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class SteerGeneration:
    """All instances started from one version of a spec; `accepting` ones take new flows."""

    number: int
    accepting: bool
    instances: tuple[SteerInstance, ...]


@dataclass(frozen=True, slots=True)
class SteerPort:
    """`first`-`last` of `proto` (6 or 17; 0 with first = last = 0: every protocol and port)."""

    proto: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class SteerService:
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


Steering = tuple[SteerService, ...]


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the service was made: bytes each way and packets by reason (enum v_reason's names)."""

    in_bytes: int = 0
    out_bytes: int = 0
    packets: Mapping[str, int] = field(default_factory=dict)
