"""What has happened: told once, to whoever listens (the API's streams, the log).

The newest `KEPT` are remembered so that a listener that was away can catch up by number. They are
news, not truth: what is, is read back from the kernel.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, Literal

from msgspec import Struct, field

KEPT = 2000
QUEUED = 1000  # for one listener; a slower one has missed some, and is told so

Level = Literal["info", "warning", "error"]


class Event(Struct, frozen=True, kw_only=True):
    """One thing that has happened.

    id: counts up by one from the controller's start; at: seconds since 1970; kind: what, in words
    with dots, such as service.crashed; service, tenant: of which it is, "" for the host's own;
    message: one sentence for a person; data: the same for programs.
    """

    id: int
    at: float
    kind: str
    message: str
    level: Level = "info"
    service: str = ""
    tenant: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class Missed(Exception):
    """The listener was too slow, or asks for what is no longer remembered."""


class Events:
    """Publishing and listening, on the event loop's thread."""

    def __init__(self) -> None:
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._next = 1
        self.counts: Counter[str] = Counter()  # by kind, since the controller's start
        self._listeners: set[asyncio.Queue[Event | None]] = set()
        self.tenant_of: Callable[[str], str] = lambda service: ""
        self.sinks: list[Callable[[Event], None]] = []

    def publish(
        self,
        kind: str,
        message: str,
        *,
        service: str = "",
        tenant: str = "",
        level: Level = "info",
        **data: Any,
    ) -> Event:
        event = Event(
            id=self._next,
            at=time.time(),
            kind=kind,
            message=message,
            level=level,
            service=service,
            tenant=tenant or (self.tenant_of(service) if service else ""),
            data=data,
        )
        self._next += 1
        self.counts[kind] += 1
        self._kept.append(event)
        for sink in self.sinks:
            sink(event)
        for queue in list(self._listeners):
            if queue.qsize() >= QUEUED:
                self._listeners.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)
        return event

    @property
    def last(self) -> int:
        """Number of the newest event; 0: none yet."""
        return self._next - 1

    def since(self, number: int = 0) -> list[Event]:
        """Those after `number` that are still remembered, oldest first."""
        return [event for event in self._kept if event.id > number]

    async def listen(self, after: int | None = None) -> AsyncGenerator[Event, None]:
        """Every event after number `after` (None: from now on), as it comes. Raises Missed."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        if after is not None:
            oldest = self._kept[0].id if self._kept else self._next
            if after > self.last or after + 1 < oldest:
                raise Missed
            for event in self.since(after):
                queue.put_nowait(event)
        self._listeners.add(queue)
        try:
            while (event_or_end := await queue.get()) is not None:
                yield event_or_end
            raise Missed
        finally:
            self._listeners.discard(queue)
