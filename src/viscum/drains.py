"""What is due, and waiting for it: drains, their limits, `--for`, and services that are to go.

Settling is done under the host's lock by every changing command; waiting is done without it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from viscum import evolve, flows, ops
from viscum.clock import now
from viscum.errors import ViscumError
from viscum.model import Address
from viscum.plan import Instance, instances
from viscum.rarely import Rarely
from viscum.slowly import Slowly
from viscum.store import Record, World

if TYPE_CHECKING:
    from viscum.change import Change
    from viscum.host import Host

POLL, LONGEST_POLL = 0.1, 1.0  # between two looks at whether flows have ended


def settle(host: Host, change: Change, own: str = "") -> None:
    """Finishes what has drained or whose deadline has passed; change.ended says how many flows were
    reset for it. A service that can't be finished (change.stuck: why) holds up only its own
    command."""
    due = [r for r in change.world.services.values() if _has_deadline(r)]
    if not due:
        return
    moment, seen, settled = now(), _Seen(host), list[Record]()
    for record in due:
        mine = _instances(host, change.world, record)
        try:
            after, count = _settled(record, mine, seen, moment, lambda part: _reset(host, part))
            change.ended[record.name] = change.ended.get(record.name, 0) + count
            _stop_removed(host, mine, _instances(host, change.world, after))
        except OSError as error:
            if record.name == own:
                raise
            _tell_stuck(host, change, record.name, error)
            continue
        if after != record or _is_gone(after):
            settled.append(after)
    if settled:
        _commit(host, change, settled, own)


def is_due(host: Host, world: World) -> bool:
    """Whether `settle` has something to do now; for who would not take the lock for nothing. Raises
    OSError, ViscumError where no flows can be counted at all."""
    due = [r for r in world.services.values() if _has_deadline(r)]
    if not due:
        return False
    moment, seen = now(), _Seen(host)
    for record in due:
        try:
            mine = _instances(host, world, record)
            after, _ = _settled(record, mine, seen, moment, lambda part: 0)
        except OSError:
            return True  # it says why
        if after != record or _is_gone(after):
            return True
    return False


def _commit(host: Host, change: Change, settled: list[Record], own: str) -> None:
    """All in one, or, if that fails, each one that can be."""
    world = change.world
    for record in settled:
        world = world.without(record.name) if _is_gone(record) else world.with_record(record)
    try:
        change.commit(world)
    except ViscumError as error:
        if len(settled) > 1:
            for record in settled:
                _commit(host, change, [record], own)
        elif settled[0].name == own:
            raise
        else:
            _tell_stuck(host, change, settled[0].name, error)


def _tell_stuck(host: Host, change: Change, name: str, error: Exception) -> None:
    change.stuck[name] = str(error)
    host.progress(f"{name}: what is due can't be finished: {error}")


class _Seen:
    """UDP flows of clients, read once for everything that is due."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.udp = host.udp_flows()

    @cached_property
    def targets(self) -> dict[tuple[int, Address], int]:
        return self._host.udp_targets()


def _instances(host: Host, world: World, record: Record) -> list[Instance]:
    return list(instances(World(world.host, {record.name: record}), host.names))


def _is_gone(record: Record) -> bool:
    return record.removing and not record.generations


def _settled(
    record: Record,
    own: list[Instance],
    seen: _Seen,
    moment: float,
    reset: Callable[[list[Instance]], int],
) -> tuple[Record, int]:
    """What becomes of it, and how many flows were reset for that."""
    udp = seen.udp
    ended = 0
    if record.until_ns and moment * 1e9 >= record.until_ns:
        record = replace(record, enabled=not record.enabled, until_ns=0)
    if record.end_flows_at is not None:
        late = moment >= record.end_flows_at
        if late:
            ended += reset(own) + sum(udp.get(i.slot, 0) for i in own)
        if late or not flows.count(own, udp):
            record = replace(
                record, end_flows_at=None, udp_epoch=record.udp_epoch + (1 if late else 0)
            )
    for generation in record.generations:
        if generation.state != "draining":
            continue
        part = [i for i in own if i.generation.number == generation.number]
        late = generation.drain_until is not None and moment >= generation.drain_until
        open_flows = flows.count(part, udp)
        if late and open_flows:
            ended += reset(part) + sum(udp.get(i.slot, 0) for i in part)
        if late or not open_flows:
            record = evolve.without_generation(record, generation.number)
    if record.retired:
        left = tuple(
            r
            for r in record.retired
            if not (r.until is not None and moment >= r.until)
            and flows.outside(own, r, record, seen.targets)
        )
        record = replace(record, retired=left)
    return record, ended


def _reset(host: Host, mine: list[Instance]) -> int:
    try:
        return flows.reset(mine)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    name = mine[0].record.name
    host.progress(
        f"{name}: this kernel can't reset connections (it is built without INET_DIAG_DESTROY);"
        " they go on until they or their server end"
    )
    return 0


def _stop_removed(host: Host, before: list[Instance], after: list[Instance]) -> None:
    """Gives the servers that go their stop-timeout, while everything around them still is."""
    left = {i.cgroup for i in after}
    for i in before:
        if i.cgroup not in left:
            op = ops.StopProcess(i.cgroup, float(i.generation.spec.run.stop_timeout))
            host.told(op)
            with host.patience(f"{i.record.name}: waiting for its processes to end"):
                op.apply()


def waiting(
    host: Host, name: str, until: Callable[[Record], bool], what: str = "drain"
) -> Slowly[int]:
    """Until `until` is true (or the service is gone); the lock is held only to look and to finish.
    Returns how many flows were reset meanwhile."""
    ended, pause, tell = 0, POLL, Rarely(host.progress)
    while True:
        world = host.load()
        record = world.services.get(name)
        if record is None or until(record):
            return ended
        mine = [i for i in instances(world, host.names) if i.record.name == name]
        draining = [i for i in mine if i.generation.state == "draining" or record.end_flows_at]
        left = flows.count(draining, host.udp_flows())
        deadlines = [
            d
            for d in (record.end_flows_at, *(g.drain_until for g in record.generations))
            if d is not None
        ]
        line = f"{name}: {left} flow{'s' if left != 1 else ''} still open"
        if deadlines:
            line += f", reset in {max(0.0, min(deadlines) - now()):.0f} s"
        if left:
            tell(left, line)
        if not left or (deadlines and now() >= min(deadlines)):
            with host.changing(f"{what} {name}") as change:
                settle(host, change, name)
            ended += change.ended.get(name, 0)
            continue
        due = min(deadlines, default=now() + LONGEST_POLL) - now()
        yield max(0.0, min(pause, due))
        pause = min(pause * 1.5, LONGEST_POLL)


def done(record: Record) -> bool:
    """Whether none of its generations drains any more."""
    return all(g.state != "draining" for g in record.generations)


def deadline(record: Record) -> float | None:
    """When (CLOCK_BOOTTIME seconds) something of it becomes due without anybody's doing; None if
    nothing does. What drains may become due earlier, with its last flow."""
    moments = [
        record.until_ns / 1e9 if record.until_ns else None,
        record.end_flows_at,
        *(g.drain_until for g in record.generations if g.state == "draining"),
        *(r.until for r in record.retired),
    ]
    return min((m for m in moments if m is not None), default=None)


def draining(record: Record) -> bool:
    """Whether something of it is due with its last flow."""
    return bool(record.end_flows_at is not None or record.retired or record.removing) or not done(
        record
    )


def _has_deadline(record: Record) -> bool:
    return bool(
        record.until_ns
        or record.end_flows_at is not None
        or record.retired
        or record.removing
        or any(g.state == "draining" for g in record.generations)
    )
