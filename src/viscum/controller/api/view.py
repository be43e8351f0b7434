"""Services as the API shows them."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from viscum.controller.access import Principal
from viscum.controller.api.context import Context, spec_of
from viscum.controller.probes import Health
from viscum.status import ServiceStatus
from viscum.store import Record

SPEC = Meta(extra_json_schema={"$ref": "#/components/schemas/Spec"})


class Service(Struct, frozen=True):
    """One service: what was asked for (tenant, spec) and what is (status; null for a moment after
    it was made). restarts: by this controller, since it started."""

    name: str
    tenant: str
    spec: Annotated[dict[str, Any], SPEC]
    status: ServiceStatus | None
    restarts: int
    health: Health


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


class Live(Struct, frozen=True):
    """at: seconds since 1970."""

    at: float
    services: tuple[LiveService, ...]


async def service(context: Context, who: Principal | None, record: Record) -> Service:
    found = {s.name: s for s in await context.engine.snapshot()}
    return _service(context, who, record, found)


async def page(
    context: Context, who: Principal | None, limit: int, after: str | None
) -> ServicePage:
    mine = [r for name, r in context.world(who).services.items() if after is None or name > after]
    found = {s.name: s for s in await context.engine.snapshot()}
    return ServicePage(
        tuple(_service(context, who, r, found) for r in mine[:limit]),
        mine[limit - 1].name if len(mine) > limit else None,
    )


def _service(
    context: Context, who: Principal | None, record: Record, found: dict[str, ServiceStatus]
) -> Service:
    return Service(
        name=record.name,
        tenant=record.tenant,
        spec=spec_of(record, who),
        status=found.get(record.name),
        restarts=context.supervisor.restarts.get(record.name, 0),
        health=context.probes.health(record.name),
    )


async def live(context: Context, who: Principal | None) -> bytes:
    """One Live, encoded."""
    found = {s.name: s for s in await context.engine.snapshot()}
    return msgspec.json.encode(
        Live(
            round(time.time(), 3),
            tuple(
                LiveService(
                    r.name,
                    r.tenant,
                    found.get(r.name),
                    context.supervisor.restarts.get(r.name, 0),
                    context.probes.health(r.name),
                )
                for r in context.world(who).services.values()
            ),
        )
    )
