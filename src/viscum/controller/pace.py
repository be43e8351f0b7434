"""How much of the thread that makes changes a tenant's services get for what they do by themselves.

A change that a tenant asks for is counted (who/turns.py). A server that ends or that fails its
probes, and a name that stands for another address, ask for one as well, without anybody: with
enough of them, or a start that takes its time, a tenant would have the thread to itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

from viscum.clock import now

P = ParamSpec("P")
T = TypeVar("T")

REST = 9.0  # times as long as the last one took the next one waits: a tenth of the time


class Pace:
    """Of one controller. All of one tenant's come one after the other."""

    def __init__(self) -> None:
        self._one: dict[str, asyncio.Lock] = {}  # by tenant, as the following
        self._free: dict[str, float] = {}  # when the next one may begin

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        async with self._one.setdefault(tenant, asyncio.Lock()):
            while (left := self.free(tenant) - now()) > 0:
                await asyncio.sleep(left)
            yield

    def free(self, tenant: str) -> float:
        """From when on something may be done for it; of the operator's own ("") at any time."""
        return self._free.get(tenant, 0.0)

    def timed(self, tenant: str, fn: Callable[P, T]) -> Callable[P, T]:
        """`fn`, whose time counts as the tenant's. It may run in any thread."""

        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            begun = now()
            try:
                return fn(*args, **kwargs)
            finally:
                ended = now()
                self._free[tenant] = ended + REST * (ended - begun)

        return called if tenant else fn
