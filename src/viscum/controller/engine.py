"""The one door through which the controller's parts act on the host and look at it.

Changes are made one after the other by one thread, as they would queue at the host's lock anyway;
looking has a thread of its own and waits for no change. The parts themselves live on the event loop
and never block it. Nothing is remembered here that the kernel or the records do not say, but what
this controller holds services at, and that is read back from the kernel when it starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from msgspec.structs import replace

from viscum import status
from viscum.clock import now
from viscum.controller.events import Events
from viscum.controller.pace import Pace
from viscum.errors import Held, InputError, ViscumError
from viscum.host import Host
from viscum.kernel import director
from viscum.model import FREE, Hold
from viscum.status import ServiceStatus
from viscum.store import HostRecord, Record, World

P = ParamSpec("P")
T = TypeVar("T")

QUEUED = 64  # changes that may wait; one more is refused
LOOK = 0.5  # seconds between two looks whether another command has changed a record
FRESH = 1.0  # seconds for which a snapshot is good enough for everybody


class Busy(ViscumError):
    """Too many changes wait already. Try again in `after` seconds."""

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"{waiting} changes wait already",
            state="nothing was changed",
            hint="try again in a few seconds",
        )
        self.after = 5


class Engine:
    """Of one host; lives as long as the controller."""

    name = "following the records"

    def __init__(self, host: Host, events: Events) -> None:
        self.host = host
        self.events = events
        self.world = World(HostRecord("", "", ""), {})  # as of the last look
        self.replacing: set[str] = set()  # services whose servers a part ends, to start them again
        self._changes = ThreadPoolExecutor(1, "viscum-change")
        self._looks = ThreadPoolExecutor(1, "viscum-look")
        self._patient = ThreadPoolExecutor(8, "viscum-wait")
        self._waiting = 0
        self._version = -1
        self.pace = Pace()
        self._news = asyncio.Condition()
        self._held: dict[int, Hold] = {}
        self._snapshot: asyncio.Task[list[ServiceStatus]] | None = None
        self._snapshot_at = 0.0
        events.tenant_of = self.tenant_of

    # ---- acting and looking

    async def act(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls `fn`, which changes something and does not wait for flows, in its turn.

        Raises Busy, and whatever `fn` raises. Cancelling the caller does not undo it.
        """
        if self._waiting >= QUEUED:
            raise Busy(self._waiting)
        self._waiting += 1
        try:
            return await self._to_its_end(self._changes, lambda: fn(*args, **kwargs))
        finally:
            self._waiting -= 1
            self._snapshot = None
            if not is_cancelled() and not await self.refresh():
                await self._hold_again()  # `enable` of what is enabled changes no record

    async def act_for(
        self, tenant: str, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The same for what a service does by itself, nobody having asked: a tenant's wait for each
        other, and get a part of the time only. tenant "": the operator's own."""
        if not tenant:
            return await self.act(fn, *args, **kwargs)
        async with self.pace.turn(tenant):
            return await self.act(self.pace.timed(tenant, fn), *args, **kwargs)

    async def wait_for(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for what may wait long without the host's lock (`upgrade = "replace"`)."""
        try:
            return await self._to_its_end(self._patient, lambda: fn(*args, **kwargs))
        finally:
            if not is_cancelled():
                await self.refresh()

    async def _to_its_end(self, executor: ThreadPoolExecutor, fn: Callable[[], T]) -> T:
        """Also when the caller is told to end meanwhile; then an event tells if it failed."""
        future = asyncio.get_running_loop().run_in_executor(executor, fn)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(self._tell_failed)
            raise

    def _tell_failed(self, done: asyncio.Future[T]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None and not isinstance(error, InputError | Held):
            self.events.publish(
                "controller.error", f"what was being done meanwhile failed: {error}", level="error"
            )

    async def look(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls `fn`, which changes nothing and takes no lock."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._looks, lambda: fn(*args, **kwargs))

    async def snapshot(self) -> list[ServiceStatus]:
        """Every service's status, at most a second old: however many ask, the kernel is asked
        once."""
        if self._snapshot is None or (
            self._snapshot.done()
            and (now() - self._snapshot_at > FRESH or self._snapshot.exception() is not None)
        ):
            self._snapshot = asyncio.ensure_future(self.look(status.services, self.host))
            self._snapshot_at = now()
        return await asyncio.shield(self._snapshot)

    # ---- the records

    def record(self, name: str) -> Record:
        """As of the last look. Raises InputError for a service that is not there."""
        return self.host.known(self.world, name)

    def tenant_of(self, service: str) -> str:
        """Whose the service is; "" for the operator's own, and for one that is not there."""
        record = self.world.services.get(service)
        return record.tenant if record else ""

    async def refresh(self) -> bool:
        """Looks whether records have changed, whoever changed them, and tells those who wait."""
        version = self.host.store.version()
        if version == self._version:
            return False
        self.world = await self.look(self.host.load)
        self._version = version
        try:
            await self._hold_again()
        finally:  # whatever fails there: the records have changed
            async with self._news:
                self._news.notify_all()
        return True

    async def worlds(self) -> AsyncIterator[World]:
        """The records as they are, and again whenever they have changed."""
        while True:
            seen = self.world
            yield seen
            async with self._news:
                while self.world is seen:
                    await self._news.wait()

    # ---- holding services back

    def held(self, name: str) -> Hold:
        """What this controller wants the service held at."""
        return self._held.get(self.record(name).sid, FREE)

    async def hold(
        self,
        name: str,
        *,
        load: float | None = None,
        health: float | None = None,
        quota: float | None = None,
    ) -> bool:
        """Lets it have at most so many percent of new flows, because of one of the reasons; what
        the others say stays. Whether it was another value before."""
        record = self.record(name)
        old = self._held.get(record.sid, FREE)
        new = replace(
            old,
            load=old.load if load is None else load,
            health=old.health if health is None else health,
            quota=old.quota if quota is None else quota,
        )
        if new == old:
            return False
        self._held[record.sid] = new
        await self.look(self.host.hold, record, new)
        return True

    async def _hold_again(self) -> None:
        """What other commands let go of (`viscum enable`), or forgot with their interfaces."""
        records = {record.sid: record for record in self.world.services.values()}
        self._held = {sid: hold for sid, hold in self._held.items() if sid in records}
        for sid in list(self._held):
            hold = self._held.get(sid)  # asked for only now: it may have changed meanwhile
            if hold is None:
                continue
            try:
                await self.look(self.host.hold, records[sid], hold)
            except (OSError, ViscumError) as error:
                self.events.publish(
                    "controller.error",
                    f"could not hold {records[sid].name} back: {error}",
                    level="error",
                    service=records[sid].name,
                )

    # ---- living

    async def adopt(self) -> None:
        """Takes over what an earlier controller left. Raises ViscumError."""
        self._version = self.host.store.version()  # first: what is written meanwhile is not missed
        self.world = await self.look(self.host.load)
        self._held = await self.look(_holds, self.host)

    async def run(self) -> None:
        """Notices what other commands change; until cancelled."""
        while True:
            try:
                await self.refresh()
            except (OSError, ViscumError) as error:
                self.events.publish(
                    "controller.error", f"can't read the records: {error}", level="error"
                )
                await asyncio.sleep(10 * LOOK)
            await asyncio.sleep(LOOK)

    def close(self) -> None:
        """After the last part has ended: what is being changed is finished."""
        for executor in (self._changes, self._looks, self._patient):
            executor.shutdown(wait=True, cancel_futures=True)


def is_cancelled() -> bool:
    """Whether the task that runs is told to end: what else fails then must not hide that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _holds(host: Host) -> dict[int, Hold]:
    found: dict[int, Hold] = {}
    for by in director.installed(attach=host.attach):
        found |= by.holds()
    return found
