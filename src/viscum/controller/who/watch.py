"""What is asked of services without the API: by a command on the box. It is noted as such, for the
audit log says who changed what, and of this it can only say that somebody did."""

from __future__ import annotations

import asyncio
from typing import Any

from viscum.clock import now
from viscum.controller.engine import Engine
from viscum.controller.who.access import OUTSIDE
from viscum.controller.who.audit import Audit, Deed, Entry, differs
from viscum.errors import ViscumError
from viscum.store import Record, World
from viscum.tenancy.files import Tenants

LOOK = 5.0  # seconds between two looks at the tenants' files


class Watch:
    """The part that compares what is asked for with what was, and tells of tenants' files that
    can't be used."""

    name = "audit"

    def __init__(self, engine: Engine, audit: Audit, tenants: Tenants) -> None:
        self.engine = engine
        self.audit = audit
        self.tenants = tenants
        self._begun = False
        audit.noted = self._tell
        audit.state = lambda name: _asked(engine.world.services.get(name))

    async def run(self) -> None:
        if not self._begun:  # what was changed before it began is nobody's
            self._begun = True
            await self._note(
                "controller.start", self.engine.host.names.state_dir, "", (), "changes are seen"
            )
        async with asyncio.TaskGroup() as group:  # which ends them all if one fails
            for one in (self._records(), self._files()):
                group.create_task(one)

    async def _records(self) -> None:
        seen: World | None = None
        async for world in self.engine.worlds():
            if seen is not None:
                for name in sorted(world.services.keys() | seen.services.keys()):
                    before, after = seen.services.get(name), world.services.get(name)
                    if before is not after and not self.audit.knows(name):
                        await self._compare(name, before, after)
            seen = world

    async def _compare(self, name: str, before: Record | None, after: Record | None) -> None:
        if before is not None and after is None:
            if not before.removing:
                await self._note("service.remove", name, before.tenant, ())
            return
        assert after is not None
        if before is None:
            await self._note("service.put", name, after.tenant, differs(None, after.spec))
            return
        if before.spec != after.spec:
            changes = differs(before.spec, after.spec)
            await self._note("service.put", name, after.tenant, changes)
        if after.removing and not before.removing:
            await self._note("service.remove", name, after.tenant, ())
        elif before.running != after.running:
            action = "service.start" if after.running else "service.stop"
            await self._note(action, name, after.tenant, ())
        if _steered(before) != _steered(after):
            action = "service.enable" if after.enabled else "service.disable"
            await self._note(action, name, after.tenant, ())

    async def _note(
        self,
        action: str,
        name: str,
        tenant: str,
        changes: tuple[str, ...],
        outcome: str = "changed outside of the API",
    ) -> None:
        try:
            await self.audit.note(Deed(OUTSIDE, action, name, tenant, changes), outcome)
        except ViscumError as error:
            self.engine.events.publish("audit.unwritable", error.message, level="error")

    def _tell(self, entry: Entry) -> None:
        """A copy goes to the controller's own log, and with that off this box where it is shipped:
        against it, what somebody has done to the audit log can be seen."""
        words = f"{entry.principal} ({entry.how}): {entry.action} {entry.object}: {entry.outcome}"
        self.engine.events.publish(
            "audit.noted", words, tenant=entry.tenant, n=entry.n, hash=entry.hash
        )

    async def _files(self) -> None:
        """Who is stopped by a mistake in its file learns it only by being refused."""
        seen: Any = ()
        while True:
            mark = self.tenants.version()
            if mark != seen:
                seen = mark
                for name, problems in self.tenants.usable()[1].items():
                    self.engine.events.publish(
                        "tenants.unusable",
                        f"tenant {name} can't be used: {'; '.join(map(str, problems))}",
                        level="error",
                        of=name,
                    )
            await asyncio.sleep(LOOK)


def _asked(record: Record | None) -> object:
    """All that somebody can ask for; what becomes of a service by itself is not in it."""
    if record is None:
        return None
    return record.spec, record.running, record.removing, _steered(record)


def _steered(record: Record) -> tuple[bool, int]:
    """Whether it is to be, and until when: turning back by itself is no change."""
    if record.until_ns and now() * 1e9 >= record.until_ns:
        return not record.enabled, 0
    return record.enabled, record.until_ns
