"""What tenants' services do by themselves gets a part of the thread that makes changes."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path

import pytest

from support import need_root
from viscum.clock import now
from viscum.controller import pace
from viscum.controller.engine import Engine
from viscum.controller.events import Events
from viscum.host import Host

pytestmark = pytest.mark.req("C6")

TOOK = 0.01


def test_restarts_of_one_tenant_leave_the_thread_to_others(tmp_path: Path) -> None:
    """However many services it has, and however long each of their starts takes."""
    need_root()
    times: dict[str, list[tuple[float, float]]] = {"acme": [], "beta": [], "": []}

    def work(tenant: str) -> None:
        begun = now()
        time.sleep(TOOK)
        times[tenant].append((begun, now()))
        if tenant == "acme" and len(times[tenant]) == 1:
            raise OSError("one that fails counts as well")

    async def all_at_once() -> None:
        engine = Engine(Host(str(tmp_path)), Events())
        await asyncio.gather(
            *(engine.act_for(t, work, t) for t in ["acme"] * 4 + ["beta"] + [""] * 4),
            return_exceptions=True,
        )
        # Who does not wait is told when, and his time counts as well.
        assert engine.pace.free("acme") >= times["acme"][-1][1] + pace.REST * TOOK
        assert engine.pace.free("") == 0
        await engine.act(engine.pace.timed("acme", work), "acme")
        assert engine.pace.free("acme") >= times["acme"].pop()[1] + pace.REST * TOOK
        engine.close()

    asyncio.run(all_at_once())
    assert {t: len(found) for t, found in times.items()} == {"acme": 4, "beta": 1, "": 4}
    mine = times["acme"]
    for (begun, ended), (next_one, _) in pairwise(mine):
        assert next_one - ended >= pace.REST * (ended - begun)
    second = mine[1][0]
    assert times["beta"][0][0] < second, "another tenant's do not wait for it"
    assert all(begun < second for begun, _ in times[""]), "nor do the operator's"
