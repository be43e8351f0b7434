"""Services as the API shows them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from viscum.clock import now
from viscum.controller.guard.law import Reading
from viscum.controller.guard.part import ServiceLoad
from viscum.controller.health.patients import Health
from viscum.controller.who.access import Principal
from viscum.status import ServiceStatus, services
from viscum.store import Record

if TYPE_CHECKING:
    from viscum.controller.api.context import Context

SPEC = Meta(extra_json_schema={"$ref": "#/components/schemas/Spec"})


class Wanted(Struct, frozen=True):
    """What was asked for besides the spec. removing: it goes with its last flow; resets_in: seconds
    until a drained `disable` resets what is left."""

    enabled: bool
    running: bool
    removing: bool
    resets_in: float | None


class Service(Struct, frozen=True):
    """One service: what was asked for (tenant, spec, wanted) and what is (status; null for a moment
    after it was made). restarts: by this controller, since it started. load: what the load guard
    lets it have."""

    name: str
    tenant: str
    spec: Annotated[dict[str, Any], SPEC]
    wanted: Wanted
    status: ServiceStatus | None
    restarts: int
    health: Health
    load: ServiceLoad


class ServicePage(Struct, frozen=True):
    """next: give it as `after` for what follows; null at the end."""

    items: tuple[Service, ...]
    next: str | None


class LiveService(Struct, frozen=True):
    """What changes from second to second."""

    name: str
    tenant: str
    status: ServiceStatus | None
    restarts: int
    health: Health
    load: ServiceLoad


class Live(Struct, frozen=True):
    """at: seconds since 1970. signals: of the box's load; none for a tenant."""

    at: float
    services: tuple[LiveService, ...]
    signals: tuple[Reading, ...] = ()


class View:
    """Put together once for each snapshot and state of the records, however many ask."""

    MOST = 64  # different answers that are kept

    def __init__(self, context: Context) -> None:
        self.context = context
        self._of: tuple[object, object] = (None, None)  # snapshot and records
        self._status: dict[str, ServiceStatus] = {}
        self._deep: asyncio.Task[list[ServiceStatus]] | None = None
        self._kept: dict[tuple[object, ...], bytes] = {}

    async def service(self, who: Principal | None, record: Record) -> Service:
        await self._look()
        return self._service(record, _is_viewer(who))

    async def deep(self, who: Principal | None, record: Record) -> Service:
        """Looked at now, with how it differs from what was asked; one look for all who ask."""
        if self._deep is None or self._deep.done():
            engine = self.context.engine
            look = engine.wait_for(services, engine.host, deep=True)
            self._deep = asyncio.ensure_future(look)
        found = {s.name: s for s in await asyncio.shield(self._deep)}
        return replace(await self.service(who, record), status=found.get(record.name))

    async def page(self, who: Principal | None, limit: int, after: str | None) -> bytes:
        """A ServicePage, encoded."""
        await self._look()
        viewer = _is_viewer(who)

        def make() -> ServicePage:
            mine = [r for n, r in self.context.world(who).services.items() if n > (after or "")]
            return ServicePage(
                tuple(self._service(r, viewer) for r in mine[:limit]),
                mine[limit - 1].name if len(mine) > limit else None,
            )

        return self._once(make, "page", who.tenant if who else "", viewer, limit, after)

    async def live(self, who: Principal | None) -> bytes:
        """A Live, encoded."""
        await self._look()

        def make() -> Live:
            mine = self.context.world(who).services.values()
            is_tenant = who is None or who.tenant is not None
            signals = () if is_tenant else self.context.controller.guard.signals()
            return Live(round(time.time(), 3), tuple(map(self._live, mine)), signals)

        return self._once(make, "live", who.tenant if who else "")

    async def _look(self) -> None:
        snapshot = await self.context.engine.snapshot()
        of = (snapshot, self.context.engine.world)
        if of[0] is not self._of[0] or of[1] is not self._of[1]:
            self._of = of
            self._status = {s.name: s for s in snapshot}
            self._kept.clear()

    def _once(self, make: Callable[[], Struct], *key: object) -> bytes:
        known = self._kept.get(key)
        if known is None:
            known = msgspec.json.encode(make())
            if len(self._kept) < self.MOST:
                self._kept[key] = known
        return known

    def _service(self, record: Record, viewer: bool) -> Service:
        asked = self.context.asked(record)
        return Service(
            name=record.name,
            tenant=record.tenant,
            spec=asked.hidden if viewer else asked.spec,
            wanted=_wanted(record),
            status=self._status.get(record.name),
            restarts=self._restarts(record),
            health=self.context.controller.probes.health(record.name),
            load=self.context.controller.guard.of(record.name),
        )

    def _live(self, record: Record) -> LiveService:
        status = self._status.get(record.name)
        health = self.context.controller.probes.health(record.name)
        load = self.context.controller.guard.of(record.name)
        return LiveService(record.name, record.tenant, status, self._restarts(record), health, load)

    def _restarts(self, record: Record) -> int:
        return self.context.controller.supervisor.restarts.get(record.name, 0)


def _wanted(record: Record) -> Wanted:
    ends = record.end_flows_at
    left = None if ends is None else max(0.0, ends - now())
    return Wanted(record.enabled, record.running, record.removing, left)


def _is_viewer(who: Principal | None) -> bool:
    return who is None or who.role == "viewer"
