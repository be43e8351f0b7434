"""Starting a service and moving it to a new generation: what `run`, `apply` and `restart` do."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from viscum import evolve, flows
from viscum.clock import now
from viscum.errors import ViscumError
from viscum.kernel import conntrack, director, logs, netns, prober, sockets
from viscum.kernel.cgroup import Group
from viscum.plan import PROTOCOLS, Instance, instances, steering
from viscum.spec import Port, Spec
from viscum.store import Record, World

if TYPE_CHECKING:
    from viscum.change import Change
    from viscum.host import Host

LOG_LINES = 10
SETTLED = 1.0  # a server that listens on some of its ports for so long has opened all it will


class Outcome(Struct):
    """What a command did to a service, for the CLI to say."""

    name: str
    did: str  # "started", "unchanged", "upgraded", "changed", …
    notes: list[str] = field(default_factory=list)
    flows_reset: int = 0
    listening: bool = True
    ready: bool = True


class StartFailed(ViscumError):
    """The server ended, or never listened; `log` is what it said last."""

    def __init__(self, message: str, log: list[str], *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.log = log


def start(
    host: Host,
    change: Change,
    world: World,
    old: Record | None,
    spec: Spec,
    addresses: tuple[str, ...],
    taken: list[int],
    foreground: bool,
    tenant: str = "",
) -> Outcome:
    """Under the lock, with everything validated; tenant: whose a new service is. Raises
    StartFailed, OpFailed."""
    name = frozenset({spec.name})
    before = change.world
    if old is None:
        world = evolve.create(world, spec, addresses, taken)
        world = world.with_record(replace(_armed(world.services[spec.name], now()), tenant=tenant))
        change.commit(world, name, foreground)
        seed(change, spec.name)
        return listen(host, change, before, Outcome(spec.name, "started"))
    if old.spec == spec and old.addresses == addresses and _wanted(old):
        dead = _has_dead(host, world, spec.name)
        if dead:
            world = world.with_record(evolve.anew(old))
        change.commit(world, name, foreground)
        outcome = Outcome(spec.name, "started" if dead else "unchanged")
        try:
            return listen(host, change, None, outcome)
        except StartFailed:
            if dead or not _has_dead(host, change.world, spec.name):
                raise
        # Not what was started has ended, but what was about to when this command came.
        old = change.world.services[spec.name]
        return start(host, change, change.world, old, spec, addresses, taken, foreground)
    did = "changed"
    if evolve.is_upgrade(old.spec, spec) or not _wanted(old):
        return upgrade(host, change, world, old, spec, addresses, taken, foreground)
    until = evolve.deadline(now(), spec.run.drain)
    change.commit(_changed(world, old, spec, addresses, until), name, foreground)
    seed(change, spec.name)
    return listen(host, change, None, Outcome(spec.name, did))


def upgrade(
    host: Host,
    change: Change,
    world: World,
    old: Record,
    spec: Spec,
    addresses: tuple[str, ...],
    taken: list[int],
    foreground: bool = False,
) -> Outcome:
    """A new generation beside what there is of the old ones (N8)."""
    before = change.world
    did = "upgraded" if old.running and old.generations else "started"
    until = evolve.deadline(now(), spec.run.drain)
    world = _changed(world, old, spec, addresses, until)
    world = evolve.add_generation(world, world.services[spec.name], spec, taken)
    change.commit(world, frozenset({spec.name}), foreground)
    seed(change, spec.name)
    return listen(host, change, before, Outcome(spec.name, did), bool(old.generations))


def retarget(host: Host, change: Change, record: Record, addresses: tuple[str, ...]) -> None:
    """The same processes for other addresses of the same targets. Raises OpFailed."""
    mine = [i for i in instances(change.world, host.names) if i.record.name == record.name]
    used = {str(ip_network(a)) for a in flows.by_target(mine, host.udp_targets())}
    world = evolve.retarget(change.world, record, addresses, used)
    if not set(addresses) <= set(record.addresses):
        world = world.with_record(_armed(world.services[record.name], now()))
    change.commit(world)
    seed(change, record.name)


def ends_first(old: Record, spec: Spec, *, anyway: bool = False) -> bool:
    """Whether the old generation has to end before the new one starts: a server that can't run
    twice. anyway: also when the spec does not ask for new processes (`restart`)."""
    if spec.upgrade != "replace" or not old.generations:
        return False
    return anyway or not _wanted(old) or evolve.is_upgrade(old.spec, spec)


def end(change: Change, old: Record, spec: Spec) -> None:
    """No new flows for it; it ends with its last one, or at the new spec's drain limit."""
    until = evolve.deadline(now(), spec.run.drain)
    change.commit(change.world.with_record(evolve.stopping(old, until)))


def instead(
    host: Host,
    change: Change,
    record: Record,
    first: Record,
    spec: Spec,
    addresses: tuple[str, ...],
    taken: list[int],
    foreground: bool,
) -> Outcome:
    """The new generation where `first` was; `record` is what has become of that.

    If it ends or does not listen in time, the old spec is started again.
    """
    before, name = change.world, frozenset({spec.name})
    goes_back = _wanted(first)
    world = _changed(before, record, spec, addresses, None)
    world = evolve.add_generation(world, world.services[spec.name], spec, taken)
    change.commit(world, name, foreground)
    seed(change, spec.name)
    outcome = Outcome(spec.name, "upgraded" if goes_back else "started")
    try:
        return listen(host, change, before, outcome, goes_back)
    except StartFailed as failed:
        if goes_back:
            old = change.world.services[spec.name]
            upgrade(host, change, change.world, old, old.spec, old.addresses, taken)
            failed.state = f"the new generation is removed; {spec.name} was started as it was"
        raise


def listen(
    host: Host, change: Change, before: World | None, outcome: Outcome, had: bool = False
) -> Outcome:
    """Waits until the newest generation listens, and makes it live; rolls back to `before`.

    before: the world to go back to when the server ends (or, where there is an old generation
    to go back to, does not listen in time); None: it was running already, nothing is taken back.
    had: whether there is one.
    """
    name = outcome.name
    record = change.world.services[name]
    if not record.generations:
        return outcome
    newest = [
        i for i in instances(change.world, host.names)
        if i.record.name == name and i.generation.number == record.generations[0].number
    ]  # fmt: skip
    limit = float(record.spec.run.start_timeout)
    end = time.monotonic() + limit
    for i in newest:
        missing, ended = _await(i, end, lambda: host.progress(f"{name}: waiting until it listens"))
        if not ended and not missing:
            continue
        if ended or (missing and _nothing(i)):
            log = logs.tail(str(host.store.log(name, i.generation.number, i.index)), LOG_LINES)
            if ended or had:
                what = "ended before it listened" if ended else f"did not listen within {limit:g} s"
                failed = StartFailed(
                    f"{name}: {' '.join(i.generation.spec.command)!r} {what}",
                    log.lines,
                    hint=f"the whole log: viscum logs {name}",
                )
                if had:
                    failed.state = f"the new generation is removed; {name} goes on as it was"
                if before is not None:
                    change.roll_back(before, failed)
                raise failed
            outcome.listening = False
            outcome.notes.append(
                f"{name} runs but does not listen yet on {_words(missing)}; until it does, "
                "clients stay on the cloud"
            )
        else:
            outcome.notes.append(f"{name} does not listen on {_words(missing)}")
    if outcome.listening and record.generations[0].state == "starting":
        outcome.ready = _get_ready(host, change, before, newest, outcome, had)
    until = evolve.deadline(now(), record.spec.run.drain)
    if outcome.listening and outcome.ready:
        live = evolve.live(record, until)
        if live != record:
            change.commit(change.world.with_record(live))
    return outcome


def _get_ready(
    host: Host,
    change: Change,
    before: World | None,
    newest: list[Instance],
    outcome: Outcome,
    had: bool,
) -> bool:
    """Runs the spec's `run.ready` in every instance until it exits with 0. Whether all do in time;
    parameters as in `listen`, which calls it when all listen."""
    name, run = outcome.name, newest[0].record.spec.run
    end = time.monotonic() + run.start_timeout
    for i in newest if run.ready else ():
        beside = prober.Beside(Group(i.cgroup), i.generation.spec.run, host.names.uid(i.slot))
        done = _ready(
            beside, run.ready, end, lambda: host.progress(f"{name}: waiting until it is ready")
        )
        if done.ok:
            continue
        never = f"was not ready within {run.start_timeout}: {done.why}"
        if not (had or done.hopeless or done.server_ended):
            outcome.notes += [f"{name} {never}; until it is, clients stay on the cloud"]
            outcome.notes += [f"  | {line}" for line in done.output.splitlines()[-LOG_LINES:]]
            return False
        what = f"can't be asked whether it is ready: {done.why}" if done.hopeless else never
        log = done.output.splitlines()
        if done.server_ended:
            what = "ended before it was ready"
            log = logs.tail(str(host.store.log(name, i.generation.number, i.index))).lines
        failed = StartFailed(
            f"{name}: {' '.join(i.generation.spec.command)!r} {what}",
            log[-LOG_LINES:],
            hint=f"the server's log: viscum logs {name}; the command is run.ready of the spec",
        )
        if had:
            failed.state = f"the new generation is removed; {name} goes on as it was"
        if before is not None:
            change.roll_back(before, failed)
        raise failed
    return True


def _ready(
    beside: prober.Beside, argv: tuple[str, ...], end: float, waiting: Callable[[], None]
) -> prober.Done:
    """How the command went the last time it was run before `end`."""
    begun, pause, told = time.monotonic(), 0.05, False
    before: prober.Done | None = None
    while True:
        try:
            done = prober.run(beside, argv, max(end - time.monotonic(), pause))
        except ProcessLookupError:
            return prober.Done(False, server_ended=True)
        except OSError as error:
            return prober.Done(False, prober.in_words(argv, error), hopeless=True)
        if done.ok or done.server_ended:
            return done
        if time.monotonic() + pause >= end:
            # one that time cut off says nothing of why
            return before if before and not done.output else done
        if not told and time.monotonic() - begun > 1:
            waiting()
            told = True
        before = done
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)


def seed(change: Change, name: str) -> None:
    """UDP flows the router tracks stay on the cloud; then there is no need to arm (§4.3), unless
    the router did not track them before our own rules were there."""
    record = change.world.services[name]
    if not record.arm_until_ns:
        return
    targets = [ip_network(a) for a in record.addresses]
    if not {t.version for t in targets} <= conntrack.operated():
        return
    flows = tuple(
        flow
        for flow in conntrack.udp_flows()
        if any(ip_address(flow[2]) in target for target in targets)
    )
    by = director.get(director.chosen(record.spec.director), attach=change.attach)
    for service in steering(change.world, change.observe()):
        if service.sid == record.sid:
            by.seed_udp(service, flows)
    change.commit(change.world.with_record(replace(record, arm_until_ns=0)))


def _changed(
    world: World, old: Record, spec: Spec, addresses: tuple[str, ...], until: float | None
) -> World:
    """Steering that covers more has to learn which UDP flows are the cloud's there already."""
    wider = evolve.widened(old, spec, addresses)
    world = evolve.change_spec(world, old, spec, addresses, until)
    return world.with_record(_armed(world.services[spec.name], now())) if wider else world


def _armed(record: Record, moment: float) -> Record:
    steer = record.spec.steer
    udp = not steer.ports or any(p.proto == "udp" for p in steer.ports)
    if not udp or steer.udp.open == "quic-initial" or not steer.udp.arm:
        return record
    return replace(record, arm_until_ns=int((moment + float(steer.udp.arm)) * 1e9))


def _wanted(record: Record) -> bool:
    """Whether a generation is there that takes new flows."""
    return (
        record.running
        and not record.removing
        and any(g.state != "draining" for g in record.generations)
    )


def _has_dead(host: Host, world: World, name: str) -> bool:
    """Whether a server of the service has ended that should not."""
    return any(
        i.generation.state != "draining" and not Group(i.cgroup).populated()
        for i in instances(world, host.names)
        if i.record.name == name
    )


def _await(i: Instance, end: float, waiting: Callable[[], None]) -> tuple[list[Port], bool]:
    """(ports it does not listen on, whether it ended). Returns when it listens, ends or `end`."""
    group, told, some, pause = Group(i.cgroup), False, 0.0, 0.002
    begun = time.monotonic()
    with netns.opened(i.netns) as fd:
        while True:
            missing, found = _missing(i, fd)
            moment = time.monotonic()
            if not missing:
                return [], False
            if not group.populated():
                return missing, True
            if found:
                some = some or moment
            if moment >= end or (some and moment - some >= SETTLED):
                return missing, False
            if not told and moment - begun > 1:
                waiting()
                told = True
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)


def _missing(i: Instance, fd: int) -> tuple[list[Port], bool]:
    """The spec's ports without a listener, and whether any has one."""
    listening = {(s.proto, s.port) for s in sockets.listeners(fd)}
    ports = i.record.spec.steer.ports
    if not ports:
        return ([] if listening else [Port("tcp", 1, 65535)]), bool(listening)
    missing = [
        p
        for p in ports
        if not any(
            proto == PROTOCOLS[p.proto] and p.first <= port <= p.last for proto, port in listening
        )
    ]
    return missing, len(missing) < len(ports)


def listens(i: Instance) -> bool:
    """Whether it listens on any of its ports now."""
    try:
        return not _nothing(i)
    except FileNotFoundError:
        return False


def _nothing(i: Instance) -> bool:
    with netns.opened(i.netns) as fd:
        return not _missing(i, fd)[1]


def _words(ports: list[Port]) -> str:
    return ", ".join("any port" if (p.first, p.last) == (1, 65535) else str(p) for p in ports)
