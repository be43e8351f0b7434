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
from typing import Any

from viscum.clock import now
from viscum.controller.engine import Engine
from viscum.controller.events import Level
from viscum.controller.health import restart, verdict
from viscum.controller.health.asking import Asker, Failed
from viscum.controller.health.patients import Health, Patient, is_held_back, look, newest, renew
from viscum.controller.health.verdict import State
from viscum.errors import InputError, ViscumError
from viscum.plan import Instance
from viscum.store import Record, World

READY = 1.0  # seconds between two runs of `run.ready`
QUICK = 0.2  # seconds between two looks whether a server that is being started listens
JITTER = 0.1  # of the interval, either way: a hundred services are not asked at the same moment
FIRST = 1.0  # the first question comes within so many seconds
NO_MORE = "new flows go to the cloud"


class Probes:
    """The part that asks."""

    name = "health"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._patients: dict[str, Patient] = {}
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
        record, patient = self.engine.world.services.get(name), self._patients.get(name)
        if patient is None or record is None or not is_held_back(record):
            return
        try:
            there = await self.engine.look(look, self._newest(record), {})
            patient.awaited = {i.cgroup for i in self._newest(record)} - there.keys()
            if patient.awaited:
                await self.engine.hold(name, health=0)
                patient.news.set()
        except (OSError, ViscumError) as error:  # it is started all the same
            self._tell("controller.error", name, f"{name}: its health: {error}", "error")

    # ---- who is looked after

    async def _sync(self, world: World) -> None:
        for name in self._patients.keys() - world.services.keys():
            self._dismiss(name)
        for name, record in world.services.items():
            if self._seen.get(name) is record:
                continue
            try:
                await self._admit(name, record)
            except InputError:
                pass  # it was taken away meanwhile
            except (OSError, ViscumError) as error:
                self._tell("controller.error", name, f"{name}: its health: {error}", "error")
        self._seen = dict(world.services)

    async def _admit(self, name: str, record: Record) -> None:
        held = self.engine.held(name).health < 100
        probe = record.spec.probe.type != "none"
        if record.running and not record.removing and (probe or record.unready):
            patient = self._patients.get(name)
            if patient is not None and patient.sid != record.sid:
                self._dismiss(name)  # it was removed, and is another one now
                patient = None
            if patient is None:
                state: State = "unhealthy" if held else "unknown"
                patient = self._patients[name] = Patient(record.sid, state)
                patient.task = self._group.create_task(self._look_after(name, patient))
            patient.news.set()
        elif name in self._patients:
            self._dismiss(name)
        if held and not probe:
            await self.engine.hold(name, health=100)

    def _dismiss(self, name: str) -> None:
        patient = self._patients.pop(name)
        if patient.task is not None:
            patient.task.cancel()

    async def _look_after(self, name: str, patient: Patient) -> None:
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

    async def _pause(self, record: Record, patient: Patient, end: float) -> None:
        """Till `end`, or till there is news: another record, or a server that now listens."""
        while (left := end - now()) > 0:
            try:
                async with asyncio.timeout(min(left, QUICK) if patient.awaited else left):
                    await patient.news.wait()
                    return
            except TimeoutError:
                pass
            if patient.awaited:
                there = await self.engine.look(look, self._newest(record), patient.listening)
                if any(there[c].listens for c in patient.awaited & there.keys()):
                    return

    # ---- one look

    async def _round(self, record: Record, patient: Patient) -> None:
        """Asks every instance that runs and has listened, and draws the conclusion."""
        wanted = self._newest(record)
        there = await self.engine.look(look, wanted, patient.listening)
        renew(wanted, there, patient)
        mine = [t.at for t in there.values() if t.listens]
        errors = await asyncio.gather(*(self._ask(i, patient) for i in mine))
        still = await self.engine.look(look, mine, patient.listening)
        worst = (0, "")
        for i, error in zip(mine, errors, strict=True):
            if i.cgroup not in still or still[i.cgroup].pid != there[i.cgroup].pid:
                del there[i.cgroup]  # it has ended, which is told elsewhere
                continue
            tally = verdict.after(patient.tallies[i.cgroup], not error, record.spec.probe)
            patient.tallies[i.cgroup] = tally
            if error:
                patient.error = error if len(wanted) == 1 else f"{i.label}: {error}"
                worst = max(worst, (tally.failures, patient.error))
            if tally.state != "unknown":
                patient.awaited.discard(i.cgroup)
        state = verdict.of_all(
            [patient.tallies[i.cgroup].state for i in mine if i.cgroup in there]
            + ["unknown" for t in there.values() if not t.listens]
            + ["unknown" for _ in patient.awaited]
        )
        await self._conclude(record, patient, state, *worst)
        self._restart(record, patient, worst[0])

    async def _ask(self, i: Instance, patient: Patient) -> str:
        """What is wrong; "": nothing."""
        try:
            patient.latency = await self._asker.ask(i)
            return ""
        except Failed as failed:
            return str(failed)

    async def _conclude(
        self, record: Record, patient: Patient, state: State, failures: int, error: str
    ) -> None:
        name, held_back = record.name, is_held_back(record)
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

    def _restart(self, record: Record, patient: Patient, failures: int) -> None:
        tallies = patient.tallies.values()
        if patient.restarting or not any(
            verdict.is_to_restart(t, record.spec.probe) for t in tallies
        ):
            return
        patient.tallies = {c: verdict.restarted(t) for c, t in patient.tallies.items()}
        patient.restarting = True
        self._tell(
            "service.restarting", record.name,
            f"{record.name} has failed {failures} probes in a row and is restarted", "warning",
            error=patient.error, failures=failures,
        )  # fmt: skip
        self._group.create_task(self._restarted(record, patient))

    async def _restarted(self, record: Record, patient: Patient) -> None:
        name = record.name

        def still() -> bool:
            current = self.engine.world.services.get(name)
            return self._patients.get(name) is patient and restart.is_same(record, current)

        try:
            await restart.restart(self.engine, record, patient, still)
        except (OSError, ViscumError) as error:
            if still():
                message = f"{name} could not be restarted: {error}"
                self._tell("service.not-started", name, message, "error")
        finally:
            patient.restarting = False

    # ---- readiness

    async def _get_ready(self, record: Record, patient: Patient) -> None:
        """Runs `run.ready` once in every instance, and lets the generation take flows if all say
        so. Not while a command is at work, which may be about to do so."""
        name, mine = record.name, self._newest(record)
        if self.engine.host.is_busy():
            return
        there = await self.engine.look(look, mine, {})
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
        # Whoever sees the changed record first ends what waits here, and not what is under way.
        await asyncio.shield(self._group.create_task(self._admit_flows(name)))

    async def _admit_flows(self, name: str) -> None:
        try:
            if await self.engine.act(self.engine.host.admit, name):
                self._tell("service.ready", name, f"{name} is ready; it takes flows", "info")
        except InputError:
            pass  # it was taken away meanwhile
        except (OSError, ViscumError) as error:  # it is tried again
            self._tell("controller.error", name, f"{name}: its health: {error}", "error")

    # ---- small things

    def _newest(self, record: Record) -> list[Instance]:
        return newest(record, self.engine.world, self.engine.host.names)

    def _tell(self, kind: str, name: str, message: str, level: Level, **data: Any) -> None:
        self.engine.events.publish(kind, message, service=name, level=level, **data)
