"""Links, addresses, routes, rules and namespace ids by rtnetlink (tc: see tc.py).

Plain data out, plain data in: what a dump returns can be given to add or delete.
Source: linux/rtnetlink.h, linux/if_link.h, linux/fib_rules.h, linux/net_namespace.h, rtnetlink(7).
"""

from __future__ import annotations

import errno
import socket
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from struct import Struct

import msgspec

from viscum.kernel import netlink
from viscum.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    get_s32,
    get_text,
    get_u32,
)
from viscum.kernel.tc import BpfFilter, Qdisc, Tc

__all__ = ["Address", "BpfFilter", "Link", "Qdisc", "Route", "Rtnl", "Rule"]

Ip = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

MAIN_TABLE, LOCAL_TABLE = 254, 255
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_HOST = 0, 253, 254
RTN_UNICAST, RTN_LOCAL, RTN_BLACKHOLE, RTN_UNREACHABLE = 1, 2, 6, 7
RTPROT_BOOT, RTPROT_STATIC = 3, 4
FR_ACT_TO_TBL = 1
ARPHRD_ETHER, ARPHRD_NONE, ARPHRD_LOOPBACK = 1, 0xFFFE, 772

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWNEIGH, _NDA_DST, _NDA_LLADDR, _NUD_PERMANENT = 28, 1, 2, 0x80  # linux/neighbour.h
_RTM_NEWRULE, _RTM_DELRULE, _RTM_GETRULE = 32, 33, 34
_RTM_NEWNSID, _RTM_GETNSID = 88, 90

_IFINFOMSG = Struct("=BxHiII")  # family, type, index, flags, change
_IFADDRMSG = Struct("=BBBBI")  # family, prefixlen, flags, scope, index
_NDMSG = Struct("=BBHiHBB")  # family, pads, index, state, flags, type
_RTMSG = Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, proto, scope, type, flags
_RTGENMSG = b"\0\0\0\0"

_IFF_UP = 1
_IFF_NOARP = 1 << 7
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_NET_NS_FD = 16, 18, 20, 28
_IFLA_EXT_MASK, _IFLA_LINK_NETNSID, _IFLA_ALT_IFNAME = 29, 37, 53
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_RTEXT_FILTER_SKIP_STATS = 1 << 3
_OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")

_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
IFA_F_NODAD, IFA_F_TENTATIVE = 0x02, 0x40

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 5, 6, 7
_RTA_MULTIPATH, _RTA_TABLE, _RTA_MARK, _RTA_VIA, _RTA_IIF, _RTA_SRC = 9, 15, 16, 18, 3, 2
_RTNEXTHOP = Struct("=HBBi")  # len, flags, hops, ifindex

_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK = 1, 2, 3, 6, 10
_FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME, _FRA_PROTOCOL = 15, 16, 17, 21

_NETNSA_NSID, _NETNSA_FD = 1, 3


class Link(msgspec.Struct, frozen=True):
    """One network device.

    kind: "veth", "bridge", …, "" for hardware; nsid: the namespace its peer (or lower device) is
    in, as seen from here, None if here; master: ifindex of its bridge, 0 if none; peer_ifindex:
    the peer's (or lower device's) number *in its namespace*; operstate as in RFC 2863; type:
    ARPHRD_*.
    """

    ifindex: int
    name: str
    kind: str
    mtu: int
    up: bool
    alias: str
    mac: str
    nsid: int | None
    master: int
    peer_ifindex: int
    operstate: str
    type: int


class Address(msgspec.Struct, frozen=True):
    """An address of a link; flags are IFA_F_*."""

    ifindex: int
    address: Interface
    scope: int
    flags: int


class Route(msgspec.Struct, frozen=True):
    """One route. proto: who made it (rtm_protocol); scope: IPv4 only, SCOPE_LINK without a via;
    priority: the metric (IPv6 without one gets 1024). Of several next hops the first is shown."""

    dst: Network
    via: Ip | None = None
    src: Ip | None = None
    oif: int = 0
    table: int = MAIN_TABLE
    proto: int = RTPROT_STATIC
    type: int = RTN_UNICAST
    scope: int = SCOPE_UNIVERSE
    priority: int = 0

    @property
    def family(self) -> int:
        return socket.AF_INET if self.dst.version == 4 else socket.AF_INET6


class Rule(msgspec.Struct, frozen=True):
    """One policy rule; src and dst None: any."""

    family: int
    pref: int
    table: int
    iif: str = ""
    oif: str = ""
    fwmark: int = 0
    fwmask: int = 0
    src: Network | None = None
    dst: Network | None = None
    proto: int = 0
    action: int = FR_ACT_TO_TBL


class Rtnl(Tc):
    """One NETLINK_ROUTE socket in the caller's namespace or in `netns_fd`; a context manager."""

    def __init__(self, netns_fd: int | None = None) -> None:
        super().__init__(0, netns_fd)

    # ---- links

    def links(self) -> list[Link]:
        body = _IFINFOMSG.pack(0, 0, 0, 0, 0)
        body += netlink.u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
        return [_link(m.body) for m in self.dump(_RTM_GETLINK, body, "links")]

    def link(self, name: str | int) -> Link | None:
        """By name (also an alternative one) or ifindex."""
        if isinstance(name, int):
            body = _IFINFOMSG.pack(0, 0, name, 0, 0)
        else:
            kind = _IFLA_IFNAME if len(name) < 16 else _IFLA_ALT_IFNAME
            body = _IFINFOMSG.pack(0, 0, 0, 0, 0) + netlink.text(kind, name)
        body += netlink.u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
        try:
            return _link(self.get(_RTM_GETLINK, body, f"link {name}")[0].body)
        except OSError as e:
            if e.errno == errno.ENODEV:
                return None
            raise

    def add_veth(
        self,
        name: str,
        peer_name: str,
        peer_netns_fd: int,
        mtu: int = 0,
        alias: str = "",
        ifindex: int = 0,
        mac: str = "",
        peer_mac: str = "",
    ) -> None:
        """A pair: `name` here, `peer_name` in the other namespace, both down. mtu 0: 1500.

        ifindex: the number `name` is to have (0: the kernel's choice); mac, peer_mac: likewise
        ("": the kernel's choice).

        Sets the alias in a second step: RTM_NEWLINK takes it only for a device that exists.
        """
        size = netlink.u32(_IFLA_MTU, mtu) if mtu else b""
        zeros = _IFINFOMSG.pack(0, 0, 0, 0, 0)
        fd = netlink.u32(_IFLA_NET_NS_FD, peer_netns_fd)
        peer = zeros + netlink.text(_IFLA_IFNAME, peer_name) + fd + size + _mac(peer_mac)
        data = netlink.nest(_IFLA_INFO_DATA, netlink.attr(_VETH_INFO_PEER, peer))
        info = netlink.nest(_IFLA_LINKINFO, netlink.text(_IFLA_INFO_KIND, "veth"), data)
        wanted = _IFINFOMSG.pack(0, 0, ifindex, 0, 0)
        body = wanted + netlink.text(_IFLA_IFNAME, name) + size + _mac(mac) + info
        self.request(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"add link {name}")
        if alias:
            named = netlink.text(_IFLA_IFNAME, name)
            body = zeros + named + netlink.attr(_IFLA_IFALIAS, alias.encode())
            self.request(_RTM_NEWLINK, 0, body, f"alias of link {name}")

    def set_link(
        self,
        ifindex: int,
        up: bool | None = None,
        mtu: int | None = None,
        alias: str | None = None,
        name: str | None = None,
        arp: bool | None = None,
    ) -> None:
        """Changes only what is given. arp: whether it asks for neighbours, also those of IPv6."""
        change = (0 if up is None else _IFF_UP) | (0 if arp is None else _IFF_NOARP)
        flags = (_IFF_UP if up else 0) | (_IFF_NOARP if arp is False else 0)
        body = _IFINFOMSG.pack(0, 0, ifindex, flags, change)
        if mtu is not None:
            body += netlink.u32(_IFLA_MTU, mtu)
        if alias is not None:
            body += netlink.attr(_IFLA_IFALIAS, alias.encode() or b"\0")
        if name is not None:
            body += netlink.text(_IFLA_IFNAME, name)
        self.request(_RTM_NEWLINK, 0, body, f"change link {name or ifindex}")

    def delete_link(self, ifindex: int) -> None:
        body = _IFINFOMSG.pack(0, 0, ifindex, 0, 0)
        self.request(_RTM_DELLINK, 0, body, f"delete link {ifindex}")

    # ---- addresses

    def addresses(self, ifindex: int = 0) -> list[Address]:
        """Of one link, or of all; both families."""
        found = []
        for m in self.dump(_RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0), "addresses"):
            family, length, flags, scope, index = _IFADDRMSG.unpack_from(m.body)
            if family not in _FAMILIES or (ifindex and index != ifindex):
                continue
            attributes = netlink.parse(m.body, _IFADDRMSG.size)
            raw = attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]
            flags = get_u32(attributes, _IFA_FLAGS, flags)
            found.append(Address(index, _interface(raw, length), scope, flags))
        return found

    def add_address(self, ifindex: int, address: Interface) -> None:
        """IPv6 without duplicate address detection: usable as a source at once, and as a
        destination when the kernel's worker has made its local route, a moment later (`route_get`
        then says RTN_LOCAL). FileExistsError if it is there."""
        body = _address(ifindex, address)
        flags = NLM_F_CREATE | NLM_F_EXCL
        self.request(_RTM_NEWADDR, flags, body, f"add address {address} to link {ifindex}")

    def delete_address(self, ifindex: int, address: Interface) -> None:
        body = _address(ifindex, address)
        self.request(_RTM_DELADDR, 0, body, f"delete address {address} from link {ifindex}")

    # ---- neighbours

    def set_neighbour(self, ifindex: int, address: Ip, mac: str) -> None:
        """A permanent entry: nobody is asked for this address on that link."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        body = _NDMSG.pack(family, 0, 0, ifindex, _NUD_PERMANENT, 0, 0)
        body += netlink.attr(_NDA_DST, address.packed)
        body += netlink.attr(_NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
        flags = NLM_F_CREATE | NLM_F_REPLACE
        self.request(_RTM_NEWNEIGH, flags, body, f"neighbour {address} on link {ifindex}")

    # ---- routes

    def routes(self, table: int | None = None, *, proto: int | None = None) -> list[Route]:
        """Of one table or of all of them, both families; only those of a protocol, if given."""
        found = []
        for family in _FAMILIES:
            body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            if table is not None:
                body += netlink.u32(_RTA_TABLE, table)
            try:
                messages = self.dump(_RTM_GETROUTE, body, "routes")
            except OSError as e:
                if e.errno != errno.ENOENT:  # no such table
                    raise
                continue
            # A kernel without IPv6 answers with everything it has.
            found += [
                _route(m.body)
                for m in messages
                if m.body[0] == family and proto in (None, m.body[_RTM_PROTOCOL])
            ]
        return [r for r in found if table in (None, r.table)]

    def add_route(self, route: Route) -> None:
        """FileExistsError if there is one for the same destination, table and priority."""
        self._route(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route, "add")

    def replace_route(self, route: Route) -> None:
        self._route(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route, "replace")

    def delete_route(self, route: Route) -> None:
        """ProcessLookupError (ESRCH) if there is none."""
        self._route(_RTM_DELROUTE, 0, route, "delete")

    def _route(self, kind: int, flags: int, r: Route, verb: str) -> None:
        # table 0 in the header: the attribute holds all 32 bits
        body = _RTMSG.pack(r.family, r.dst.prefixlen, 0, 0, 0, r.proto, r.scope, r.type, 0)
        body += netlink.u32(_RTA_TABLE, r.table)
        if r.dst.prefixlen:
            body += netlink.attr(_RTA_DST, r.dst.network_address.packed)
        if r.via is not None and r.via.version != r.dst.version:
            via = socket.AF_INET6.to_bytes(2, netlink.NATIVE) + r.via.packed
            body += netlink.attr(_RTA_VIA, via)
        elif r.via is not None:
            body += netlink.attr(_RTA_GATEWAY, r.via.packed)
        if r.src is not None:
            body += netlink.attr(_RTA_PREFSRC, r.src.packed)
        if r.oif:
            body += netlink.u32(_RTA_OIF, r.oif)
        if r.priority:
            body += netlink.u32(_RTA_PRIORITY, r.priority)
        self.request(kind, flags, body, f"{verb} route {r.dst} in table {r.table}")

    def route_get(
        self, dst: Ip, src: Ip | None = None, iif: int = 0, mark: int = 0
    ) -> Route | None:
        """The way a packet to `dst` would take; None if there is none (unreachable, prohibited).

        oif, via, src, table and type (RTN_LOCAL: this box's own address) are meaningful. The
        kernel says EINVAL for a blackhole.
        """
        family = socket.AF_INET if dst.version == 4 else socket.AF_INET6
        length = dst.max_prefixlen
        flags = _RTM_F_LOOKUP_TABLE if dst.version == 4 else 0  # IPv6 always says the table
        body = _RTMSG.pack(family, length, length if src else 0, 0, 0, 0, 0, 0, flags)
        body += netlink.attr(_RTA_DST, dst.packed)
        if src is not None:
            body += netlink.attr(_RTA_SRC, src.packed)
        if iif:
            body += netlink.u32(_RTA_IIF, iif)
        if mark:
            body += netlink.u32(_RTA_MARK, mark)
        try:
            found = _route(self.get(_RTM_GETROUTE, body, f"route to {dst}")[0].body)
        except OSError as e:
            if e.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
                return None
            raise
        return None if found.type >= RTN_BLACKHOLE else found

    # ---- rules

    def rules(self) -> list[Rule]:
        """Of both families, in the order in which they are tried."""
        found = []
        for family in _FAMILIES:
            body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            try:
                messages = self.dump(_RTM_GETRULE, body, "rules")
            except OSError as e:
                if e.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                    raise
                continue
            found += [_rule(m.body) for m in messages if m.body[0] == family]
        return found

    def add_rule(self, rule: Rule) -> None:
        """FileExistsError if there is an equal one."""
        self._rule(_RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule, "add")

    def delete_rule(self, rule: Rule) -> None:
        """The first one that has everything given; FileNotFoundError if there is none."""
        self._rule(_RTM_DELRULE, 0, rule, "delete")

    def _rule(self, kind: int, flags: int, r: Rule, verb: str) -> None:
        dst_len, src_len = (n.prefixlen if n else 0 for n in (r.dst, r.src))
        body = _RTMSG.pack(r.family, dst_len, src_len, 0, 0, 0, 0, r.action, 0)
        body += netlink.u32(_FRA_PRIORITY, r.pref) + netlink.u32(_FRA_TABLE, r.table)
        for attribute, name in ((_FRA_IIFNAME, r.iif), (_FRA_OIFNAME, r.oif)):
            body += netlink.text(attribute, name) if name else b""
        for attribute, network in ((_FRA_DST, r.dst), (_FRA_SRC, r.src)):
            body += netlink.attr(attribute, network.network_address.packed) if network else b""
        for attribute, number in ((_FRA_FWMARK, r.fwmark), (_FRA_FWMASK, r.fwmask)):
            body += netlink.u32(attribute, number) if number else b""
        body += netlink.u8(_FRA_PROTOCOL, r.proto) if r.proto else b""
        self.request(kind, flags, body, f"{verb} rule {r.pref} (table {r.table})")

    # ---- ids of other namespaces

    def nsid_of(self, netns_fd: int) -> int | None:
        """The id this namespace has for another one; None if it has none."""
        body = _RTGENMSG + netlink.u32(_NETNSA_FD, netns_fd)
        answer = self.get(_RTM_GETNSID, body, f"id of namespace fd {netns_fd}")[0].body
        number = get_s32(netlink.parse(answer, 4), _NETNSA_NSID)
        return None if number is None or number < 0 else number

    def nsids(self) -> list[int]:
        """Every id in use here."""
        answers = self.dump(_RTM_GETNSID, _RTGENMSG, "namespace ids")
        return [get_u32(netlink.parse(m.body, 4), _NETNSA_NSID) for m in answers]

    def set_nsid(self, netns_fd: int, nsid: int) -> None:
        """FileExistsError if the namespace has an id here already, or the id is taken."""
        body = _RTGENMSG + netlink.u32(_NETNSA_FD, netns_fd) + netlink.s32(_NETNSA_NSID, nsid)
        self.request(_RTM_NEWNSID, 0, body, f"id {nsid:#x} of namespace fd {netns_fd}")


def _mac(text: str) -> bytes:
    return netlink.attr(_IFLA_ADDRESS, bytes.fromhex(text.replace(":", ""))) if text else b""


_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_RTM_F_LOOKUP_TABLE = 0x1000
_RTM_PROTOCOL = 5  # offset in struct rtmsg


def _ip(raw: bytes) -> Ip:
    return IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)


def _network(raw: bytes, length: int) -> Network:
    return IPv4Network((raw, length)) if len(raw) == 4 else IPv6Network((raw, length))


def _interface(raw: bytes, length: int) -> Interface:
    return IPv4Interface((raw, length)) if len(raw) == 4 else IPv6Interface((raw, length))


def _link(body: bytes) -> Link:
    _, kind, index, flags, _ = _IFINFOMSG.unpack_from(body)
    a = netlink.parse(body, _IFINFOMSG.size)
    state = a.get(_IFLA_OPERSTATE, b"\0")[0]
    return Link(
        ifindex=index,
        name=get_text(a, _IFLA_IFNAME),
        kind=get_text(netlink.parse(a.get(_IFLA_LINKINFO, b"")), _IFLA_INFO_KIND),
        mtu=get_u32(a, _IFLA_MTU),
        up=bool(flags & _IFF_UP),
        alias=get_text(a, _IFLA_IFALIAS),
        mac=a.get(_IFLA_ADDRESS, b"").hex(":"),
        nsid=get_s32(a, _IFLA_LINK_NETNSID),
        master=get_u32(a, _IFLA_MASTER),
        peer_ifindex=get_u32(a, _IFLA_LINK),
        operstate=_OPERSTATES[state] if state < len(_OPERSTATES) else str(state),
        type=kind,
    )


def _address(ifindex: int, address: Interface) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    flags = 0 if address.version == 4 else IFA_F_NODAD
    body = _IFADDRMSG.pack(family, address.network.prefixlen, flags, 0, ifindex)
    return (
        body + netlink.attr(_IFA_LOCAL, address.packed) + netlink.attr(_IFA_ADDRESS, address.packed)
    )


def _route(body: bytes) -> Route:
    family, length, _, _, table, proto, scope, kind, _ = _RTMSG.unpack_from(body)
    a = netlink.parse(body, _RTMSG.size)
    hop, oif = a, get_u32(a, _RTA_OIF)
    if multipath := a.get(_RTA_MULTIPATH):
        size, _, _, oif = _RTNEXTHOP.unpack_from(multipath)
        hop = netlink.parse(multipath[:size], _RTNEXTHOP.size)
    gateway = hop.get(_RTA_GATEWAY) or hop.get(_RTA_VIA, b"")[2:]
    source = a.get(_RTA_PREFSRC)
    any_address = bytes(4 if family == socket.AF_INET else 16)
    return Route(
        dst=_network(a.get(_RTA_DST, any_address), length),
        via=_ip(gateway) if gateway else None,
        src=_ip(source) if source else None,
        oif=oif,
        table=get_u32(a, _RTA_TABLE, table),
        proto=proto,
        type=kind,
        scope=scope,
        priority=get_u32(a, _RTA_PRIORITY),
    )


def _rule(body: bytes) -> Rule:
    family, dst_len, src_len, _, table, _, _, action, _ = _RTMSG.unpack_from(body)
    a = netlink.parse(body, _RTMSG.size)
    dst, src = a.get(_FRA_DST), a.get(_FRA_SRC)
    return Rule(
        family=family,
        pref=get_u32(a, _FRA_PRIORITY),
        table=get_u32(a, _FRA_TABLE, table),
        iif=get_text(a, _FRA_IIFNAME),
        oif=get_text(a, _FRA_OIFNAME),
        fwmark=get_u32(a, _FRA_FWMARK),
        fwmask=get_u32(a, _FRA_FWMASK),
        src=_network(src, src_len) if src else None,
        dst=_network(dst, dst_len) if dst else None,
        proto=a.get(_FRA_PROTOCOL, b"\0")[0],
        action=action,
    )
