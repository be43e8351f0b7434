"""What the node leaves to "the next command" is done when it is due: drains, `--for`, log bounds,
and steering again from an interface that was made anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from viscum import drains
from viscum.clock import now
from viscum.controller.engine import Engine
from viscum.errors import ViscumError
from viscum.kernel import link
from viscum.store import World

T = TypeVar("T")

LOOK, SLOWEST = 1.0, 30.0  # seconds between two looks while something drains
TRIM = 10.0  # seconds between two looks at the logs
IDLE = 60.0
MEND = 600.0  # seconds after which everything is compared with what was asked, as `tidy` does


class Due:
    """The part of the controller that keeps the host's deadlines."""

    name = "deadlines"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._stuck: dict[str, str] = {}  # as was told last

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:  # which ends them all if one fails
            for one in (self._deadlines(), self._logs(), self._interfaces()):
                group.create_task(one)

    async def _deadlines(self) -> None:
        """Flows are counted without the host's lock, and ever more seldom while nothing ends: a
        drain without a limit may last for days."""
        engine, pause = self.engine, LOOK
        while True:
            world = engine.world
            if await self._try(engine.look(drains.is_due, engine.host, world)):
                await self._settle()
            pause = min(pause * 1.5, SLOWEST) if engine.world is world else LOOK
            moment = now()
            records = engine.world.services.values()
            times = [d for d in map(drains.deadline, records) if d is not None]
            waits = any(map(drains.draining, records)) or any(d <= moment for d in times)
            later = [d - moment for d in times if d > moment]
            if await self._is_news(min([pause if waits else IDLE, *later])):
                pause = LOOK

    async def _settle(self) -> None:
        done = await self._try(self.engine.act(self.engine.host.settle))
        if done is None:
            return
        ended, stuck = done
        for name, count in ended.items():
            if count:
                self.engine.events.publish(
                    "service.flows-reset",
                    f"{name}: {count} flows were reset at their limit",
                    service=name,
                    flows=count,
                )
        for name, why in stuck.items():
            if self._stuck.get(name) != why:
                self.engine.events.publish(
                    "controller.error",
                    f"{name}: what is due can't be finished: {why}",
                    service=name,
                    level="error",
                )
        self._stuck = stuck

    async def _is_news(self, seconds: float) -> bool:
        """Sleeps, but no longer than until a record changes; whether one has."""
        seen = self.engine.world
        end = now() + seconds
        while self.engine.world is seen and (left := end - now()) > 0:
            await asyncio.sleep(min(left, LOOK / 2))
        return self.engine.world is not seen

    async def _logs(self) -> None:
        while True:
            await asyncio.sleep(TRIM)
            await self.engine.look(self.engine.host.trim_logs, self.engine.world)

    async def _interfaces(self) -> None:
        """An interface that comes back under its name is another one to the kernel. Of one that
        is new here nobody knows whether it was made anew just now: it is looked after as well."""
        seen: dict[str, int] = {}
        mended = now()
        while True:
            await asyncio.sleep(LOOK)
            there = interfaces(self.engine.world)
            changed = [name for name in there if there[name] not in (0, seen.get(name))]
            if changed or now() - mended > MEND:
                if await self._try(self.engine.act(self.engine.host.tidy)) is None:
                    continue  # it failed, and is tried again
                mended = now()
                for name in seen.keys() & changed:
                    self.engine.events.publish(
                        "interface.changed", f"{name} was made anew; it is steered from again",
                        interface=name,
                    )  # fmt: skip
            seen |= there

    async def _try(self, what: Awaitable[T]) -> T | None:
        """What can't be done now is tried again at the next look."""
        try:
            return await what
        except (OSError, ViscumError) as error:
            self.engine.events.publish("controller.error", str(error), level="error")
            await asyncio.sleep(10 * LOOK)
            return None


def interfaces(world: World) -> dict[str, int]:
    """Every client interface with its index now; 0: it is not there."""
    names = {name for record in world.services.values() for name in record.spec.steer.interfaces}
    return {name: link.index(name) for name in sorted(names)}
