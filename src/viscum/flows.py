"""Open client flows of a service: counting them, and ending what a drain limit leaves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import ip_network

from viscum.kernel import netns, sockets
from viscum.kernel.rtnl import Rtnl
from viscum.model import Address, Network
from viscum.plan import Instance
from viscum.spec import Port
from viscum.store import Record, Retired


def count(instances: Iterable[Instance], udp: dict[int, int]) -> int:
    """Open TCP connections and UDP flows of clients. udp: live flows by slot (the director's)."""
    return sum(len(_tcp(i)) + udp.get(i.slot, 0) for i in instances)


def of_clients(i: Instance, found: list[sockets.TcpFlow]) -> list[sockets.TcpFlow]:
    """Of an instance's flows the clients' open ones. TIME_WAIT is left out: the flow has ended,
    only its echo is awaited."""
    wanted = _of_clients(i.targets) if found else bool
    return [f for f in found if f.state != sockets.TIME_WAIT and wanted(f)]


def reset(instances: Iterable[Instance]) -> int:
    """Ends every client connection with a RST, so that the client reconnects at once.

    Only connections to the targets: never listeners, never the server's own to elsewhere. Returns
    how many there were.
    """
    ended = 0
    for i in instances:
        try:
            with netns.opened(i.netns) as fd:
                ended += sockets.destroy(fd, _of_clients(i.targets))
        except FileNotFoundError:
            continue
    return ended


def by_target(
    instances: Iterable[Instance], udp: Mapping[tuple[int, Address], int]
) -> dict[Address, int]:
    """Open flows of clients by the address they go to. udp: by slot and target."""
    found: dict[Address, int] = {}
    for i in instances:
        mine = {target: n for (slot, target), n in udp.items() if slot == i.slot}
        for flow in _tcp(i):
            mine[flow.local] = mine.get(flow.local, 0) + 1
        for target, n in mine.items():
            found[target] = found.get(target, 0) + n
    return found


def outside(
    instances: Collection[Instance],
    retired: Retired,
    record: Record,
    udp: Mapping[tuple[int, Address], int],
) -> bool:
    """Whether flows are open that only the wider steering of before covers. udp: by slot and
    target.

    Where more than the targets has changed there is no telling of UDP flows: while the service has
    any, this is true.
    """
    old = retired.spec.steer
    covers_udp = not old.ports or any(p.proto == "udp" for p in old.ports)
    if covers_udp:
        slots = {i.slot for i in instances}
        mine = {target for (slot, target), n in udp.items() if n and slot in slots}
        new = record.spec.steer
        if (old.ports, old.interfaces, old.clients) == (new.ports, new.interfaces, new.clients):
            gone = [ip_network(a) for a in retired.addresses if a not in record.addresses]
            mine = {target for target in mine if any(target in network for network in gone)}
        if mine:
            return True
    targets = tuple(ip_network(a) for a in record.addresses)
    ports = record.spec.steer.ports
    covered = _of_clients(targets)
    given_up = set(old.interfaces) - set(record.spec.steer.interfaces)

    def outer(f: sockets.TcpFlow) -> bool:
        return not (covered(f) and _on(ports, f.local_port)) or _leaves_by(given_up, f)

    return any(outer(f) for i in instances for f in _tcp(i))


def _leaves_by(interfaces: set[str], flow: sockets.TcpFlow) -> bool:
    """A socket does not know by which interface its client comes; the way back tells."""
    if not interfaces:
        return False
    with Rtnl() as rtnl:
        route = rtnl.route_get(flow.remote)
        link = rtnl.link(route.oif) if route else None
    return link is not None and link.name in interfaces


def _on(ports: tuple[Port, ...], port: int) -> bool:
    return not ports or any(p.proto == "tcp" and p.first <= port <= p.last for p in ports)


def _tcp(i: Instance) -> list[sockets.TcpFlow]:
    try:
        with netns.opened(i.netns) as fd:
            return of_clients(i, sockets.tcp_flows(fd))
    except FileNotFoundError:
        return []


def _of_clients(targets: tuple[Network, ...]) -> Callable[[sockets.TcpFlow], bool]:
    """The server's own connections leave from its own address, clients' arrive at a target. So do
    a controller's probes, but from a loopback address."""
    hosts = {t.network_address for t in targets if t.num_addresses == 1}
    prefixes = [t for t in targets if t.num_addresses > 1]

    def is_client(f: sockets.TcpFlow) -> bool:
        own = f.local in hosts or any(f.local in p for p in prefixes)
        return own and not f.remote.is_loopback

    return is_client
