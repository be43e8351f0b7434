"""Restarting a server that stays unhealthy, unless it is changed or taken away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from viscum import evolve, flows
from viscum.clock import now
from viscum.controller.engine import Engine
from viscum.controller.health.patients import Patient, newest
from viscum.errors import ViscumError
from viscum.host import Host
from viscum.kernel import process
from viscum.kernel.cgroup import Group
from viscum.plan import Instance
from viscum.store import Record

QUICK, SLOW = 0.2, 2.0  # seconds between two looks at whether its flows have ended


async def restart(
    engine: Engine, record: Record, patient: Patient, still: Callable[[], bool]
) -> None:
    """A new generation beside the old one, which keeps the flows it has (decision 46); the same one
    where it can't run twice, once its flows have ended.

    still: whether that is wanted, as of now. Raises OSError, ViscumError.
    """
    if record.spec.upgrade == "beside":
        begin = engine.host.begin_restart
        await engine.act_for(record.tenant, begin, record.name, lambda r: _refuse(record, r))
    elif await _drained(engine, record, patient, still):
        await _replace(engine, record, still)


def is_same(was: Record, record: Record | None) -> bool:
    """Whether the same processes are wanted, by the same spec. Other addresses of its names, and
    whether it is enabled, make no difference."""
    return (
        record is not None
        and record.running
        and not record.removing
        and record.spec == was.spec
        and [g.number for g in record.generations[:1]] == [g.number for g in was.generations[:1]]
    )


def _refuse(was: Record, record: Record | None) -> None:
    if not is_same(was, record):
        raise ViscumError(f"{was.name} was changed meanwhile", state="it is left as it is")


async def _drained(
    engine: Engine, record: Record, patient: Patient, still: Callable[[], bool]
) -> bool:
    """Waits for its flows, of which no new one comes as it is held, up to its drain limit. False:
    it answers again meanwhile, or is not to be restarted any more."""
    mine = newest(record, engine.world, engine.host.names)
    end, pause = evolve.deadline(now(), record.spec.run.drain), QUICK
    while end is None or now() < end:
        if not await engine.look(_flows, engine.host, mine):
            break
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, SLOW)
        if not still() or all(t.successes for t in patient.tallies.values()):
            return False
    return still()


async def _replace(engine: Engine, record: Record, still: Callable[[], bool]) -> None:
    """Ends its processes and starts them again. Whatever becomes of the controller, the record says
    all the while that they should run."""
    engine.replacing.add(record.name)
    try:
        for i in newest(record, engine.world, engine.host.names):
            if still():
                timeout = float(record.spec.run.stop_timeout)
                await engine.wait_for(process.stop, Group(i.cgroup), timeout)
        await engine.act_for(record.tenant, engine.host.revive, record.name)
    finally:
        engine.replacing.discard(record.name)


def _flows(host: Host, mine: list[Instance]) -> int:
    return flows.count(mine, host.udp_flows())
