"""What is due, and waiting for it: drains, their limits, `--for`, and services that are to go.

Settling is done under the host's lock by every changing command; waiting is done without it.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from viscum import evolve, flows, ops
from viscum.clock import now
from viscum.plan import Instance, instances
from viscum.store import Record, World

if TYPE_CHECKING:
    from viscum.change import Change
    from viscum.host import Host

POLL, LONGEST_POLL = 0.1, 1.0  # between two looks at whether flows have ended


def settle(host: Host, change: Change, own: str = "") -> None:
    """Finishes what has drained or whose deadline has passed; change.ended says how many
    flows were reset for it. A service that can't be finished holds up only its own command."""
    due = [r for r in change.world.services.values() if _has_deadline(r)]
    if not due:
        return
    moment = now()
    udp = host.udp_flows()
    mine = list(instances(change.world, host.names))
    world = change.world
    for record in due:
        try:
            record, count = _settled(host, record, mine, udp, moment)
        except OSError as error:
            if record.name == own:
                raise
            host.progress(f"{record.name}: what is due can't be finished: {error}")
            continue
        change.ended[record.name] = change.ended.get(record.name, 0) + count
        gone = record.removing and not record.generations
        world = world.without(record.name) if gone else world.with_record(record)
    if world != change.world:
        _stop_removed(host, change.world, world)
        change.commit(world)


def _settled(
    host: Host, record: Record, mine: list[Instance], udp: dict[int, int], moment: float
) -> tuple[Record, int]:
    ended = 0
    own = [i for i in mine if i.record.name == record.name]
    if record.until_ns and moment * 1e9 >= record.until_ns:
        record = replace(record, enabled=not record.enabled, until_ns=0)
    if record.end_flows_at is not None:
        late = moment >= record.end_flows_at
        if late:
            ended += _reset(host, own) + sum(udp.get(i.slot, 0) for i in own)
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
            ended += _reset(host, part) + sum(udp.get(i.slot, 0) for i in part)
        if late or not open_flows:
            record = evolve.without_generation(record, generation.number)
    if record.retired:
        left = tuple(
            r
            for r in record.retired
            if not (r.until is not None and moment >= r.until)
            and flows.outside(own, r, record, host.udp_targets())
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


def _stop_removed(host: Host, before: World, after: World) -> None:
    """Gives the servers that go their stop-timeout, while everything around them still is."""
    left = {i.cgroup for i in instances(after, host.names)}
    for i in instances(before, host.names):
        if i.cgroup not in left:
            op = ops.StopProcess(i.cgroup, float(i.generation.spec.run.stop_timeout))
            host.told(op)
            with host.patience(f"{i.record.name}: waiting for its processes to end"):
                op.apply()


def wait(host: Host, name: str, until: Callable[[Record], bool], what: str = "drain") -> int:
    """Waits until `until` is true (or the service is gone); the lock is held only to look and to
    finish. Returns how many flows were reset meanwhile."""
    ended, said, pause = 0, "", POLL
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
        if left and line != said:
            host.progress(line)
            said = line
        if not left or (deadlines and now() >= min(deadlines)):
            with host.changing(f"{what} {name}") as change:
                settle(host, change, name)
            ended += change.ended.get(name, 0)
            continue
        due = min(deadlines, default=now() + LONGEST_POLL) - now()
        time.sleep(max(0.0, min(pause, due)))
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
