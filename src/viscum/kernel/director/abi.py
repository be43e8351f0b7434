"""The structs of bpf/viscum.h from Python: plain values to bytes and back.

Native byte order as the kernel's, addresses and ports in network order. tests/abi compares sizes,
offsets and enum values with the compiled object's BTF.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address
from struct import Struct
from typing import NamedTuple

from viscum.model import Address, Counters, Histogram, Hold, Network, SteerService

ABI = 4
MAX_GENERATIONS = 4
MAX_INSTANCES = 8
MAX_INTERFACES = 8

ENABLED, DROP, QUIC, PING, SHARE_FLOW, HONOUR, CLIENTS = (1 << n for n in range(7))
ACCEPTING = 1 << 0
ALL = 1 << 32  # share: every new flow

DRY_RUN = (0x76697363, 0x756D2D64, 0x72792D72)
DRY_RUN_DONE = 0x756E2121

REASONS = (
    "miss", "iface", "client",
    "edge-established", "edge-request", "edge-time-wait", "edge-cookie", "edge-syn",
    "cloud-no-socket", "cloud-no-listener", "cloud-disabled", "cloud-share", "cloud-held",
    "cloud-syn-again", "cloud-away", "cloud-hung", "cloud-join",
    "edge-udp-new", "edge-udp", "edge-udp-connected",
    "cloud-udp", "cloud-udp-arming", "cloud-udp-no-socket", "cloud-udp-not-initial",
    "cloud-udp-full",
    "edge-icmp", "cloud-icmp", "edge-ping", "cloud-ping", "edge-fragment", "cloud-fragment",
    "cloud-dead", "cloud-other", "drop-down",
    "return", "return-stack", "return-source", "own-in", "own-out",
    "not-host",
)  # fmt: skip
BUCKETS = 24

U32 = Struct("=I")
HOLD = Struct("=QQQ")
ADDR = Struct("16s")
SERVICE = Struct(f"=IIQQQQIIIII4x{MAX_INTERFACES}I")  # then MAX_GENERATIONS × GENERATION
GENERATION = Struct("=IIII")  # then MAX_INSTANCES × INSTANCE
INSTANCE = Struct("=IiII")
PREFIX = Struct("=I16s")
PORT = Struct("=I2sBx")
CLIENT = Struct("=II16s")
LINK = Struct("=II16s16s")
FLOW_KEY = Struct("=16s16s2s2s4x")
FLOW = Struct("=QIIII")
CONFIG = Struct("=IIQ")
COUNTERS = Struct(f"={4 + len(REASONS) + 2 * (1 + BUCKETS)}Q")

NO_ADDRESS = bytes(16)
_MAPPED = bytes(10) + b"\xff\xff"


def address(value: Address | None) -> bytes:
    """16 bytes; IPv4 as ::ffff:a.b.c.d; none as zeros."""
    if value is None:
        return NO_ADDRESS
    return _MAPPED + value.packed if isinstance(value, IPv4Address) else value.packed


def plain(packed: bytes) -> Address:
    """Of 16 bytes as `address` makes them."""
    value = IPv6Address(packed)
    return value.ipv4_mapped or value


def port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def prefix_length(network: Network) -> int:
    """Of the mapped form: an IPv4 prefix counts 96 bits more."""
    return network.prefixlen + (96 if isinstance(network, IPv4Network) else 0)


def prefix(network: Network) -> bytes:
    """Key of the map `prefixes`."""
    return PREFIX.pack(prefix_length(network), address(network.network_address))


def client(sid: int, network: Network) -> bytes:
    """Key of the map `clients`."""
    return CLIENT.pack(32 + prefix_length(network), sid, address(network.network_address))


def service(want: SteerService, seed: int) -> bytes:
    """struct v_service. ValueError for more generations, instances or interfaces than fit."""
    # New flows of its own interfaces are worth more than old ones of those it gave up.
    served = (*want.interfaces, *want.held)[: max(MAX_INTERFACES, len(want.interfaces))]
    if len(want.generations) > MAX_GENERATIONS or len(served) > MAX_INTERFACES:
        raise ValueError(f"{want.name}: too many generations or interfaces for the director")
    flags = (
        ENABLED * want.enabled
        | DROP * want.drop_when_down
        | QUIC * want.quic_initial_only
        | PING * want.ping_edge
        | SHARE_FLOW * want.share_by_flow
        | HONOUR * want.honour_firewall
        | CLIENTS * bool(want.clients)
    )
    parts = [
        SERVICE.pack(
            want.sid, flags, share(want.share), want.until_ns, want.arm_until_ns,
            want.udp_idle_ns, want.udp_epoch, seed, len(want.generations), len(served),
            len(want.interfaces), *served, *[0] * (MAX_INTERFACES - len(served)),
        )
    ]  # fmt: skip
    for generation in want.generations:
        if len(generation.instances) > MAX_INSTANCES:
            raise ValueError(f"{want.name}: too many instances for the director")
        parts.append(
            GENERATION.pack(
                generation.number, ACCEPTING * generation.accepting, len(generation.instances), 0
            )
        )
        parts += [INSTANCE.pack(i.ifindex, i.nsid, i.slot, 0) for i in generation.instances]
        parts.append(bytes(INSTANCE.size * (MAX_INSTANCES - len(generation.instances))))
    whole = b"".join(parts)
    return whole.ljust(SERVICE_SIZE, b"\0")


SERVICE_SIZE = SERVICE.size + MAX_GENERATIONS * (GENERATION.size + MAX_INSTANCES * INSTANCE.size)


def share(percent: float) -> int:
    """Of 2**32 hash values those that go to the edge: a service's share, or what it is held at."""
    return int(ALL * percent / 100)


def hold(value: bytes) -> Hold:
    return Hold(*(100 * part / ALL for part in HOLD.unpack(value)))


class Flow(NamedTuple):
    """struct v_flow. last_ns: CLOCK_BOOTTIME."""

    last_ns: int
    sid: int
    slot: int
    edge: int
    epoch: int


def flow(value: bytes) -> Flow:
    return Flow(*FLOW.unpack(value))


def flow_key(client: Address, cport: int, target: Address, tport: int) -> bytes:
    """Key of the map `flows`, as the client sends."""
    return FLOW_KEY.pack(address(client), address(target), port(cport), port(tport))


def flow_target(key: bytes) -> Address:
    """The target in a key of the map `flows`."""
    return plain(FLOW_KEY.unpack(key)[1])


def counters(value: bytes) -> Counters:
    """Sums the CPUs' counters; reasons that never happened are left out."""
    sums = list(map(sum, zip(*COUNTERS.iter_unpack(value), strict=True)))
    connect = 4 + len(REASONS)
    rtt = connect + 1 + BUCKETS
    return Counters(
        *(sums[0], sums[1], sums[2], sums[3]),
        {reason: n for reason, n in zip(REASONS, sums[4:connect], strict=True) if n},
        Histogram(sums[connect], tuple(sums[connect + 1 : rtt])),
        Histogram(sums[rtt], tuple(sums[rtt + 1 :])),
    )


def hexadecimal(data: bytes) -> str:
    """As `bpftool map update … hex` reads it."""
    return data.hex(" ")
