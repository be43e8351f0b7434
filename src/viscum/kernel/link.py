"""The veth pair of an instance, the inside of its namespace, and marked routing on the host."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from typing import Literal

from viscum import names
from viscum.kernel import sysctl
from viscum.kernel.rtnl import Route, Rtnl, Rule
from viscum.model import HostRoute, HostRule, Inner, InnerRoute, InnerRule

RTPROT_STATIC = 4  # linux/rtnetlink.h
RTN_UNICAST, RTN_LOCAL = 1, 2
SCOPE_UNIVERSE, SCOPE_HOST = 0, 254
FAMILY: dict[int, int] = {4: socket.AF_INET, 6: socket.AF_INET6}
VERSION = {family: version for version, family in FAMILY.items()}
LOCAL_TIMEOUT = 2.0  # seconds; then it goes on, and the next SYNs go to the cloud
DEFAULT = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
NSID_TIMEOUT = 10.0  # seconds; then the id is asked for all the same, and the error is told
UNSET = {errno.EEXIST}
GONE = {errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV}


def connect(
    netns_fd: int,
    slot: int,
    alias: str,
    mtu: int,
    addresses: tuple[str, ...],
    own: tuple[str, ...],
) -> None:
    """Makes or completes the pair vsN (here) and eth0 (inside).

    The netns id is set before the veth exists: the kernel would give it an automatic one, which
    is reused at once for another namespace (§4.5). Both ends know each other's MAC address: an
    IPv6 link that has just come up can ask nobody for up to a second. And the server's end asks
    nobody at all: neighbours that are being asked for are counted for the whole box, 1024 by
    default, and a server that sends to so many addresses on its link would leave the router none.
    Raises OSError.
    """
    name, number = names.link(slot), names.number(slot)
    ours, theirs = names.mac(slot, False), names.mac(slot, True)
    with Rtnl() as host:
        if host.nsid_of(netns_fd) is None:
            _await_free(host, number)
            host.set_nsid(netns_fd, number)
        link = host.link(name)
        if link is not None and link.nsid != number:
            # Its other end is gone or elsewhere: a pair that a killed command or a person left.
            host.delete_link(link.ifindex)
            link = None
        if link is None:
            host.add_veth(
                name,
                names.INNER_LINK,
                netns_fd,
                mtu,
                alias,
                ifindex=number,
                mac=ours,
                peer_mac=theirs,
            )
        for key, value in (("rp_filter", "0"), ("src_valid_mark", "1")):
            sysctl.write(f"net.ipv4.conf.{name}.{key}", value)
        with Rtnl(netns_fd) as inside:
            inner_index = _ifindex(inside, names.INNER_LINK)
            inside.set_link(inner_index, up=True, arp=False)
            for address in addresses:
                inside.set_neighbour(inner_index, ip_interface(address).ip, ours)
        host.set_link(number, up=True, mtu=mtu, alias=alias)
        for text in own:
            host.set_neighbour(number, ip_address(text), theirs)
        # Last: by these the next command knows that nothing is left to be done here (plan.py).
        for address in addresses:
            _ignoring(UNSET, host.add_address, number, ip_interface(address))


def _await_free(host: Rtnl, nsid: int) -> None:
    """An id is free again when a kernel worker has taken the namespace that had it apart: some
    10 ms after its end, seconds where a socket of it waits for its last acknowledgement."""
    end = time.monotonic() + NSID_TIMEOUT
    while nsid in host.nsids() and time.monotonic() < end:
        time.sleep(0.002)


def set_mtu(name: str, netns_fd: int, mtu: int) -> None:
    with Rtnl() as host, Rtnl(netns_fd) as inside:
        host.set_link(_ifindex(host, name), mtu=mtu)
        inside.set_link(_ifindex(inside, names.INNER_LINK), mtu=mtu)


def delete(name: str) -> None:
    """Deleting the link itself (not only the namespace) ends it at once: a socket in FIN-WAIT
    would keep the namespace, and the link with it, for seconds (§7)."""
    with Rtnl() as host:
        link = host.link(name)
        if link is not None:
            _ignoring(GONE, host.delete_link, link.ifindex)


def configure(netns_fd: int, want: Inner, have: Inner, sysctls: Mapping[str, str]) -> None:
    """Applies the differences inside, additions before what they replace."""
    for key, value in sysctls.items():
        try:
            sysctl.write(key, value, netns_fd)
        except FileNotFoundError:
            if not key.startswith("net.ipv6."):  # a kernel without IPv6
                raise
    with Rtnl(netns_fd) as inside:
        index = {link.name: link.ifindex for link in inside.links()}
        for name in sorted(want.up - have.up):
            inside.set_link(index[name], up=True)
        for dev, address in want.addresses - have.addresses:
            _ignoring(UNSET, inside.add_address, index[dev], ip_interface(address))
        for rule in want.rules - have.rules:
            _ignoring(UNSET, inside.add_rule, _rule(rule))
        for rule in have.rules - want.rules:
            _ignoring(GONE, inside.delete_rule, _rule(rule))
        for route in sorted(want.routes - have.routes, key=lambda r: r.via is not None):
            inside.replace_route(_route(route, index))  # one that differs in its source only
        for route in have.routes - want.routes:
            _ignoring(GONE, inside.delete_route, _route(route, index))
        for dev, address in have.addresses - want.addresses:
            _ignoring(GONE, inside.delete_address, index[dev], ip_interface(address))
        _await_local(inside, {ip_interface(a).ip for _, a in want.addresses - have.addresses})


def _await_local(inside: Rtnl, addresses: set[IPv4Address | IPv6Address]) -> bool:
    """Whether they are delivered to, within LOCAL_TIMEOUT. An IPv6 address is so only when a kernel
    worker has made its local route (0.1 ms, 7 ms seen, more on a busy box): a SYN before that
    would be lost. The route itself is looked for: asked for the way, the kernel answers for what
    the namespace sends (rule 50), not for what it gets."""
    missing = {a for a in addresses if a.version == 6}
    end = time.monotonic() + LOCAL_TIMEOUT
    while missing and time.monotonic() < end:
        missing -= {r.dst.network_address for r in inside.routes() if r.type == RTN_LOCAL}
        if missing:
            time.sleep(0.0005)
    return not missing


def inner(netns_fd: int) -> Inner:
    """What `configure` compares with: the kernel's own entries left out."""
    with Rtnl(netns_fd) as inside:
        links = inside.links()
        byindex = {link.ifindex: link.name for link in links}
        addresses = {
            (byindex[a.ifindex], str(a.address))
            for a in inside.addresses()
            if not (a.address.is_loopback or a.address.is_link_local)
        }
        routes = {
            InnerRoute(
                VERSION[r.family],
                r.dst if r.dst.prefixlen else None,
                r.table,
                via=r.via,
                src=r.src,
                local=r.type == RTN_LOCAL,
            )
            for r in inside.routes(proto=RTPROT_STATIC)
        }
        rules = {
            InnerRule(VERSION[r.family], r.pref, r.table, iif=r.iif or None)
            for r in inside.rules()
            if r.pref not in (32766, 32767)
        }
        return Inner(
            frozenset(addresses),
            frozenset(routes),
            frozenset(rules),
            frozenset(link.name for link in links if link.up),
        )


def change_host_rule(verb: Literal["add", "del"], rule: HostRule) -> None:
    wanted = Rule(
        family=FAMILY[rule.family],
        pref=rule.pref,
        table=rule.table,
        iif=rule.iif,
        fwmark=rule.fwmark,
        fwmask=0xFFFFFFFF,
        proto=names.PROTO,
    )
    with Rtnl() as host:
        if verb == "add":
            _ignoring(UNSET, host.add_rule, wanted)
        else:
            _ignoring(GONE, host.delete_rule, wanted)


def change_host_route(verb: Literal["add", "del"], route: HostRoute) -> None:
    with Rtnl() as host:
        link = host.link(route.oif)
        if link is None and verb == "del":
            return  # the route went with its link
        wanted = Route(
            dst=DEFAULT[route.family],
            via=route.via,
            oif=_ifindex(host, route.oif),
            table=route.table,
            proto=names.PROTO,
        )
        if verb == "add":
            _ignoring(UNSET, host.add_route, wanted)
        else:
            _ignoring(GONE, host.delete_route, wanted)


def _rule(r: InnerRule) -> Rule:
    return Rule(family=FAMILY[r.family], pref=r.pref, table=r.table, iif=r.iif or "")


def _route(r: InnerRoute, index: Mapping[str, int]) -> Route:
    return Route(
        dst=r.dst or DEFAULT[r.family],
        via=r.via,
        src=r.src,
        oif=index["lo"] if r.local else index[names.INNER_LINK],
        table=r.table,
        proto=RTPROT_STATIC,
        type=RTN_LOCAL if r.local else RTN_UNICAST,
        scope=SCOPE_HOST if r.local else SCOPE_UNIVERSE,
    )


def _ifindex(rtnl: Rtnl, name: str) -> int:
    link = rtnl.link(name)
    if link is None:
        raise OSError(errno.ENODEV, "no such link", name)
    return link.ifindex


def _ignoring(errnos: set[int], call, *args: object) -> None:  # type: ignore[no-untyped-def]
    """Idempotence: adding what is there and deleting what is not are no errors."""
    try:
        call(*args)
    except OSError as error:
        if error.errno not in errnos:
            raise


def addresses() -> set[IPv4Address | IPv6Address]:
    """Every address of every link here."""
    with Rtnl() as host:
        return {a.address.ip for a in host.addresses()}


def index(name: str) -> int:
    """Its interface index here; 0 if there is no such interface."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
