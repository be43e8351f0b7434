"""What tenants may take of what all who ask share: the last of it is the operator's."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from viscum.controller.api import app, context, streams
from viscum.controller.api.context import Context
from viscum.controller.api.route import Reply, TooMany
from viscum.controller.api.streams import Streams
from viscum.controller.who.access import Principal

pytestmark = pytest.mark.req("C5", "C6")

ROOT = Principal("root", None, "admin", "socket")
ANN = Principal("ann", "acme", "viewer", "token", "1")


def test_tenants_leave_streams_to_the_operator() -> None:
    of = Streams()
    with ExitStack() as held:
        for number in range(streams.MOST - streams.MOST_EACH):
            held.enter_context(of.one(f"tenant{number}", of_host=False))
        with pytest.raises(TooMany), of.one("another", of_host=False):
            pass
        for _ in range(streams.MOST_EACH):
            held.enter_context(of.one("socket root", of_host=True))
        with pytest.raises(TooMany), of.one("token bob", of_host=True):
            pass
    with of.one("another", of_host=False):
        pass


def test_tenants_leave_a_look_at_the_box_to_the_operator() -> None:
    nothing: Any = None
    of = Context(nothing, nothing)
    with ExitStack() as held:
        for _ in range(context.ASKING - 1):
            held.enter_context(of.asking(ANN))
        with pytest.raises(TooMany), of.asking(ANN):
            pass
        held.enter_context(of.asking(ROOT))
        with pytest.raises(TooMany), of.asking(ROOT):
            pass
    with of.asking(ANN):
        pass


def test_who_does_not_read_keeps_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before, of another answer, is not taken either: not even a head can be sent."""
    monkeypatch.setattr(app, "WRITE", 0.01)
    aborted: list[bool] = []

    async def test() -> None:
        async def send(message: object) -> None:
            await asyncio.Event().wait()

        sender = app._Sender({"state": {"abort": lambda: aborted.append(True)}}, send)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await sender.reply(Reply(None))

    asyncio.run(test())
    assert aborted == [True]
