"""Servers that end are started again, by the policy of their spec, whoever had started them.

Nothing is remembered between two controllers: a server is found by its control group and watched by
pidfd, so that the one that a command or an earlier controller started is adopted as it is. Only a
restart's delay is forgotten with the controller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from viscum.clock import now
from viscum.controller.ended import Ended, last_lines, report
from viscum.controller.engine import Engine
from viscum.errors import InputError, ViscumError
from viscum.kernel import process
from viscum.kernel.cgroup import Group
from viscum.kernel.process import Process
from viscum.plan import Instance, instances
from viscum.start import listens
from viscum.store import World

LOOK = 1.0  # seconds between two looks for servers that others have started
COLLECTED = 2.0  # seconds that an ended process' parent has to collect it
PAUSE = 0.1


class _Watched:
    """One server that runs: its pidfd on the event loop."""

    def __init__(self, at: Instance, main: Process, oom_kills: int) -> None:
        self.at = at
        self.main = main
        self.since = now()
        self.oom_kills = oom_kills
        self.late = False  # it is ended for its start-timeout
        self.replaced = False  # it was ended in order to be started again


class Supervisor:
    """The part that watches and restarts."""

    name = "supervision"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.restarts: dict[str, int] = {}  # by service, since this controller started
        self._watched: dict[str, _Watched] = {}  # by cgroup
        self._failures: dict[str, int] = {}  # in a row, by service
        self._waiting: set[str] = set()  # services that are about to be restarted
        self._missing: dict[str, Instance] = {}  # by cgroup: wanted, and not watched
        self._left: set[str] = set()  # cgroups of servers that ended and that policy leaves so
        self._world: World | None = None  # that `_missing` is of
        self._group = asyncio.TaskGroup()
        self.before_restart: Callable[[str], Awaitable[None]] = _nothing

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                self._group.create_task(self._follow_records())
                self._group.create_task(self._look_again())
        finally:
            self._waiting.clear()
            for cgroup in list(self._watched):
                self._forget(cgroup)

    async def _follow_records(self) -> None:
        async for world in self.engine.worlds():
            self._sync(world)

    async def _look_again(self) -> None:
        """`viscum start` of a server that has ended changes no record."""
        engine = self.engine
        while True:
            await asyncio.sleep(LOOK)
            if self._missing and not engine.host.is_busy():
                await engine.refresh()  # what a command that is over now has left
            if self._world is not engine.world:
                self._sync(engine.world)
            else:
                self._look()

    def waiting(self, service: str) -> bool:
        """Whether it is about to be restarted."""
        return service in self._waiting

    # ---- watching

    def _sync(self, world: World) -> None:
        self._world = world
        wanted = {i.cgroup: i for i in instances(world, self.engine.host.names)}
        for cgroup in self._watched.keys() - wanted.keys():
            self._forget(cgroup)
        for name in self._failures.keys() - world.services.keys():
            del self._failures[name]
            self.restarts.pop(name, None)
        self._left &= wanted.keys()
        self._missing = {c: at for c, at in wanted.items() if c not in self._watched}
        for cgroup, watched in self._watched.items():
            watched.at = wanted[cgroup]
        self._look()

    def _look(self) -> None:
        for at in list(self._missing.values()):
            if not self._watch(at) and self._is_missed(at):
                self._again(at, None)

    def _is_missed(self, at: Instance) -> bool:
        """Whether it ended while nobody watched: before this controller, or just after its start;
        and not that a command, or another part, is about to start it."""
        if not _is_wanted(at) or at.cgroup in self._left or self.waiting(at.record.name):
            return False
        if at.record.name in self.engine.replacing:
            return False
        return not self.engine.host.is_busy()

    def _watch(self, at: Instance) -> bool:
        group = Group(at.cgroup)
        main = process.main(group)
        if main is None:
            return False
        self._left.discard(at.cgroup)
        self._missing.pop(at.cgroup, None)
        self._watched[at.cgroup] = _Watched(at, main, group.usage().oom_kills or 0)
        asyncio.get_running_loop().add_reader(main.fd, self._ended, at.cgroup)
        return True

    def _forget(self, cgroup: str) -> _Watched:
        watched = self._watched.pop(cgroup)
        asyncio.get_running_loop().remove_reader(watched.main.fd)
        watched.main.close()
        return watched

    def _ended(self, cgroup: str) -> None:
        """Its pidfd is readable. How it ended is told once its parent has collected it."""
        watched = self._watched[cgroup]
        watched.replaced = watched.at.record.name in self.engine.replacing
        asyncio.get_running_loop().remove_reader(watched.main.fd)
        self._group.create_task(self._collect(cgroup, watched))

    async def _collect(self, cgroup: str, watched: _Watched) -> None:
        lived, status, end = now() - watched.since, None, now() + COLLECTED
        while self._watched.get(cgroup) is watched:
            status = watched.main.how_it_ended()
            if status is not None or now() >= end:
                break
            await asyncio.sleep(PAUSE)
        else:
            return  # what it belonged to is gone
        self._forget(cgroup)
        at = await self._as_asked(cgroup)
        if at is None:
            return  # it was to end
        self._missing[cgroup] = at
        again = self._watch(at)
        if watched.replaced:
            return
        if again:
            self.engine.events.publish(
                "service.main-changed",
                f"{at.group}: process {watched.main.pid} ended, others of it go on",
                service=at.record.name,
                status=status,
            )
            return
        oom = (Group(cgroup).usage().oom_kills or 0) > watched.oom_kills
        self._again(at, Ended(status, lived, oom, watched.late))

    async def _as_asked(self, cgroup: str) -> Instance | None:
        """What is to run there; None: nothing, as whoever ended it on purpose has said before.
        Only of a generation that has not listened yet it is said after its end, by the command that
        started it and takes it back."""
        engine = self.engine
        while True:
            busy = engine.host.is_busy()
            await engine.refresh()
            found = instances(engine.world, engine.host.names)
            at = next((i for i in found if i.cgroup == cgroup and _is_wanted(i)), None)
            if at is None or not busy or at.generation.state != "starting":
                return at
            await asyncio.sleep(PAUSE)

    # ---- restarting

    def _again(self, at: Instance, ended: Ended | None) -> None:
        """ended None: nobody saw how."""
        name, run = at.record.name, at.record.spec.run
        failed = ended is None or ended.failed
        if ended is not None and ended.is_steady(run.restart_max_delay):
            self._failures.pop(name, None)
        restart = run.restart == "always" or (run.restart == "on-failure" and failed)
        before = self._failures.get(name, 0)
        delay = min(float(run.restart_delay) * 2 ** min(before, 30), float(run.restart_max_delay))
        if failed:
            self._failures[name] = before + 1
        begins = restart and not self.waiting(name)
        if begins:
            self._waiting.add(name)
        if not restart:
            self._left.add(at.cgroup)
        self._group.create_task(self._go_on(at, ended, delay if restart else None, begins))

    async def _go_on(
        self, at: Instance, ended: Ended | None, delay: float | None, begins: bool
    ) -> None:
        """Reports its end, then starts it again if that `begins` with this one."""
        lines = await self.engine.look(last_lines, self.engine.host, at)
        report(self.engine.events, at, ended, delay, lines)
        if begins and delay is not None:
            await self._restart(at.record.name, delay)

    async def _restart(self, name: str, delay: float) -> None:
        await asyncio.sleep(delay)
        engine = self.engine
        try:
            await self.before_restart(name)
            if not await engine.act_for(engine.tenant_of(name), engine.host.revive, name):
                return
        except InputError:
            return  # taken away meanwhile
        except (OSError, ViscumError) as error:  # `_look_again` finds it
            engine.events.publish(
                "service.not-started",
                f"{name} could not be started: {error}",
                service=name,
                level="error",
            )
            return
        finally:
            self._waiting.discard(name)
        self.restarts[name] = self.restarts.get(name, 0) + 1
        self._sync(engine.world)
        await self._await_listening(name)

    async def _await_listening(self, name: str) -> None:
        """Until it listens; one that does not within its start-timeout is ended, which is a
        failure as any other."""
        record = self.engine.world.services.get(name)
        if record is None:
            return
        end = now() + record.spec.run.start_timeout
        mine = [i for i in self._instances(name) if _is_wanted(i)]
        while mine and now() < end:
            if any(i.cgroup not in self._watched for i in mine):
                return  # it has ended, which is told elsewhere
            mine = [i for i in mine if not await self.engine.look(listens, i)]
            if mine:
                await asyncio.sleep(PAUSE)
        if not mine:
            self.engine.events.publish(
                "service.restarted", f"{name} was started again and listens", service=name,
                restarts=self.restarts[name],
            )  # fmt: skip
            return
        for i in mine:
            await self._end(i)

    async def _end(self, at: Instance) -> None:
        """One that does not listen in time; `_collect` hears of it."""
        watched, run = self._watched.get(at.cgroup), at.record.spec.run
        if watched is None:
            return  # it has ended just now
        watched.late = True
        self.engine.events.publish(
            "service.start-timeout",
            f"{at.group} does not listen {run.start_timeout} after it was started; it is stopped",
            service=at.record.name,
            level="error",
        )
        try:
            await self.engine.wait_for(process.stop, Group(at.cgroup), float(run.stop_timeout))
        except OSError as error:
            self.engine.events.publish(
                "controller.error", f"{at.group} could not be stopped: {error}",
                service=at.record.name, level="error",
            )  # fmt: skip

    def _instances(self, name: str) -> list[Instance]:
        every = instances(self.engine.world, self.engine.host.names)
        return [i for i in every if i.record.name == name]


async def _nothing(name: str) -> None:
    pass


def _is_wanted(at: Instance) -> bool:
    """Whether a process should be there; one that drains may end when it likes."""
    record = at.record
    return record.running and not record.removing and at.generation.state != "draining"
