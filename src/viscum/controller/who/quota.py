"""A tenant that has as many flows as it may gets no new ones: they go to the cloud. None is cut.

Flows are sockets of the services, which no packet counts: they are counted once a second, only
where a tenant has such a quota, so that a burst within that second may be more.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from viscum import flows
from viscum.controller.engine import Engine
from viscum.errors import InputError, ViscumError
from viscum.plan import instances
from viscum.tenancy.files import Tenants

LOOK = 1.0
IDLE = 5.0  # seconds between two looks whether there is such a quota
ROOM = 0.9  # of the quota; below it new flows are let in again


class FlowQuotas:
    """The part that counts, and holds services back."""

    name = "quotas of flows"

    def __init__(self, engine: Engine, tenants: Tenants) -> None:
        self.engine = engine
        self.tenants = tenants
        self._full: set[str] = set()

    async def run(self) -> None:
        while True:
            usable, _ = self.tenants.usable()
            quotas = {t.name: t.quotas.flows for t in usable.values() if t.quotas.flows}
            try:
                await self._keep(quotas)
            except (OSError, ViscumError) as error:  # a service that goes just now: next time
                self.engine.events.publish("controller.error", str(error), level="error")
            await asyncio.sleep(LOOK if quotas else IDLE)

    async def _keep(self, quotas: dict[str, int]) -> None:
        engine = self.engine
        mine = {r.name: r.tenant for r in engine.world.services.values() if r.tenant in quotas}
        counted = await engine.look(self._count, mine) if mine else {}
        for tenant, quota in quotas.items():
            count = counted.get(tenant, 0)
            if tenant not in self._full and count >= quota:
                self._full.add(tenant)
                self._tell(tenant, count, quota, "has as many flows as it may")
            elif tenant in self._full and count < ROOM * quota:
                self._full.discard(tenant)
                self._tell(tenant, count, quota, "has room for new flows again")
        self._full &= quotas.keys()
        for record in list(engine.world.services.values()):
            share = 0.0 if record.tenant in self._full else 100.0
            with suppress(InputError):  # taken away meanwhile
                if engine.held(record.name).quota != share:
                    await engine.hold(record.name, quota=share)

    def _count(self, mine: dict[str, str]) -> dict[str, int]:
        """By tenant, of the services in `mine`."""
        host = self.engine.host
        udp = host.udp_flows()
        counted: dict[str, int] = {}
        for i in instances(self.engine.world, host.names):
            tenant = mine.get(i.record.name)
            if tenant is not None:
                counted[tenant] = counted.get(tenant, 0) + flows.count([i], udp)
        return counted

    def _tell(self, tenant: str, count: int, quota: int, what: str) -> None:
        full = tenant in self._full
        self.engine.events.publish(
            "tenant.flows-full" if full else "tenant.flows-room",
            f"{tenant} {what}: {count} of {quota}" + ("; new ones go to the cloud" if full else ""),
            tenant=tenant,
            level="warning" if full else "info",
            flows=count,
            quota=quota,
        )
