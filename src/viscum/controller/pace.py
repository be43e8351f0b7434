"""How much of the thread that makes changes a tenant's services get for what they do by themselves.

A change that a tenant asks for is counted (who/turns.py). A server that ends, or that fails its
probes, asks for one as well, without anybody: with enough of them, or a start that takes its time,
a tenant would have the thread to itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from viscum.clock import now

REST = 9.0  # times as long as the last one took the next one waits: a tenth of the time


class Pace:
    """Of one controller. All of one tenant's come one after the other."""

    def __init__(self) -> None:
        self._one: dict[str, asyncio.Lock] = {}  # by tenant, as the following
        self._free: dict[str, float] = {}  # when the next one may begin

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        async with self._one.setdefault(tenant, asyncio.Lock()):
            while (left := self._free.get(tenant, 0.0) - now()) > 0:
                await asyncio.sleep(left)
            yield

    def spent(self, tenant: str, seconds: float) -> None:
        """So long was worked for it. From any thread."""
        self._free[tenant] = now() + REST * seconds
