"""Server-sent events: how a stream is written, kept alive and ended; how many there may be."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from viscum.controller.api.route import TooMany

MOST = 64  # streams at a time
MOST_EACH = 16  # of one tenant, or of one who is none's
LOOK = 2.5  # seconds within which a token that counts no more ends its streams
HEARTBEAT = 15.0  # seconds after which a comment is sent when nothing else is


class Streams:
    """Those that are open."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()  # by whose they are

    @contextmanager
    def one(self, whose: str, of_host: bool) -> Iterator[None]:
        """Counts one while it is open; tenants leave some for the operator. Raises TooMany."""
        total = MOST if of_host else MOST - MOST_EACH
        for count, most in ((self.open.total(), total), (self.open[whose], MOST_EACH)):
            if count >= most:
                raise TooMany(
                    f"{count} streams are open already", hint="close one, or poll instead", after=10
                )
        self.open[whose] += 1
        try:
            yield
        finally:
            self.open[whose] -= 1
            self.open += Counter()  # without those that have none


def frame(value: Any, *, event: str = "", cursor: str = "") -> bytes:
    """One event; JSON has no line ends of its own."""
    head = (f"event: {event}\n" if event else "") + (f"id: {cursor}\n" if cursor else "")
    data = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return head.encode() + b"data: " + data + b"\n\n"


async def paced(
    chunks: AsyncGenerator[bytes, None], gone: asyncio.Future[Any], still: Callable[[], bool]
) -> AsyncGenerator[bytes, None]:
    """`chunks`, with comments where nothing comes, until the client has gone or `still`, asked
    every few seconds, says that it may not go on."""
    silent = 0.0  # seconds
    waiting: asyncio.Task[bytes] | None = None
    try:
        while not gone.done() and still():
            if waiting is None:
                waiting = asyncio.ensure_future(_next(chunks))
            await asyncio.wait({waiting, gone}, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                return
            if not waiting.done():
                silent += LOOK
                if silent >= HEARTBEAT:
                    silent = 0.0
                    yield b": \n\n"
                continue
            silent = 0.0
            try:
                chunk = waiting.result()
            except StopAsyncIteration:
                waiting = None
                return
            waiting = None
            yield chunk
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await chunks.aclose()


async def _next(chunks: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(chunks)
