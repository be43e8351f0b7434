"""Changes that go on after they were answered: `upgrade = "replace"` waits for the last flow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec

from viscum.controller.engine import Busy, Engine
from viscum.controller.who.audit import Audit
from viscum.errors import ViscumError
from viscum.host import Replacing
from viscum.start import Outcome

P = ParamSpec("P")

PATIENCE = 5.0  # seconds that a request waits for it


class Changes:
    """Of one controller. When that ends, what still waits stays stopped, as it was left."""

    def __init__(self, engine: Engine, audit: Audit) -> None:
        self.engine = engine
        self.audit = audit
        self._waiting: dict[str, asyncio.Task[Outcome | Exception]] = {}  # by service

    async def make(
        self, fn: Callable[P, Outcome | Replacing], *args: P.args, **kwargs: P.kwargs
    ) -> Outcome:
        """Calls one of the host's `begin…`, and goes on for it. Raises what they raise.

        An outcome that says "draining" goes on by itself; what becomes of it is an event.
        """
        begun = await self.engine.act(fn, *args, **kwargs)
        if isinstance(begun, Outcome):
            return begun
        name = begun.spec.name
        if name in self._waiting:
            self._waiting[name].cancel()  # the last one wins
        task = asyncio.create_task(self._finish(begun))
        self._waiting[name] = task
        task.add_done_callback(lambda done: self._done(name, done))
        await asyncio.wait({task}, timeout=PATIENCE)
        if not task.done():
            note = "its old processes end first, with their last flow or at the drain limit"
            return Outcome(name, "draining", [note])
        if task.cancelled():
            return Outcome(name, "draining", ["another change took its place"])
        outcome = task.result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def close(self) -> None:
        tasks = list(self._waiting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, name: str, task: asyncio.Task[Outcome | Exception]) -> None:
        if self._waiting.get(name) is task:
            del self._waiting[name]

    async def _finish(self, begun: Replacing) -> Outcome | Exception:
        engine, name = self.engine, begun.spec.name
        async for world in engine.worlds():
            record = world.services.get(name)
            if record is None or not record.generations or record.running:
                break
        while True:
            try:
                with self.audit.known(name):
                    return await engine.act(engine.host.finish, begun)
            except Busy as busy:
                await asyncio.sleep(busy.after)
            except (OSError, ViscumError) as error:
                engine.events.publish(
                    "service.not-started", f"{name} could not be started: {error}",
                    service=name, level="error",
                )  # fmt: skip
                return error
