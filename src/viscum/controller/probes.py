"""Health: servers are asked, and one that does not answer as it should takes no new flows.

A service that has a probe has one task; one that has none costs nothing. What is known is lost with
the controller, except that the kernel goes on holding back what was unhealthy: the next controller
starts from there, and lets go of what has no probe (any more).

The same task finishes what a command had to leave: a generation that listens but was not ready
(`run.ready`) takes flows as soon as it is.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from viscum.clock import now
from viscum.controller import health
from viscum.controller.asking import Asker, Failed
from viscum.controller.engine import Engine
from viscum.controller.events import Level
from viscum.controller.health import State, Tally
from viscum.errors import InputError, ViscumError
from viscum.kernel import process
from viscum.kernel.cgroup import Group
from viscum.plan import Instance, instances
from viscum.start import listens
from viscum.store import Record, World

READY = 1.0  # seconds between two runs of `run.ready`
QUICK = 0.2  # seconds between two looks whether a server that is being started listens
JITTER = 0.1  # of the interval, either way: a hundred services are not asked at the same moment
FIRST = 1.0  # the first question comes within so many seconds
NO_MORE = "new flows go to the cloud"


class Health(Struct, frozen=True):
    """state: none: it has no probe; unknown: not enough answers yet. since: seconds since 1970;
    latency: seconds the last good answer took."""

    state: Literal["none", "unknown", "healthy", "unhealthy"] = "none"
    since: float | None = None
    last_error: str | None = None
    latency: float | None = None


class _There(NamedTuple):
    """An instance that runs. listens: has done so since it was started."""

    at: Instance
    pid: int
    listens: bool


class _Patient:
    """One service that is looked after."""

    def __init__(self, state: State) -> None:
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


class Probes:
    """The part that asks."""

    name = "health"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._patients: dict[str, _Patient] = {}
        self._seen: dict[str, Record] = {}
        self._asker = Asker(engine)
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                async for world in self.engine.worlds():
                    await self._sync(world)
        finally:
            self._patients.clear()
            self._seen.clear()
            self._asker.close()

    def health(self, name: str) -> Health:
        """Of a service, as far as is known."""
        patient, record = self._patients.get(name), self.engine.world.services.get(name)
        if patient is None or record is None or record.spec.probe.type == "none":
            return Health()
        return Health(patient.state, patient.since, patient.error, patient.latency)

    async def expect(self, name: str) -> None:
        """Servers of it that have ended are about to be started again: what has a probe takes new
        flows once they have answered one."""
        record, patient = self.engine.record(name), self._patients.get(name)
        if patient is None or not _is_held_back(record):
            return
        there = await self.engine.look(_there, self._newest(record), {})
        patient.awaited = {i.cgroup for i in self._newest(record)} - there.keys()
        if patient.awaited:
            await self.engine.hold(name, health=0)
            patient.news.set()

    # ---- who is looked after

    async def _sync(self, world: World) -> None:
        for name in self._patients.keys() - world.services.keys():
            self._dismiss(name)
        for name, record in world.services.items():
            if self._seen.get(name) is record:
                continue
            held = self.engine.held(name).health < 100
            probe = record.spec.probe.type != "none"
            if record.running and not record.removing and (probe or record.unready):
                if (patient := self._patients.get(name)) is None:
                    patient = self._patients[name] = _Patient("unhealthy" if held else "unknown")
                    patient.task = self._group.create_task(self._look_after(name, patient))
                patient.news.set()
            elif name in self._patients:
                self._dismiss(name)
            if held and not probe:
                await self.engine.hold(name, health=100)
        self._seen = dict(world.services)

    def _dismiss(self, name: str) -> None:
        patient = self._patients.pop(name)
        if patient.task is not None:
            patient.task.cancel()

    async def _look_after(self, name: str, patient: _Patient) -> None:
        if patient.state == "unknown":
            await asyncio.sleep(random.random() * FIRST)
        while (record := self.engine.world.services.get(name)) is not None:
            patient.news.clear()
            begun, interval = now(), float(record.spec.probe.interval)
            try:
                if record.unready:
                    interval = READY
                    await self._get_ready(record, patient)
                else:
                    await self._round(record, patient)
            except InputError:
                return  # it was taken away meanwhile
            except (OSError, ViscumError) as error:
                self._tell("controller.error", name, f"{name}: its health: {error}", "error")
            pause = interval * random.uniform(1 - JITTER, 1 + JITTER)
            await self._pause(record, patient, begun + pause)

    async def _pause(self, record: Record, patient: _Patient, end: float) -> None:
        """Till `end`, or till there is news: another record, or a server that now listens."""
        while (left := end - now()) > 0:
            try:
                async with asyncio.timeout(min(left, QUICK) if patient.awaited else left):
                    await patient.news.wait()
                    return
            except TimeoutError:
                pass
            if patient.awaited:
                there = await self.engine.look(_there, self._newest(record), patient.listening)
                if any(there[c].listens for c in patient.awaited & there.keys()):
                    return

    # ---- one look

    async def _round(self, record: Record, patient: _Patient) -> None:
        """Asks every instance that runs and has listened, and draws the conclusion."""
        wanted = self._newest(record)
        there = await self.engine.look(_there, wanted, patient.listening)
        self._admit(wanted, there, patient)
        mine = [t.at for t in there.values() if t.listens]
        errors = await asyncio.gather(*(self._ask(i, patient) for i in mine))
        still = await self.engine.look(_there, mine, patient.listening)
        worst = (0, "")
        for i, error in zip(mine, errors, strict=True):
            if i.cgroup not in still or still[i.cgroup].pid != there[i.cgroup].pid:
                del there[i.cgroup]  # it has ended, which is told elsewhere
                continue
            tally = health.after(patient.tallies[i.cgroup], not error, record.spec.probe)
            patient.tallies[i.cgroup] = tally
            if error:
                patient.error = error if len(wanted) == 1 else f"{i.label}: {error}"
                worst = max(worst, (tally.failures, patient.error))
            if tally.state != "unknown":
                patient.awaited.discard(i.cgroup)
        state = health.of_all(
            [patient.tallies[i.cgroup].state for i in mine if i.cgroup in there]
            + ["unknown" for t in there.values() if not t.listens]
            + ["unknown" for _ in patient.awaited]
        )
        await self._conclude(record, patient, state, *worst)
        self._restart(record, patient, worst[0])

    def _admit(self, wanted: list[Instance], there: dict[str, _There], patient: _Patient) -> None:
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
                patient.tallies[cgroup] = health.anew(old)
        patient.listening = {c: t.pid for c, t in there.items() if t.listens}

    async def _ask(self, i: Instance, patient: _Patient) -> str:
        """What is wrong; "": nothing."""
        try:
            patient.latency = await self._asker.ask(i)
            return ""
        except Failed as failed:
            return str(failed)

    async def _conclude(
        self, record: Record, patient: _Patient, state: State, failures: int, error: str
    ) -> None:
        name, held_back = record.name, _is_held_back(record)
        held = self.engine.held(name).health < 100
        if held and not held_back:
            await self.engine.hold(name, health=100)
        if state == "unknown":
            return
        was, since = patient.state, patient.since
        if was != state:
            patient.state, patient.since = state, time.time()
        if state == "unhealthy":
            if held and held_back:  # should `viscum enable` have let go of it
                hold = self.engine.held(name)
                await self.engine.look(self.engine.host.hold, record, hold)
            elif held_back:
                await self.engine.hold(name, health=0)
            if was != state:
                times = f", {failures} times in a row" if failures > 1 else ""
                then = NO_MORE if held_back else "it goes on taking flows (when-down is drop)"
                self._tell(
                    "service.unhealthy", name, f"{name} is unhealthy: {error}{times}; {then}",
                    "error", error=error, failures=failures,
                )  # fmt: skip
            return
        if held:
            await self.engine.hold(name, health=100)
        if held or was == "unhealthy":
            ill = round(time.time() - since, 3) if was == "unhealthy" else None
            self._tell(
                "service.healthy", name, f"{name} is healthy; it takes new flows", "info",
                unhealthy_for=ill, latency=patient.latency,
            )  # fmt: skip

    def _restart(self, record: Record, patient: _Patient, failures: int) -> None:
        tallies = patient.tallies.values()
        if patient.restarting or not any(
            health.is_to_restart(t, record.spec.probe) for t in tallies
        ):
            return
        patient.tallies = {c: health.restarted(t) for c, t in patient.tallies.items()}
        patient.restarting = True
        self._tell(
            "service.restarting", record.name,
            f"{record.name} has failed {failures} probes in a row and is restarted", "warning",
            error=patient.error, failures=failures,
        )  # fmt: skip
        self._group.create_task(self._restarted(record.name, patient))

    async def _restarted(self, name: str, patient: _Patient) -> None:
        """A new generation beside the old one, which keeps the flows it has (decision 46)."""
        try:
            await self.engine.wait_for(self.engine.host.restart, name)
        except (OSError, ViscumError) as error:
            message = f"{name} could not be restarted: {error}"
            self._tell("service.not-started", name, message, "error")
        finally:
            patient.restarting = False

    # ---- readiness

    async def _get_ready(self, record: Record, patient: _Patient) -> None:
        """Runs `run.ready` once in every instance, and lets the generation take flows if all say
        so. Not while a command is at work, which may be about to do so."""
        name, mine = record.name, self._newest(record)
        if self.engine.host.is_busy():
            return
        there = await self.engine.look(_there, mine, {})
        if len(there) < len(mine) or not all(t.listens for t in there.values()):
            return
        for i in mine:
            done = await self._asker.command(
                i, record.spec.run.ready, float(record.spec.run.start_timeout)
            )
            if done.ok:
                continue
            if not done.server_ended and not patient.told_unready:
                patient.told_unready = True
                self._tell(
                    "service.not-ready", name,
                    f"{name} listens, but is not ready: {done.why}; {NO_MORE} until it is",
                    "warning", output=done.output,
                )  # fmt: skip
            return
        patient.told_unready = False
        if await self.engine.act(self.engine.host.admit, name):
            self._tell("service.ready", name, f"{name} is ready; it takes flows", "info")

    # ---- small things

    def _newest(self, record: Record) -> list[Instance]:
        """Of the generation that takes flows, or will."""
        live = next((g for g in record.generations if g.state == "live"), None)
        wanted = live or next((g for g in record.generations if g.state == "starting"), None)
        alone = World(self.engine.world.host, {record.name: record})
        return [
            i for i in instances(alone, self.engine.host.names)
            if wanted and i.generation.number == wanted.number
        ]  # fmt: skip

    def _tell(self, kind: str, name: str, message: str, level: Level, **data: Any) -> None:
        self.engine.events.publish(kind, message, service=name, level=level, **data)


def _is_held_back(record: Record) -> bool:
    """Whether being unhealthy keeps flows away; what may not go to the cloud is not sent there."""
    return record.spec.probe.type != "none" and record.spec.steer.when_down == "cloud"


def _there(mine: list[Instance], known: dict[str, int]) -> dict[str, _There]:
    """Those whose server runs, by cgroup. known: pids of those that have listened: one that has
    stopped doing so is not one that starts."""
    found: dict[str, _There] = {}
    for i in mine:
        group = Group(i.cgroup)
        pid = process.main_pid(group) if group.exists() else None
        if pid is not None:
            found[i.cgroup] = _There(i, pid, known.get(i.cgroup) == pid or listens(i))
    return found
