"""How what is asked for changes: pure functions from record to record.

Times are CLOCK_BOOTTIME seconds; a drain limit of None means "until the last flow has ended".
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from viscum import names
from viscum.errors import InConflict, Problem, ViscumError
from viscum.spec import Spec, needs_new_generation
from viscum.store import Generation, HostRecord, Record, Retired, World


def deadline(now: float, drain: float) -> float | None:
    """When flows still open are ended; a drain of 0 never ends them."""
    return now + drain if drain else None


def create(world: World, spec: Spec, addresses: tuple[str, ...], taken: Collection[int]) -> World:
    """The world with a service that was not there."""
    sid = world.host.next_sid
    world = World(_host(world.host, next_sid=sid + 1), world.services)
    record = Record(spec.name, sid, spec, addresses)
    return add_generation(world, record, spec, taken)


def add_generation(world: World, record: Record, spec: Spec, taken: Collection[int]) -> World:
    """A new generation in front of the others. `taken`: slots whose names exist on the host."""
    if len(record.generations) >= names.MAX_GENERATIONS:
        raise InConflict(
            Problem(
                "name",
                record.name,
                f"has {len(record.generations)} generations that still serve flows",
                f"wait until they have drained (`viscum status {record.name}` says when), or reset"
                " all flows, also the newest generation's, with"
                f" `viscum disable --now {record.name}` and enable it again",
            )
        )
    slots, host = _allocate(world, spec.instances, taken)
    generation = Generation(record.next_generation, spec, slots)
    record = replace(
        record,
        generations=(generation, *record.generations),
        next_generation=record.next_generation + 1,
        running=True,
        removing=False,
    )
    return World(host, world.services).with_record(record)


def change_spec(
    world: World, record: Record, spec: Spec, addresses: tuple[str, ...], until: float | None
) -> World:
    """The same processes under a changed spec: limits, steering, egress.

    Where the steering becomes narrower, flows that only the old one covers go on until they end.
    Without processes there are none.
    """
    host, retired = world.host, record.retired
    if record.generations and narrowed(record, spec, addresses):
        old = Retired(host.next_sid, record.spec, record.addresses, until)
        host, retired = _host(host, next_sid=host.next_sid + 1), (old, *retired)
    record = replace(record, spec=spec, addresses=addresses, retired=retired)
    return World(host, world.services).with_record(record)


def narrowed(record: Record, spec: Spec, addresses: tuple[str, ...]) -> bool:
    """Whether some packet that was steered no longer is."""
    old, new = record.spec.steer, spec.steer
    return (
        not set(record.addresses) <= set(addresses)
        or (bool(new.ports) and not (old.ports and set(old.ports) <= set(new.ports)))
        or not set(old.interfaces) <= set(new.interfaces)
    )


def widened(record: Record, spec: Spec, addresses: tuple[str, ...]) -> bool:
    """Whether some packet that was not steered now may be."""
    old, new = record.spec.steer, spec.steer
    return (
        not set(addresses) <= set(record.addresses)
        or (bool(old.ports) and not (new.ports and set(new.ports) <= set(old.ports)))
        or (bool(old.clients) and not (new.clients and set(new.clients) <= set(old.clients)))
        or not set(new.interfaces) <= set(old.interfaces)
    )


def retarget(
    world: World, record: Record, addresses: tuple[str, ...], used: Collection[str]
) -> World:
    """Other addresses for the same targets, as names change theirs.

    Those that go take no new flows and keep the ones they have, together with the ones that went
    so before, in one entry however often this happens. used: the addresses that flows are open to;
    of those that went before only they are kept.
    """
    kept = [a for a in record.addresses if a not in addresses]
    host, others, sid = world.host, [], 0
    for retired in record.retired:
        if retired.until is None and retired.spec.steer == record.spec.steer:
            sid = sid or retired.sid
            kept += [a for a in retired.addresses if a in used and a not in addresses]
        else:
            others.append(retired)
    if kept and record.generations:
        if not sid:
            sid, host = host.next_sid, _host(host, next_sid=host.next_sid + 1)
        others.insert(0, Retired(sid, record.spec, tuple(dict.fromkeys(kept)), None))
    record = replace(record, addresses=addresses, retired=tuple(others))
    return World(host, world.services).with_record(record)


def is_upgrade(old: Spec, new: Spec) -> bool:
    """Whether the change needs new processes."""
    return needs_new_generation(old, new)


def live(record: Record, until: float | None) -> Record:
    """The newest generation listens: it is live, and the older ones drain."""
    newest, *older = record.generations
    return replace(
        record,
        generations=(replace(newest, state="live"), *(drained(g, until) for g in older)),
    )


def anew(record: Record) -> Record:
    """Servers of it are about to be started again: where a command says when it is ready, it takes
    no new flows till then."""
    if not record.spec.run.ready:
        return record
    return replace(
        record,
        generations=tuple(
            replace(g, state="starting") if g.state == "live" else g for g in record.generations
        ),
    )


def drained(generation: Generation, until: float | None) -> Generation:
    """Draining; one that drains already keeps the earlier limit."""
    if generation.state == "draining":
        known = [t for t in (generation.drain_until, until) if t is not None]
        return replace(generation, drain_until=min(known, default=None))
    return replace(generation, state="draining", drain_until=until)


def stopping(record: Record, until: float | None) -> Record:
    """No new flows; every generation ends with its last one."""
    return replace(
        record,
        running=False,
        generations=tuple(drained(g, until) for g in record.generations),
        retired=tuple(
            r if until is None else replace(r, until=min(r.until or until, until))
            for r in record.retired
        ),
    )


def removing(record: Record, until: float | None) -> Record:
    return replace(stopping(record, until), removing=True)


def without_generation(record: Record, number: int) -> Record:
    left = tuple(g for g in record.generations if g.number != number)
    return replace(record, generations=left, retired=record.retired if left else ())


def _host(host: HostRecord, **changes: int) -> HostRecord:
    return replace(host, **changes)


def _allocate(
    world: World, count: int, taken: Collection[int]
) -> tuple[tuple[int, ...], HostRecord]:
    """`count` slots, round-robin, so that a number is not reused while something remembers it."""
    used = set(taken) | {
        slot for r in world.services.values() for g in r.generations for slot in g.slots
    }
    found: list[int] = []
    slot = world.host.next_slot
    for _ in range(names.MAX_SLOTS):
        if len(found) == count:
            break
        if slot not in used:
            found.append(slot)
        slot = (slot + 1) % names.MAX_SLOTS
    if len(found) < count:
        raise ViscumError(
            f"all instance slots of this host are in use (it has {names.MAX_SLOTS}, a tenant those"
            " of its pool)",
            state="nothing was changed",
            hint="remove services first (`viscum ls`)",
        )
    return tuple(found), _host(world.host, next_slot=slot)
