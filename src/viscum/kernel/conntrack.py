"""The host's connection tracking, read-only, by ctnetlink: which UDP flows live right now.

Source: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from socket import AF_INET, AF_INET6, inet_ntop

from viscum import names
from viscum.kernel import netlink, nft
from viscum.kernel.netlink import get_be32
from viscum.kernel.nfnetlink import HEADER_SIZE, Netfilter, header

Flow = tuple[str, int, str, int]  # source, its port, destination, its port

TCP, UDP = 6, 17

_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_GET_STATS = 1 << 8 | 5
_CTA_TUPLE_ORIG, _CTA_FILTER, _CTA_FILTER_ORIG_FLAGS = 1, 25, 1
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_V4_SRC, _CTA_IP_V4_DST, _CTA_IP_V6_SRC, _CTA_IP_V6_DST = 1, 2, 3, 4
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_CTA_STATS_GLOBAL_ENTRIES = 1
_FILTER_PROTO_NUM = 1 << 3  # net/netfilter/nf_internals.h CTA_FILTER_F_CTA_PROTO_NUM
_TRACKING = {"ct", "nat", "masq", "redir", "conntrack", "state", "MASQUERADE", "SNAT", "DNAT"}
_VERSIONS = {"inet": {4, 6}, "ip": {4}, "ip6": {6}}
_LEGACY = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}
_LOADED = "/proc/sys/net/netfilter/nf_conntrack_max"


def available() -> bool:
    """Is there connection tracking on this machine? Asking by netlink would load the module."""
    return os.path.exists(_LOADED)


def count(netns_fd: int | None = None) -> int:
    """How many connections of every protocol are tracked in the namespace."""
    if not available():
        return 0
    with Netfilter(netns_fd) as nf:
        answer = nf.get(_GET_STATS, header(0), "connection tracking")[0].body
    return get_be32(netlink.parse(answer, HEADER_SIZE), _CTA_STATS_GLOBAL_ENTRIES)


def operated() -> set[int]:
    """The IP versions whose connections are tracked by the doing of somebody else's rules.

    Ours have them tracked too, but from the first service on: what was silent since is unknown.
    """
    found: set[int] = set()
    for rule in nft.rules():
        if rule.table != names.NFT_TABLE and rule.words & _TRACKING:
            found |= _VERSIONS.get(rule.family, set())
    for version, path in _LEGACY.items():
        try:
            with open(path) as file:
                if "nat" in file.read().split():
                    found.add(version)
        except OSError:
            pass
    return found


def flows(proto: int, netns_fd: int | None = None) -> Iterator[Flow]:
    """The original direction (what the client sent, before any NAT) of every flow of `proto`.

    Nothing if there is no connection tracking. Flows that begin or end meanwhile may be missing.
    """
    if not available():
        return
    # The kernel (since 5.8) picks out the protocol; an older one ignores that, hence the check.
    number = netlink.u8(_CTA_PROTO_NUM, proto)
    tuple_ = netlink.nest(_CTA_TUPLE_ORIG, netlink.nest(_CTA_TUPLE_PROTO, number))
    wanted = netlink.nest(_CTA_FILTER, netlink.u32(_CTA_FILTER_ORIG_FLAGS, _FILTER_PROTO_NUM))
    with Netfilter(netns_fd) as nf:
        for family in (AF_INET, AF_INET6):
            body = header(family) + tuple_ + wanted
            with suppress(InterruptedError):
                for message in nf.stream(_GET, body, "tracked connections"):
                    if flow := _flow(message.body, proto):
                        yield flow


def udp_flows(netns_fd: int | None = None) -> Iterator[Flow]:
    return flows(UDP, netns_fd)


def _flow(body: bytes, proto: int) -> Flow | None:
    original = netlink.parse(netlink.parse(body, HEADER_SIZE).get(_CTA_TUPLE_ORIG, b""))
    ports = netlink.parse(original.get(_CTA_TUPLE_PROTO, b""))
    if ports.get(_CTA_PROTO_NUM, b"\0")[0] != proto:
        return None
    ip = netlink.parse(original.get(_CTA_TUPLE_IP, b""))
    family = AF_INET if _CTA_IP_V4_SRC in ip else AF_INET6
    first = _CTA_IP_V4_SRC if family == AF_INET else _CTA_IP_V6_SRC
    source, destination = (inet_ntop(family, ip[kind]) for kind in (first, first + 1))
    sport, dport = (
        int.from_bytes(ports[kind], "big") for kind in (_CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT)
    )
    return source, sport, destination, dport
