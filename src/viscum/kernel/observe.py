"""One snapshot of the host: everything that is ours, and what we must not clash with.

By netlink and cgroup files only; /sys/class/net shows another namespace after setns (§1).
"""

from __future__ import annotations

from collections.abc import Iterable

from viscum import names
from viscum.kernel import cgroup, link, netns, nft
from viscum.kernel.link import VERSION
from viscum.kernel.rtnl import Route, Rtnl
from viscum.model import Address, Group, HostLink, HostRoute, HostRule, Inner, Network, Observed

MAIN = 254
RTN_UNICAST = 1


def observe(host: names.HostNames, inside: Iterable[str] | None = None) -> Observed:
    """inside: the namespaces to look into; None: every one of ours. Raises OSError."""
    with Rtnl() as rtnl:
        links = rtnl.links()
        addresses = rtnl.addresses()
        routes = rtnl.routes()
        rules = rtnl.rules()
        nsids = frozenset(rtnl.nsids())
        namespaces: dict[str, int | None] = {}
        inner: dict[str, Inner] = {}
        wanted = None if inside is None else set(inside)
        for name in netns.names():
            if not name.startswith(f"{host.prefix}."):
                continue
            try:
                with netns.opened(name) as fd:
                    namespaces[name] = rtnl.nsid_of(fd)
                    if wanted is None or name in wanted:
                        inner[name] = link.inner(fd)
            except OSError:
                namespaces[name] = None  # a name without a namespace: half made
    byindex = {entry.ifindex: entry.name for entry in links}
    main = [r for r in routes if r.table == MAIN and r.type == RTN_UNICAST]
    by_link: dict[int, list[Route]] = {}  # a box with many services has many links and routes
    for route in main:
        by_link.setdefault(route.oif, []).append(route)
    on_link: dict[int, list[Address]] = {}
    for entry in addresses:
        on_link.setdefault(entry.ifindex, []).append(entry.address.ip)
    uplinks = {r.oif for r in routes if r.dst.prefixlen <= 1}
    return Observed(
        links={
            entry.name: HostLink(
                ifindex=entry.ifindex,
                name=entry.name,
                kind=entry.kind or "",
                mtu=entry.mtu,
                up=entry.up,
                alias=entry.alias or "",
                nsid=entry.nsid,
                mac=entry.mac or "",
                has_default=any(not r.dst.prefixlen for r in by_link.get(entry.ifindex, ())),
                uplink=entry.ifindex in uplinks,
                networks=tuple(_reached(by_link.get(entry.ifindex, []), by_gateway=False)),
                behind=tuple(_reached(by_link.get(entry.ifindex, []), by_gateway=True)),
                addresses=tuple(on_link.get(entry.ifindex, ())),
            )
            for entry in links
        },
        namespaces=namespaces,
        inner=inner,
        groups={
            path.removeprefix(host.prefix).removeprefix("/"): _group(path)
            for path in cgroup.groups(host.prefix)
        },
        rules=frozenset(
            HostRule(VERSION[r.family], r.pref, r.fwmark, r.iif, r.table)
            for r in rules
            if r.proto == names.PROTO and _ours(r.table)
        ),
        routes=frozenset(
            HostRoute(VERSION[r.family], r.table, r.via, byindex.get(r.oif, ""))
            for r in routes
            if r.proto == names.PROTO and _ours(r.table) and r.via is not None
        ),
        networks=tuple(
            dict.fromkeys(
                (
                    *(r.dst for r in main if r.dst.prefixlen),
                    *(a.address.network for a in addresses),
                )
            )
        ),
        nft=nft.table_comment("inet", names.NFT_TABLE),
        nsids=nsids,
    )


def _reached(main: list[Route], *, by_gateway: bool) -> list[Network]:
    """Half of everything (0.0.0.0/1, as VPN clients set) counts as a default route."""
    found = (r.dst for r in main if (r.via is not None) == by_gateway and r.dst.prefixlen > 1)
    return [n for n in found if not n.is_link_local and not n.is_multicast]


def _ours(table: int) -> bool:
    """A protocol number can be anybody's by chance; not together with one of our tables."""
    return table & names.MARK_MASK == names.MARK


def _group(path: str) -> Group:
    group = cgroup.Group(path)
    return Group(group.populated(), *group.limits())
