"""(desired world, observed world) -> the Ops between them. Pure: no kernel, no files.

The order is the argument for safety: what a packet or a process needs is there before the packet
or process can be, and goes after it. Rolling back is the same function with the previous world.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path

from msgspec import Struct

from viscum import egress, names, ops
from viscum.kernel.cgroup import rounded
from viscum.model import (
    Address,
    HostLink,
    HostRoute,
    HostRule,
    Inner,
    InnerRoute,
    InnerRule,
    Network,
    Observed,
    SteerGeneration,
    Steering,
    SteerInstance,
    SteerPort,
    SteerService,
)
from viscum.spec import Spec, Steer, limits_in_force
from viscum.store import Generation, Record, World

PROTOCOLS = {"tcp": 6, "udp": 17}
RULE_PREF = 118
DEFAULT_MTU = 1500


class Instance(Struct, frozen=True):
    """One wanted instance with all its names."""

    record: Record
    generation: Generation
    index: int
    slot: int
    netns: str
    alias: str
    cgroup: str
    own: tuple[tuple[Address, Address, int], ...]  # (host's, instance's, prefix length)

    @property
    def link(self) -> str:
        return names.link(self.slot)

    @property
    def label(self) -> str:
        return f"{self.generation.number}.{self.index}"

    @property
    def group(self) -> str:
        """Key in Observed.groups."""
        return f"{self.record.name}/{self.label}"

    @property
    def targets(self) -> tuple[Network, ...]:
        """Also those that were retired: their flows may go on."""
        retired = (a for r in self.record.retired for a in r.addresses)
        return tuple(ip_network(a) for a in dict.fromkeys((*self.record.addresses, *retired)))


def instances(world: World, host: names.HostNames) -> Iterator[Instance]:
    """Every instance the world wants to exist, by service and newest generation first."""
    for record in world.services.values():
        for generation in record.generations:
            for index, slot in enumerate(generation.slots):
                key = (record.name, generation.number, index)
                yield Instance(
                    record,
                    generation,
                    index,
                    slot,
                    host.netns(*key),
                    host.alias(*key),
                    host.cgroup(*key),
                    _own(world, slot),
                )


def _own(world: World, slot: int) -> tuple[tuple[Address, Address, int], ...]:
    pools = ((world.host.pool4, 31), (world.host.pool6, 127))
    return tuple(
        (pool[2 * slot], pool[2 * slot + 1], length)
        for pool, length in ((_pool(text), length) for text, length in pools if text)
    )


@lru_cache(4)
def _pool(text: str) -> Network:
    return ip_network(text)


# ---- what a namespace should look like inside ------------------------------------------------


def inner(instance: Instance, seen: Observed) -> Inner:
    """Design §5: targets are local for what comes in; what the server sends to them goes out."""
    addresses: set[tuple[str, str]] = set()
    routes: set[InnerRoute] = set()
    rules: set[InnerRule] = set()
    table = names.SERVICE_TABLE
    for host, own, length in instance.own:
        version = own.version
        addresses.add((names.INNER_LINK, f"{own}/{length}"))
        routes.add(InnerRoute(version, None, 254, via=host))
        rules.add(InnerRule(version, 50, table, iif="lo"))
        rules.add(InnerRule(version, 100, 255))
        for target in instance.targets:
            if target.version != version:
                continue
            if target.num_addresses == 1:
                addresses.add(("lo", str(target)))
            else:
                routes.add(InnerRoute(version, target, 255, local=True))
            routes.add(InnerRoute(version, target, table, via=host, src=own))
        for network, source in _towards_clients(instance, version, seen):
            routes.add(InnerRoute(version, network, 254, via=host, src=source))
    return Inner(
        frozenset(addresses), frozenset(routes), frozenset(rules), frozenset({"lo", "eth0"})
    )


def _towards_clients(
    instance: Instance, version: int, seen: Observed
) -> Iterator[tuple[Network, Address]]:
    """The clients' networks, and the one target as the source to speak to them from.

    A UDP server that is bound to every address and connects a socket to its client (`iperf3 -u`)
    would get its own address, and the client's next datagram would not find the socket. With
    several targets none can be told beforehand; and a server that may open connections to the LAN
    or the router does so from its own address.
    """
    targets = [t for t in instance.targets if t.version == version]
    allowed = {rule.to for rule in instance.record.spec.egress.allow}
    if len(targets) != 1 or targets[0].num_addresses != 1 or not allowed <= {"internet"}:
        return
    for name in instance.record.spec.steer.interfaces:
        for network in seen.links[name].networks if name in seen.links else ():
            if network.version == version and targets[0].network_address not in network:
                yield network, targets[0].network_address


# ---- what the director should do -------------------------------------------------------------


def steering(world: World, seen: Observed) -> Steering:
    """The world as directors see it; interfaces that are not there are left out."""
    found: list[SteerService] = []
    for record in world.services.values():
        # Until all of a new generation listens an older one serves: it may yet be taken back.
        live = any(g.state == "live" for g in record.generations)
        unready = bool(record.spec.run.ready)  # and of one that starts nobody has said it is ready
        generations = tuple(
            SteerGeneration(
                g.number,
                g.state == "live" or (g.state == "starting" and not live and not unready),
                tuple(
                    SteerInstance(
                        slot,
                        # What goes is not mended (_network): its link may be gone for good.
                        names.number(slot)
                        if names.link(slot) in seen.links
                        or not (record.removing or g.state == "draining")
                        else 0,
                        names.number(slot),
                        *_steer_own(world, slot),
                    )
                    for slot in g.slots
                ),
            )
            for g in record.generations
        )
        found.append(
            _service(
                record,
                record.sid,
                record.spec.steer,
                record.addresses,
                generations,
                seen,
                admits=record.running and not record.removing,
                held=held(record),
            )
        )
        found.extend(
            _service(record, r.sid, r.spec.steer, r.addresses, generations, seen, admits=False)
            for r in record.retired
        )
    return tuple(found)


def _steer_own(world: World, slot: int) -> tuple[Address | None, Address | None]:
    own = {address.version: address for _, address, _ in _own(world, slot)}
    return own.get(4), own.get(6)


def held(record: Record) -> tuple[str, ...]:
    """Interfaces that were given up: what began there goes on, and comes to the service of
    today, which has the same targets and ports."""
    given_up = (name for r in record.retired for name in r.spec.steer.interfaces)
    own = record.spec.steer.interfaces
    return tuple(name for name in dict.fromkeys(given_up) if name not in own)


def _service(
    record: Record,
    sid: int,
    steer: Steer,
    addresses: tuple[str, ...],
    generations: tuple[SteerGeneration, ...],
    seen: Observed,
    *,
    admits: bool,
    held: tuple[str, ...] = (),
) -> SteerService:
    return SteerService(
        sid=sid,
        name=record.name,
        enabled=admits and record.enabled,
        interfaces=tuple(seen.links[i].ifindex for i in steer.interfaces if i in seen.links),
        targets=tuple(ip_network(a) for a in addresses),
        ports=tuple(SteerPort(PROTOCOLS[p.proto], p.first, p.last) for p in steer.ports),
        clients=tuple(ip_network(c) for c in steer.clients),
        generations=generations,
        share=steer.share,
        share_by_flow=steer.share_by == "flow",
        drop_when_down=steer.when_down == "drop",
        honour_firewall=steer.firewall == "honour",
        quic_initial_only=steer.udp.open == "quic-initial",
        ping_edge=steer.ping == "edge",
        udp_idle_ns=int(float(steer.udp.idle) * 1e9),
        udp_epoch=record.udp_epoch,
        arm_until_ns=record.arm_until_ns,
        held=tuple(seen.links[i].ifindex for i in held if i in seen.links),
        until_ns=record.until_ns if admits else 0,  # it would turn on what is off for good
    )


# ---- the plan --------------------------------------------------------------------------------


def plan(
    world: World,
    seen: Observed,
    host: names.HostNames,
    logs: Path,
    director: Iterable[ops.Op],
    start: frozenset[str] = frozenset(),
    foreground: bool = False,
) -> tuple[ops.Op, ...]:
    """The Ops that make `seen` into `world`.

    director: the directors' own steps. start: names of the services whose dead processes are to
    be started (only a command that names a service starts it again).
    """
    wanted = list(instances(world, host))
    processes = [op for i in wanted for op in _process(i, seen, host, logs, start, foreground)]
    starts = any(isinstance(op, ops.StartProcess) for op in processes)
    rules_first, rules_last = _firewall(wanted, world, seen, host, starts)
    return (
        *(op for i in wanted for op in _network(i, seen)),
        *rules_first,
        *_marks(wanted, "add", seen),
        *processes,
        *director,
        *_marks(wanted, "del", seen),
        *_removals(wanted, seen, host),
        *rules_last,
    )


def mtu(spec: Spec, seen: Observed) -> int:
    """The least MTU of the client interfaces (§4.4)."""
    found = (seen.links[i].mtu for i in spec.steer.interfaces if i in seen.links)
    return min(found, default=DEFAULT_MTU)


def _alive(i: Instance, seen: Observed) -> bool:
    group = seen.groups.get(i.group)
    return group is not None and group.populated


def _mended(i: Instance, alive: bool) -> bool:
    """What is about to go is not: mending might fail, and it would never go."""
    return not i.record.removing and (alive or i.generation.state != "draining")


def _network(i: Instance, seen: Observed) -> Iterator[ops.Op]:
    exists = i.netns in seen.inner  # a name alone is what a killed command left
    alive = _alive(i, seen)
    if not exists and alive:  # also where it is about to go: its flows are looked for inside
        yield ops.NameNamespace(i.netns, i.cgroup, i.slot)
    if not _mended(i, alive):
        return
    if not exists and not alive:
        yield ops.CreateNamespace(i.netns)
    link = seen.links.get(i.link)
    wanted_mtu = mtu(i.record.spec, seen)
    addresses = tuple(f"{host}/{length}" for host, _, length in i.own)
    complete = (
        link is not None
        and exists
        and link.up
        and link.nsid == names.number(i.slot)
        and link.alias == i.alias
        and {a.partition("/")[0] for a in addresses} <= {str(a) for a in link.addresses}
    )
    if not complete:
        own = tuple(str(address) for _, address, _ in i.own)
        yield ops.ConnectLink(i.netns, i.slot, i.alias, wanted_mtu, addresses, own)
    elif link is not None and link.mtu != wanted_mtu:
        yield ops.SetMtu(i.netns, i.link, wanted_mtu)
    want, have = inner(i, seen), seen.inner.get(i.netns, NEW)
    if want != have:
        yield ops.ConfigureNamespace(i.netns, want, have if exists else NEW)


# A new namespace: the kernel's own rules, nothing else that is compared.
NEW = Inner(
    rules=frozenset({InnerRule(4, 0, 255), InnerRule(6, 0, 255)}),
)


def _process(
    i: Instance,
    seen: Observed,
    host: names.HostNames,
    logs: Path,
    start: frozenset[str],
    foreground: bool,
) -> Iterator[ops.Op]:
    record, generation = i.record, i.generation
    group = seen.groups.get(i.group)
    limits = limits_in_force(record.spec)
    if not _alive(i, seen):
        if record.running and record.name in start and generation.state != "draining":
            yield ops.StartProcess(
                service=record.name,
                label=i.label,
                netns=i.netns,
                cgroup=i.cgroup,
                command=generation.spec.command,
                run=generation.spec.run,
                limits=limits,
                log=str(logs / record.name / f"{i.label}.log"),
                # Both have the specs of other services, with the secrets in their environments.
                hide=(host.state_dir, str(Path(host.config_dir).absolute())),
                own=tuple(str(own) for _, own, _ in i.own),
                uid=host.uid(i.slot),
                foreground=foreground,
            )
    elif group is not None and (group.cpu, group.memory, group.processes) != rounded(
        limits.cpu, limits.memory, limits.processes
    ):
        yield ops.SetLimits(i.cgroup, limits)


def _removals(wanted: list[Instance], seen: Observed, host: names.HostNames) -> Iterator[ops.Op]:
    for group in _ending(wanted, seen):
        yield ops.StopProcess(f"{host.prefix}/{group}".rstrip("/"), STOP_TIMEOUT)
    for link in _leaving(wanted, seen, host):
        yield ops.DeleteLink(link.name)
    namespaces = {i.netns for i in wanted}
    for name in seen.namespaces:
        if name not in namespaces:
            yield ops.DeleteNamespace(name)


def _ending(wanted: list[Instance], seen: Observed) -> list[str]:
    """Groups of nothing that is wanted. A killed command may have left a service's group, or the
    host's (""), without a child; once an instance is in it, it is needed."""
    needed = {part for i in wanted for part in (i.group, i.record.name, "")}
    return [group for group in seen.groups if group not in needed]


# A removed service's own stop-timeout has been waited for by then (host.py); this is for what a
# killed command left behind.
STOP_TIMEOUT = 2.0


# ---- firewall = "honour" ---------------------------------------------------------------------


def _wanted_marks(wanted: list[Instance], seen: Observed) -> tuple[set[HostRule], set[HostRoute]]:
    rules: set[HostRule] = set()
    routes: set[HostRoute] = set()
    for i in wanted:
        if i.record.spec.steer.firewall != "honour":
            continue
        if i.link not in seen.links and not _mended(i, _alive(i, seen)):
            continue
        number = names.number(i.slot)
        for _, own, _ in i.own:
            routes.add(HostRoute(own.version, number, own, i.link))
            # `iif lo` is how the kernel looks a reply's source up for strict rp_filter.
            for iif in (*i.record.spec.steer.interfaces, *held(i.record), "lo"):
                rules.add(HostRule(own.version, RULE_PREF, number, iif, number))
    return rules, routes


def _marks(wanted: list[Instance], verb: str, seen: Observed) -> Iterator[ops.Op]:
    rules, routes = _wanted_marks(wanted, seen)
    if verb == "add":
        yield from (ops.ChangeRoute("add", r) for r in _stable(routes - seen.routes))
        yield from (ops.ChangeRule("add", r) for r in _stable(rules - seen.rules))
    else:
        yield from (ops.ChangeRule("del", r) for r in _stable(seen.rules - rules))
        yield from (ops.ChangeRoute("del", r) for r in _stable(seen.routes - routes))


def _stable(items: Iterable[HostRule] | Iterable[HostRoute]) -> list:  # type: ignore[type-arg]
    return sorted(items, key=str)


# ---- egress ----------------------------------------------------------------------------------


def _ruleset(
    wanted: list[Instance], leaving: Iterable[HostLink], world: World, seen: Observed
) -> str:
    clients = {name for i in wanted for name in i.record.spec.steer.interfaces}
    lan = {
        network
        for link in seen.links.values()
        if link.name != "lo" and not link.alias.startswith("viscum")
        # Where the Internet is the neighbours are not LAN, unless clients are there as well.
        for network in (
            (*link.networks, *link.behind)
            if not link.has_default
            else link.networks
            if link.name in clients
            else ()
        )
    }
    # By an interface with a default route the Internet is reached, even if clients are there.
    links = [
        link.name
        for link in seen.links.values()
        if not link.uplink and link.name != "lo" and not link.alias.startswith("viscum")
    ]
    pools = [ip_network(p) for p in (world.host.pool4, world.host.pool6) if p]
    return egress.ruleset(
        [
            egress.EgressInstance(
                i.link,
                i.group,
                tuple(own for _, own, _ in i.own),
                i.targets,
                i.record.spec.egress.allow,
                i.record.spec.steer.firewall == "honour",
                i.generation.spec.run.sandbox == "strict",
            )
            for i in wanted
        ]
        + [egress.EgressInstance(link.name, link.alias, (), (), (), False) for link in leaving],
        lan,
        pools,
        links,
    )


def _firewall(
    wanted: list[Instance],
    world: World,
    seen: Observed,
    host: names.HostNames,
    starts: bool,
) -> tuple[list[ops.Op], list[ops.Op]]:
    """What is done before a process starts, and what when those that go have ended.

    Whatever still runs on a link that goes may send nothing meanwhile.
    """
    leaving = _leaving(wanted, seen, host)
    final = _ruleset(wanted, (), world, seen)
    ends = bool(_ending(wanted, seen))
    adds = starts or any(i.link not in seen.links for i in wanted)
    first = _ruleset(wanted, leaving, world, seen) if ends else final
    now = seen.nft
    before: list[ops.Op] = []
    if wanted and (adds or not ends) and egress.digest(first) != now:
        before, now = [ops.Nft(first)], egress.digest(first)
    return before, [ops.Nft(final)] if egress.digest(final) != now else []


def _leaving(wanted: list[Instance], seen: Observed, host: names.HostNames) -> list[HostLink]:
    """Our links that no instance has any more."""
    links = {i.link for i in wanted}
    return [
        link
        for link in seen.links.values()
        if link.alias.startswith(f"{host.prefix}:") and link.name not in links
    ]
