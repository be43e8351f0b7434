"""What is, read back from the kernel and held against what was asked for."""

from __future__ import annotations

import re

from msgspec import Struct

from viscum.change import Change
from viscum.clock import now
from viscum.flows import of_clients
from viscum.host import Host
from viscum.kernel import director, process, sockets
from viscum.kernel.cgroup import Group
from viscum.kernel.observe import observe
from viscum.model import FREE, Counters, Histogram, Hold
from viscum.plan import Instance, instances
from viscum.store import Record, World


class InstanceStatus(Struct, frozen=True):
    """One process tree in one namespace. cpu, and throttled for its limit, in seconds; memory in
    bytes; oom_kills: processes ended for want of memory. None: the kernel does not say."""

    label: str
    namespace: str
    link: str
    pid: int | None
    listens: tuple[str, ...]
    flows: int
    cpu: float | None
    memory: int | None
    processes: int
    throttled: float | None = None
    oom_kills: int | None = None


class GenerationStatus(Struct, frozen=True):
    number: int
    state: str
    ends_in: float | None  # seconds until its drain limit
    instances: tuple[InstanceStatus, ...]


class ServiceStatus(Struct, frozen=True):
    """state: running, not ready, not listening, dead, stopped, draining, removing.

    in_bytes, out_bytes: of clients' flows at the edge; own_in_bytes, own_out_bytes: of the server's
    own flows with others; off_wan_bytes: what clients exchanged with the edge instead of over the
    WAN, less what the server exchanged itself (negative while it fetches more than it serves).
    connect: how long a SYN waits for its SYN-ACK; rtt: round trips between here and the clients.
    All since the service was made.
    """

    name: str
    state: str
    steering: str  # edge, cloud, drop
    share: int
    held: Hold
    turns_back_in: float | None
    targets: tuple[str, ...]
    ports: tuple[str, ...]
    interfaces: tuple[str, ...]
    director: str
    flows: int
    in_bytes: int
    out_bytes: int
    decisions: dict[str, int]
    generations: tuple[GenerationStatus, ...]
    drift: tuple[str, ...]
    own_in_bytes: int = 0
    own_out_bytes: int = 0
    off_wan_bytes: int = 0
    connect: Histogram = Histogram()
    rtt: Histogram = Histogram()


def services(host: Host, names: tuple[str, ...] = (), *, deep: bool = False) -> list[ServiceStatus]:
    """One entry per service. deep: also compares everything with the spec (drift)."""
    world = host.load()
    wanted = [r for r in world.services.values() if not names or r.name in names]
    drift = _drift(host, world) if deep and wanted else {}
    directors = director.installed(attach=host.attach) if wanted else ()
    looks = {by.name: by.look() for by in directors}
    mine: dict[str, list[Instance]] = {r.name: [] for r in wanted}
    for i in instances(world, host.names):
        if i.record.name in mine:
            mine[i.record.name].append(i)
    seen = sockets.survey(i.netns for each in mine.values() for i in each)
    found = []
    for r in wanted:
        look = looks[director.chosen(r.spec.director)]
        there = {i.label: _instance(i, seen.get(i.netns), look) for i in mine[r.name]}
        found.append(_service(r, there, look, tuple(drift.get(r.name, ()))))
    return found


def _service(
    record: Record,
    found: dict[str, InstanceStatus],
    look: director.Look,
    drift: tuple[str, ...],
) -> ServiceStatus:
    """found: its instances by label."""
    moment = now()
    generations = tuple(
        GenerationStatus(
            g.number,
            g.state,
            None if g.drain_until is None else max(0.0, g.drain_until - moment),
            tuple(found[f"{g.number}.{n}"] for n in range(len(g.slots))),
        )
        for g in record.generations
    )
    turned = bool(record.until_ns) and moment * 1e9 >= record.until_ns
    enabled = record.enabled != turned
    sums = sum((look.counters.get(sid, Counters()) for sid in record.sids), Counters())
    return ServiceStatus(
        name=record.name,
        state=_state(record, generations),
        steering="edge" if enabled and record.running and not record.removing else "cloud",
        share=record.spec.steer.share,
        held=look.holds.get(record.sid, FREE),
        turns_back_in=(record.until_ns / 1e9 - moment) if record.until_ns and not turned else None,
        targets=record.addresses,
        ports=tuple(str(p) for p in record.spec.steer.ports),
        interfaces=record.spec.steer.interfaces,
        director=director.chosen(record.spec.director),
        flows=sum(i.flows for i in found.values()),
        in_bytes=sums.in_bytes,
        out_bytes=sums.out_bytes,
        decisions=dict(sums.packets),
        generations=generations,
        drift=drift,
        own_in_bytes=sums.own_in_bytes,
        own_out_bytes=sums.own_out_bytes,
        off_wan_bytes=sums.in_bytes + sums.out_bytes - sums.own_in_bytes - sums.own_out_bytes,
        connect=sums.connect,
        rtt=sums.rtt,
    )


def _state(record: Record, generations: tuple[GenerationStatus, ...]) -> str:
    if record.removing:
        return "removing"
    if not record.running:
        return "draining" if generations else "stopped"
    newest = generations[0].instances if generations else ()
    if not any(i.processes for i in newest):
        return "dead"
    if not any(i.listens for i in newest):
        return "not listening"
    return "not ready" if record.unready else "running"


def _instance(i: Instance, seen: sockets.Sockets | None, look: director.Look) -> InstanceStatus:
    group = Group(i.cgroup)
    pids: list[int] = []
    usage = None
    if group.exists():
        pids = group.pids()
        usage = group.usage()
    return InstanceStatus(
        label=i.label,
        namespace=i.netns,
        link=i.link,
        pid=process.main_pid(group, pids) if pids else None,
        listens=tuple(dict.fromkeys(map(_listener, seen.listeners))) if seen else (),
        flows=(len(of_clients(i, seen.tcp_flows)) if seen else 0) + look.udp_flows.get(i.slot, 0),
        cpu=None if usage is None or usage.cpu_usec is None else usage.cpu_usec / 1e6,
        memory=None if usage is None else usage.memory,
        processes=len(pids),
        throttled=None
        if usage is None or usage.throttled_usec is None
        else usage.throttled_usec / 1e6,
        oom_kills=None if usage is None else usage.oom_kills,
    )


def _listener(s: sockets.Listener) -> str:
    host = f"[{s.address}]" if s.address.version == 6 else str(s.address)
    return f"{host}:{s.port}/{'tcp' if s.proto == sockets.TCP else 'udp'}"


def mentions(text: str, name: str) -> bool:
    """Whether a step's words name the service, alone or as a part of a path or namespace."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def _drift(host: Host, world: World) -> dict[str, list[str]]:
    """By service: what the plan to make things as asked would do."""
    change = Change(host.names, host.store, world, attach=host.attach)
    steps = change.ops(world, observe(host.names))
    found: dict[str, list[str]] = {}
    for op in steps:
        text = op.describe()
        named = [n for n in world.services if mentions(text, n)]
        for name in named or list(world.services):
            found.setdefault(name, []).append(f"would {text}")
    return found
