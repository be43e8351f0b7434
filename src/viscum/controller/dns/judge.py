"""Which addresses a name may never bring, whoever says so: pure, but for nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from ipaddress import ip_network

from msgspec import Struct

from viscum.model import Address, Network, Observed
from viscum.spec import Claim
from viscum.spec.rules import overlaps
from viscum.spec.values import unusable
from viscum.store import Record, World

# Nothing that the Internet routes (RFC 6890), and prefixes that carry IPv4 in IPv6. An operator
# whose cloud is there says so with steer.names.within.
PRIVATE = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "240.0.0.0/4",
    "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "fc00::/7",
)  # fmt: skip


@cache
def _private() -> tuple[Network, ...]:
    return tuple(ip_network(p) for p in PRIVATE)


class Ground(Struct, frozen=True):
    """What this box has that is no cloud's. networks: those of the LANs, by interface."""

    own: dict[Address, str]
    networks: tuple[tuple[Network, str], ...]
    pools: tuple[Network, ...]


def ground(seen: Observed, world: World) -> Ground:
    """Whatever is reached by an interface without a default route is a LAN; of one with it the
    addresses that mean all its neighbours are left out elsewhere."""
    pools = tuple(ip_network(p) for p in (world.host.pool4, world.host.pool6) if p)
    clients = {i for r in world.services.values() for i in r.spec.steer.interfaces}
    links = [link for link in seen.links.values() if not link.alias.startswith("viscum")]
    return Ground(
        {address: link.name for link in seen.links.values() for address in link.addresses},
        tuple(
            (network, link.name)
            for link in links
            if link.name in clients or not (link.has_default or link.uplink)
            for network in (*link.networks, *link.behind)
        ),
        pools,
    )


def refusal(
    address: Address,
    record: Record,
    world: World,
    there: Ground,
    allowed: Callable[[Address], bool],
) -> str | None:
    """Why the service may not have it as a target, or None. allowed: the tenant's allowance."""
    network = ip_network(address)
    if why := unusable(network):
        return why
    if link := there.own.get(address):
        return f"is this box's own address (on {link})"
    if any(address in pool for pool in there.pools):
        return "lies in Viscum's own address pool"
    within = record.spec.steer.names.within
    if within and not any(address in n for n in within):
        return "is not within steer.names.within"
    if not within:
        for lan, link in there.networks:
            if address in lan:
                return f"is in a network of this box's LAN (on {link})"
        if any(address in n for n in _private()):
            return "is not a public address, and steer.names.within does not name it"
    if not allowed(address):
        return "is beyond the tenant's allowance"
    claim = Claim(record.name, (network,), record.spec.steer.ports)
    for other in world.services.values():
        if other.name == record.name:
            continue
        networks = tuple(ip_network(a) for a in other.addresses)
        if overlaps(claim, Claim(other.name, networks, other.spec.steer.ports)):
            return f"is a target of {other.name}'s"
    return None
