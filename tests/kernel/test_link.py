"""The inside of a service's namespace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from viscum import names
from viscum.kernel import link, netns
from viscum.kernel.rtnl import Rtnl
from viscum.model import Inner, InnerRoute, InnerRule
from viscum.plan import NEW

TARGET, HOST, OWN = "2001:db8:c::10", "fd00::2", "fd00::3"


@pytest.fixture
def inside() -> Iterator[int]:
    """A namespace with the far end of a link, as a new service's is."""
    name = f"vt-{os.getpid()}-link"
    fd = netns.create(name)
    try:
        with Rtnl(fd) as rtnl:
            rtnl.add_veth("host", names.INNER_LINK, fd, 1500, "")
            host = rtnl.link("host")
            assert host is not None
            rtnl.set_link(host.ifindex, up=True)
        yield fd
    finally:
        os.close(fd)
        netns.delete(name)


@pytest.mark.req("N11")
def test_a_configured_target_of_ipv6_is_delivered_to(inside: int) -> None:
    """Although what the namespace itself sends to the target leaves it (rule 50)."""
    network = ip_network(TARGET)
    want = Inner(
        addresses=frozenset({("lo", f"{TARGET}/128"), (names.INNER_LINK, f"{OWN}/127")}),
        routes=frozenset(
            {InnerRoute(6, network, names.SERVICE_TABLE, ip_address(HOST), ip_address(OWN))}
        ),
        rules=frozenset({InnerRule(6, 50, names.SERVICE_TABLE, iif="lo"), InnerRule(6, 100, 255)}),
        up=frozenset({"lo", names.INNER_LINK}),
    )
    link.configure(inside, want, NEW, {})
    with Rtnl(inside) as rtnl:
        route = rtnl.route_get(ip_address(TARGET))
        assert route is not None
        assert route.via == ip_address(HOST)
        assert link._await_local(rtnl, {ip_address(TARGET), ip_address(OWN)})
        assert link.inner(inside).routes == want.routes
