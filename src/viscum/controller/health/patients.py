"""What is known of services that are looked after, and which of their instances run."""

from __future__ import annotations

import asyncio
import time
from typing import Literal, NamedTuple

from msgspec import Struct

from viscum.controller.health import verdict
from viscum.controller.health.verdict import State, Tally
from viscum.kernel import process
from viscum.kernel.cgroup import Group
from viscum.names import HostNames
from viscum.plan import Instance, instances
from viscum.start import listens
from viscum.store import Record, World


class Health(Struct, frozen=True):
    """state: none: it has no probe; unknown: not enough answers yet. since: seconds since 1970;
    latency: seconds the last good answer took."""

    state: Literal["none", "unknown", "healthy", "unhealthy"] = "none"
    since: float | None = None
    last_error: str | None = None
    latency: float | None = None


class There(NamedTuple):
    """An instance that runs. listens: has done so since it was started."""

    at: Instance
    pid: int
    listens: bool


class Patient:
    """One service that is looked after."""

    def __init__(self, sid: int, state: State) -> None:
        self.sid = sid
        self.state = state  # as was told last
        self.since = time.time()
        self.error: str | None = None
        self.latency: float | None = None
        self.tallies: dict[str, Tally] = {}  # by cgroup, as the following
        self.listening: dict[str, int] = {}  # pids of those that have listened
        self.awaited: set[str] = set()  # those that are being started again
        self.told_unready = False
        self.restarting = False
        self.news = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


def renew(wanted: list[Instance], there: dict[str, There], patient: Patient) -> None:
    """Keeps the tallies of processes that are still the same."""
    cgroups = {i.cgroup for i in wanted}
    patient.awaited &= cgroups
    patient.tallies = {c: t for c, t in patient.tallies.items() if c in cgroups}
    for cgroup, found in there.items():
        old = patient.tallies.get(cgroup)
        if old is None:
            ill = patient.state == "unhealthy"
            patient.tallies[cgroup] = Tally("unhealthy" if ill else "unknown")
        elif patient.listening.get(cgroup) != found.pid:
            patient.tallies[cgroup] = verdict.anew(old)
    patient.listening = {c: t.pid for c, t in there.items() if t.listens}


def look(mine: list[Instance], known: dict[str, int]) -> dict[str, There]:
    """Those whose server runs, by cgroup. known: pids of those that have listened: one that has
    stopped doing so is not one that starts."""
    found: dict[str, There] = {}
    for i in mine:
        group = Group(i.cgroup)
        pid = process.main_pid(group) if group.exists() else None
        if pid is not None:
            found[i.cgroup] = There(i, pid, known.get(i.cgroup) == pid or listens(i))
    return found


def newest(record: Record, world: World, names: HostNames) -> list[Instance]:
    """Of the generation that takes flows, or will."""
    live = next((g for g in record.generations if g.state == "live"), None)
    wanted = live or next((g for g in record.generations if g.state == "starting"), None)
    alone = World(world.host, {record.name: record})
    return [i for i in instances(alone, names) if wanted and i.generation.number == wanted.number]


def is_held_back(record: Record) -> bool:
    """Whether being unhealthy keeps flows away; what may not go to the cloud is not sent there."""
    return record.spec.probe.type != "none" and record.spec.steer.when_down == "cloud"
