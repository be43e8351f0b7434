"""rtnetlink of our own against `ip -j`, `tc -j` and pyroute2, on the real kernel."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_network,
)
from socket import AF_INET, AF_INET6
from typing import Any

import msgspec
import pytest

from kernel.conftest import NewSpace, Space
from support import wait_until
from viscum.kernel import rtnl
from viscum.kernel.rtnl import Address, Link, Route, Rtnl, Rule

NSID = 0x5653_0007
TABLE = 0x5653_0007


@pytest.fixture
def pair(new_space: NewSpace) -> tuple[Space, Space]:
    """Two namespaces joined as a host and an instance are: vs7 with an alias here, eth0 there."""
    host, inner = new_space(), new_space()
    with Rtnl(host.fd) as r, r.batch():
        r.set_nsid(inner.fd, NSID)
        r.add_veth("vs7", "eth0", inner.fd, mtu=1400, alias="viscum:web.2.0")
    ends = (
        (host, "vs7", IPv4Interface("10.9.0.0/31"), IPv6Interface("fd00:9::/127")),
        (inner, "eth0", IPv4Interface("10.9.0.1/31"), IPv6Interface("fd00:9::1/127")),
    )
    for space, name, address4, address6 in ends:
        space.run("ip", "link", "set", name, "addrgenmode", "none")  # no address comes by itself
        with Rtnl(space.fd) as r:
            index = _link(r, name).ifindex
            r.set_link(index, up=True)
            r.add_address(index, address4)
            r.add_address(index, address6)
    for space, name, _, address6 in ends:
        _wait_for_carrier(space, name, address6)
    return host, inner


def _wait_for_carrier(space: Space, name: str, address: IPv6Interface) -> None:
    """The kernel's own IPv6 routes come with it, asynchronously."""
    expected = {IPv6Network("ff00::/8"), IPv6Network(address.ip)}
    with Rtnl(space.fd) as r:
        wait_until(lambda: _link(r, name).operstate == "up", f"carrier of {name}")
        wait_until(lambda: expected <= {x.dst for x in r.routes()}, "its routes")


def _link(r: Rtnl, name: str) -> Link:
    found = r.link(name)
    assert found is not None, name
    return found


# ---- links -------------------------------------------------------------------------------------


def _as_ip_shows(link: Link) -> dict[str, Any]:
    return {
        "ifindex": link.ifindex,
        "ifname": link.name,
        "mtu": link.mtu,
        "up": link.up,
        "alias": link.alias,
        "mac": link.mac,
        "kind": link.kind,
        "nsid": link.nsid,
        "operstate": link.operstate.upper(),
    }


def _as_ip_shows_it(link: dict[str, Any]) -> dict[str, Any]:
    return {
        "ifindex": link["ifindex"],
        "ifname": link["ifname"],
        "mtu": link["mtu"],
        "up": "UP" in link["flags"],
        "alias": link.get("ifalias", ""),
        "mac": link["address"],
        "kind": link.get("linkinfo", {}).get("info_kind", ""),
        "nsid": link.get("link_netnsid"),
        "operstate": link["operstate"],
    }


def test_links_are_what_ip_shows(pair: tuple[Space, Space]) -> None:
    for space in pair:
        space.run("ip", "link", "add", "br0", "type", "bridge")
        space.run("ip", "link", "add", "v0", "type", "veth", "peer", "v1")
        space.run("ip", "link", "set", "v0", "master", "br0", "up")
        with Rtnl(space.fd) as r:
            ours = r.links()
        theirs = space.json("ip", "-j", "-d", "link")
        assert [_as_ip_shows(link) for link in ours] == [_as_ip_shows_it(i) for i in theirs]
        by_name = {link.name: link for link in ours}
        assert by_name["v0"].master == by_name["br0"].ifindex
        assert by_name["v0"].peer_ifindex == by_name["v1"].ifindex
        assert by_name["lo"].type == rtnl.ARPHRD_LOOPBACK
        assert by_name["v0"].type == rtnl.ARPHRD_ETHER


def test_a_pair_has_the_ids_names_and_sizes_asked_for(pair: tuple[Space, Space]) -> None:
    host, inner = pair
    with Rtnl(host.fd) as h, Rtnl(inner.fd) as i:
        outer_end, inner_end = _link(h, "vs7"), _link(i, "eth0")
        assert (outer_end.kind, outer_end.mtu, outer_end.alias) == ("veth", 1400, "viscum:web.2.0")
        assert outer_end.nsid == NSID
        assert inner_end.mtu == 1400
        assert outer_end.peer_ifindex == inner_end.ifindex
        assert inner_end.peer_ifindex == outer_end.ifindex
        assert h.link(outer_end.ifindex) == outer_end


def test_a_link_that_is_not_there_is_none(space: Space) -> None:
    with Rtnl(space.fd) as r:
        assert r.link("nope") is None
        assert r.link("a-name-longer-than-any-link") is None
        assert r.link(4711) is None


def test_a_link_is_found_by_its_alternative_name(space: Space) -> None:
    space.run("ip", "link", "add", "v0", "type", "veth", "peer", "v1")
    space.run("ip", "link", "property", "add", "dev", "v0", "altname", "radio-in-the-attic-5ghz")
    with Rtnl(space.fd) as r:
        assert r.link("radio-in-the-attic-5ghz") == _link(r, "v0")


@pytest.mark.req("N18")
def test_a_link_changes_only_in_what_is_given(pair: tuple[Space, Space]) -> None:
    host, _ = pair
    with Rtnl(host.fd) as r:
        before = _link(r, "vs7")
        r.set_link(before.ifindex, mtu=1300)
        assert _as_ip_shows(_link(r, "vs7")) == _as_ip_shows(before) | {"mtu": 1300}
        r.set_link(before.ifindex, alias="other")
        assert _link(r, "vs7").alias == "other"
        r.set_link(before.ifindex, alias="")
        assert _link(r, "vs7").alias == ""
        r.set_link(before.ifindex, up=False)
        assert not _link(r, "vs7").up
        r.set_link(before.ifindex, name="vs8")
        assert _link(r, "vs8").mtu == 1300
        r.delete_link(before.ifindex)
        assert r.link("vs8") is None


def test_links_agree_with_pyroute2(pair: tuple[Space, Space]) -> None:
    from pyroute2 import IPRoute

    from viscum.kernel.syscalls import in_netns

    host, _ = pair

    def theirs() -> list[tuple[Any, ...]]:
        with IPRoute() as ipr:
            return [
                (
                    i["index"],
                    i.get_attr("IFLA_IFNAME"),
                    i.get_attr("IFLA_MTU"),
                    i.get_attr("IFLA_LINK_NETNSID"),
                    i.get_attr("IFLA_LINK") or 0,
                    i["ifi_type"],
                )
                for i in ipr.get_links()
            ]

    with Rtnl(host.fd) as r:
        ours = [(i.ifindex, i.name, i.mtu, i.nsid, i.peer_ifindex, i.type) for i in r.links()]
    assert ours == in_netns(host.fd, theirs)


def test_two_hundred_pairs_are_dumped_whole(new_space: NewSpace) -> None:
    host, other = new_space(), new_space()
    with Rtnl(host.fd) as r:
        with r.batch():
            for n in range(200):
                r.add_veth(f"vs{n}", f"p{n}", other.fd, alias=f"viscum:many.{n}.0")
        ours = r.links()
        assert [i.alias for i in ours if i.kind == "veth"] == [
            f"viscum:many.{n}.0" for n in range(200)
        ]
        assert len({i.ifindex for i in ours}) == len(ours)
        # With a buffer that holds not even one message: nothing may be cut off.
        r._buffer = bytearray(64)
        assert r.links() == ours


def test_dumps_are_consistent_while_links_come_and_go(new_space: NewSpace) -> None:
    host, other = new_space(), new_space()
    stable = {f"vs{n}" for n in range(200)}
    with Rtnl(host.fd) as r, r.batch():
        for name in stable:
            r.add_veth(name, name, other.fd)
    stop = threading.Event()

    def churn() -> None:
        with Rtnl(host.fd) as r:
            while not stop.is_set():
                r.add_veth("passing", "passing", other.fd)
                r.delete_link(_link(r, "passing").ifindex)

    thread = threading.Thread(target=churn)
    thread.start()
    interrupted = False
    dumps = 0
    try:
        with Rtnl(host.fd) as r:
            while dumps < 20 or not interrupted:
                found = [link.name for link in r.links()]
                assert set(found) - {"passing"} == stable | {"lo"}
                assert len(found) == len(set(found))
                dumps += 1
                try:  # the same dump without the second try: it must have been needed
                    list(r.stream(18, bytes(16), "links"))
                except InterruptedError:
                    interrupted = True
    finally:
        stop.set()
        thread.join()


# ---- addresses ---------------------------------------------------------------------------------


def test_addresses_are_what_ip_shows(pair: tuple[Space, Space]) -> None:
    for space in pair:
        theirs = {
            (link["ifindex"], a["local"], a["prefixlen"])
            for link in space.json("ip", "-j", "addr")
            for a in link["addr_info"]
        }
        with Rtnl(space.fd) as r:
            ours = r.addresses()
        assert {(a.ifindex, str(a.address.ip), a.address.network.prefixlen) for a in ours} == theirs


def test_a_v6_address_is_usable_at_once_and_goes_again(pair: tuple[Space, Space]) -> None:
    host, _ = pair
    with Rtnl(host.fd) as r:
        index = _link(r, "vs7").ifindex
        address = IPv6Interface("fd00:9::/127")
        (found,) = (a for a in r.addresses(index) if a.address == address)
        assert found == Address(index, address, 0, found.flags)
        assert not found.flags & rtnl.IFA_F_TENTATIVE
        with pytest.raises(FileExistsError):
            r.add_address(index, address)
        r.delete_address(index, address)
        assert address not in {a.address for a in r.addresses()}


# ---- routes ------------------------------------------------------------------------------------


def _routes_by_ip(space: Space) -> list[str]:
    return [
        line.strip()
        for family in ("-4", "-6")
        for line in space.run("ip", "-N", family, "route", "show", "table", "all").stdout.split(
            "\n"
        )
    ]


def test_routes_are_what_ip_shows(pair: tuple[Space, Space]) -> None:
    _, inner = pair
    inner.run("ip", "route", "add", "default", "via", "10.9.0.0", "metric", "7")
    inner.run("ip", "route", "add", "blackhole", "192.0.2.0/24", "table", "1234567", "proto", "118")
    inner.run("ip", "route", "add", "198.51.100.0/24", "nexthop", "via", "10.9.0.0")
    inner.run("ip", "-6", "route", "add", "default", "via", "fd00:9::")
    inner.run("ip", "route", "add", "203.0.113.0/24", "via", "inet6", "fd00:9::", "dev", "eth0")
    with Rtnl(inner.fd) as r:
        names = {i.name: i.ifindex for i in r.links()}
        ours = {
            (r.dst, r.via, r.src, r.oif, r.table, r.proto, r.type, r.priority) for r in r.routes()
        }
    theirs = set()
    for family, any_ in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
        argv = ("ip", "-N", "-d", "-j", family, "route", "show", "table", "all")
        for route in inner.json(*argv):
            via = route.get("gateway") or route.get("via", {}).get("host")
            src = route.get("prefsrc")
            dst = any_ if route["dst"] == "default" else route["dst"]
            theirs.add(
                (
                    ip_network(dst),
                    ip_address(via) if via else None,
                    ip_address(src) if src else None,
                    names[route["dev"]] if "dev" in route else 0,
                    int(route.get("table", 254)),
                    int(route["protocol"]),
                    int(route["type"]),
                    route.get("metric", 0),
                )
            )
    assert ours == theirs
    with Rtnl(inner.fd) as r:
        assert [route.dst for route in r.routes(1234567)] == [IPv4Network("192.0.2.0/24")]
        assert r.routes(99) == []


ROUTES = (
    Route(IPv4Network("0.0.0.0/0"), via=IPv4Address("10.9.0.0"), proto=118),
    Route(
        IPv4Network("203.0.113.7/32"),
        via=IPv4Address("10.9.0.0"),
        src=IPv4Address("10.9.0.1"),
        table=TABLE,
        proto=118,
    ),
    Route(IPv4Network("192.0.2.0/24"), via=IPv6Address("fd00:9::"), proto=118),
    Route(IPv4Network("198.51.100.0/25"), type=rtnl.RTN_UNREACHABLE, table=50, proto=118),
    Route(IPv6Network("::/0"), via=IPv6Address("fd00:9::"), proto=118, priority=1024),
    Route(
        IPv6Network("2001:db8::7/128"),
        via=IPv6Address("fd00:9::"),
        src=IPv6Address("fd00:9::1"),
        table=TABLE,
        proto=118,
        priority=5,
    ),
)


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.dst} table {r.table}")
def test_a_route_is_read_back_as_it_was_given(pair: tuple[Space, Space], route: Route) -> None:
    _, inner = pair
    with Rtnl(inner.fd) as r:
        before, words = r.routes(), _routes_by_ip(inner)
        given = route
        if route.type == rtnl.RTN_UNICAST:
            given = msgspec.structs.replace(route, oif=_link(r, "eth0").ifindex)
        r.add_route(given)
        assert set(r.routes()) - set(before) == {given}
        with pytest.raises(FileExistsError):
            r.add_route(given)
        r.replace_route(given)
        r.delete_route(given)
        assert r.routes() == before
        assert _routes_by_ip(inner) == words
        with pytest.raises(ProcessLookupError):
            r.delete_route(given)


def test_route_get_says_what_ip_says(pair: tuple[Space, Space]) -> None:
    _, inner = pair
    with Rtnl(inner.fd) as r:
        for route in ROUTES:
            r.add_route(route)
        for destination in ("8.8.8.8", "192.0.2.9", "2001:db8::7", "10.9.0.1", "fd00:9::1"):
            (theirs,) = inner.json("ip", "-j", "route", "get", destination)
            ours = r.route_get(ip_address(destination))
            assert ours is not None
            assert _link(r, theirs["dev"]).ifindex == ours.oif
            gateway = theirs.get("gateway") or theirs.get("via", {}).get("host")
            assert gateway == (str(ours.via) if ours.via else None)
            assert theirs["prefsrc"] == str(ours.src)
            assert (theirs.get("type") == "local") == (ours.type == rtnl.RTN_LOCAL)
        r.add_rule(Rule(AF_INET, 77, 50, fwmark=9))
        assert r.route_get(IPv4Address("198.51.100.1"), mark=9) is None
        assert r.route_get(IPv4Address("198.51.100.1")) is not None


def test_route_get_is_none_where_nothing_leads(space: Space) -> None:
    space.run("ip", "route", "add", "blackhole", "192.0.2.0/24")
    space.run("ip", "route", "add", "prohibit", "192.0.3.0/24")
    space.run("ip", "-6", "route", "add", "unreachable", "2001:db8::/64")
    with Rtnl(space.fd) as r:
        for nowhere in ("8.8.8.8", "192.0.2.1", "192.0.3.1", "2001:db8::1", "2001:db8:1::1"):
            assert r.route_get(ip_address(nowhere)) is None


# ---- rules -------------------------------------------------------------------------------------


RULES = (
    Rule(AF_INET, 50, 50, iif="lo", proto=118),
    Rule(AF_INET6, 50, 50, iif="lo", proto=118),
    Rule(AF_INET, 60, TABLE, fwmark=TABLE, fwmask=0xFFFFFFFF, proto=118),
    Rule(AF_INET, 61, 52, src=IPv4Network("10.1.0.0/16"), dst=IPv4Network("203.0.113.7/32")),
    Rule(AF_INET6, 62, 52, oif="eth0", dst=IPv6Network("2001:db8::/32"), proto=4),
)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.family} {r.pref}")
def test_a_rule_is_read_back_as_it_was_given(space: Space, rule: Rule) -> None:
    with Rtnl(space.fd) as r:
        before = r.rules()
        r.add_rule(rule)
        assert [x for x in r.rules() if x not in before] == [rule]
        family = "-4" if rule.family == AF_INET else "-6"
        (theirs,) = (
            x
            for x in space.json("ip", "-N", "-d", "-j", family, "rule")
            if x["priority"] == rule.pref
        )
        assert int(theirs["table"]) == rule.table
        assert theirs.get("iif", "") == rule.iif
        assert theirs.get("oif", "") == rule.oif
        assert int(theirs.get("fwmark", "0"), 0) == rule.fwmark
        assert theirs["src"] == (str(rule.src.network_address) if rule.src else "all")
        assert int(theirs["protocol"]) == rule.proto
        with pytest.raises(FileExistsError):
            r.add_rule(rule)
        r.delete_rule(rule)
        assert r.rules() == before
        with pytest.raises(FileNotFoundError):
            r.delete_rule(rule)


def test_the_kernels_own_rules_can_be_moved(space: Space) -> None:
    with Rtnl(space.fd) as r:
        for family in (AF_INET, AF_INET6):
            (local,) = (x for x in r.rules() if x.family == family and x.pref == 0)
            moved = Rule(family, 100, rtnl.LOCAL_TABLE, proto=118)
            with r.batch():
                r.add_rule(moved)
                r.delete_rule(local)
            assert next(x for x in r.rules() if x.family == family) == moved


# ---- ids of namespaces -------------------------------------------------------------------------


def test_an_id_is_given_once(new_space: NewSpace) -> None:
    host, one, two = new_space(), new_space(), new_space()
    with Rtnl(host.fd) as r:
        assert r.nsid_of(one.fd) is None
        assert r.nsids() == []
        r.set_nsid(one.fd, NSID)
        assert r.nsid_of(one.fd) == NSID
        assert r.nsids() == [NSID]
        with pytest.raises(FileExistsError, match="already has a nsid"):
            r.set_nsid(one.fd, NSID + 1)
        with pytest.raises(FileExistsError, match="already used"):
            r.set_nsid(two.fd, NSID)


# ---- errors and batches ------------------------------------------------------------------------


def test_an_error_has_the_kernels_words_and_what_was_attempted(space: Space) -> None:
    with Rtnl(space.fd) as r:
        route = Route(IPv4Network("203.0.113.7/32"), via=IPv4Address("192.0.2.1"))
        with pytest.raises(OSError, match="Nexthop has invalid gateway") as caught:
            r.add_route(route)
        assert caught.value.filename == "add route 203.0.113.7/32 in table 254"


def test_a_batch_names_the_request_that_failed_and_does_the_others(space: Space) -> None:
    with Rtnl(space.fd) as r:
        one, two = (IPv4Interface(f"192.0.2.{n}/32") for n in (1, 2))

        def three_requests() -> None:
            with r.batch():
                r.add_address(1, one)
                r.delete_link(4711)
                r.add_address(1, two)

        with pytest.raises(OSError, match="No such device") as caught:
            three_requests()
        assert caught.value.filename == "delete link 4711"
        assert {one, two} <= {a.address for a in r.addresses()}
        # and the socket is in step: the next answer belongs to the next question
        assert _link(r, "lo").ifindex == 1


def test_a_batch_that_raises_sends_nothing(space: Space) -> None:
    with Rtnl(space.fd) as r:

        def interrupted() -> None:
            with r.batch():
                r.add_address(1, IPv4Interface("192.0.2.1/32"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            interrupted()
        assert IPv4Interface("192.0.2.1/32") not in {a.address for a in r.addresses()}


def test_a_batch_larger_than_the_receive_buffer_is_acknowledged_whole(space: Space) -> None:
    addresses = [IPv4Interface(f"10.0.{n >> 8}.{n & 255}/32") for n in range(1000)]
    with Rtnl(space.fd) as r:
        with r.batch():
            for address in addresses:
                r.add_address(1, address)
        assert set(addresses) <= {a.address for a in r.addresses(1)}


# ---- traffic control ---------------------------------------------------------------------------


def _program() -> int:
    """A descriptor of a classifier that says TC_ACT_OK (`r0 = 0; exit`)."""
    libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
    code = bytes.fromhex("b7000000000000009500000000000000")
    fd = libbpf.bpf_prog_load(3, b"vt_pass", b"GPL", code, 2, None)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return int(fd)


@pytest.mark.req("N18")
def test_our_filter_comes_is_swapped_and_goes_beside_the_operators(space: Space) -> None:
    space.run("ip", "link", "add", "v0", "up", "type", "veth", "peer", "v1")
    space.run("tc", "qdisc", "add", "dev", "v0", "clsact")
    operators = ("tc", "filter", "add", "dev", "v0")
    classic = ("bpf", "bytecode", "1,6 0 0 4294967295", "classid", "1:1")
    space.run(*operators, "ingress", "prio", "5", "protocol", "all", *classic)
    space.run(
        *operators, "egress", "prio", "118", "protocol", "ip", "u32", "match", "u32", "0", "0"
    )

    def shown() -> list[str]:
        return [
            space.run("tc", "-j", "filter", "show", "dev", "v0", side).stdout
            for side in ("ingress", "egress")
        ]

    before = shown()
    one, two = _program(), _program()
    try:
        with Rtnl(space.fd) as r:
            index = _link(r, "v0").ifindex
            assert [q.kind for q in r.qdiscs(index)] == ["noqueue", "clsact"]
            with pytest.raises(FileExistsError):
                r.add_clsact(index)
            others = r.filters_any(index)
            assert others
            r.replace_bpf_filter(index, one, "viscum", 118, 0x5653)
            assert len(r.bpf_filters(index)) == 2
            first = r.bpf_filters(index)[1]
            (theirs,) = (
                f["options"]
                for f in space.json("tc", "-j", "filter", "show", "dev", "v0", "ingress")
                if f["pref"] == 118 and "options" in f
            )
            assert (first.prio, first.handle, first.name) == (118, 0x5653, "viscum")
            assert first.prog_id == theirs["prog"]["id"]
            assert theirs["direct-action"] is True
            r.replace_bpf_filter(index, two, "viscum", 118, 0x5653)
            second = r.bpf_filters(index)[1]
            assert second.prog_id != first.prog_id
            assert r.bpf_filters(index, ingress=False) == []
            assert r.filters_any(index) == others + 1
            with pytest.raises(OSError, match="named by prio and handle"):
                r.delete_filter(index, 118, 0)
            r.delete_filter(index, 118, 0x5653)
            assert [f.prio for f in r.bpf_filters(index)] == [5]
            with pytest.raises(FileNotFoundError):
                r.delete_filter(index, 118, 0x5653)
    finally:
        os.close(one)
        os.close(two)
    assert shown() == before


@pytest.mark.req("N18")
def test_clsact_comes_and_goes(space: Space) -> None:
    space.run("ip", "link", "add", "v0", "type", "veth", "peer", "v1")
    before = space.run("tc", "-j", "qdisc").stdout
    with Rtnl(space.fd) as r:
        index = _link(r, "v0").ifindex
        r.add_clsact(index)
        assert space.json("tc", "-j", "qdisc", "show", "dev", "v0", "clsact")
        r.delete_clsact(index)
        assert r.bpf_filters(index) == []
        assert r.filters_any(index) == 0
        assert r.qdiscs(4711) == []
    assert space.run("tc", "-j", "qdisc").stdout == before


# ---- cost --------------------------------------------------------------------------------------


def test_importing_costs_no_heavy_module() -> None:
    """Start-up time is the product: the doors must not bring in what most commands don't need."""
    code = (
        "import sys, viscum.kernel.rtnl, viscum.kernel.netns, viscum.kernel.sockets,"
        " viscum.kernel.conntrack, viscum.kernel.nft, viscum.kernel.sysctl;"
        "print(*(m for m in ('ctypes', 'subprocess', 'asyncio', 'threading', 'pyroute2')"
        " if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.stdout.split() == []
