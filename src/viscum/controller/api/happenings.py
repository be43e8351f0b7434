"""/v1/events and /v1/live: what has happened, and what is now, as it comes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from msgspec import Meta, Struct

from viscum.controller.api.context import Context
from viscum.controller.api.route import EVENTS, Call, Reply, Route, Stream
from viscum.controller.api.route import Text as Media
from viscum.controller.api.streams import frame
from viscum.controller.events import Event, Missed
from viscum.controller.who.access import Principal
from viscum.errors import InputError, Problem
from viscum.spec.values import BadValue, Kind

TICK = 1.0  # seconds between two snapshots of /v1/live


CURSOR = "^[0-9a-f]{1,16}-[0-9]{1,18}$"


def _cursor(given: object) -> str:
    if isinstance(given, str) and re.match(CURSOR, given):
        return given
    raise BadValue("is no cursor", "give one as it was sent")


Cursor = Annotated[str, Kind("cursor", _cursor, CURSOR)]


class EventsQuery(Struct, frozen=True, kw_only=True):
    limit: Annotated[int, Meta(description="So many at most.", ge=1, le=1000)] = 100
    after: Annotated[
        Cursor | None, Meta(description="A cursor (`next`, or an id of the stream); none: all.")
    ] = None


class EventPage(Struct, frozen=True):
    """Oldest first. next: give it as `after` to ask for what has happened since (there may be more
    already if the page is full). missed: what came just after `after` is no longer remembered."""

    items: tuple[Event, ...]
    next: str
    missed: bool = False


async def listed(call: Call) -> Reply:
    query: EventsQuery = call.query
    context = call.context
    number, missed = _number(context, query.after)
    found = [e for e in context.events.since(number) if _sees(context, call.who, e)]
    shown = tuple(found[: query.limit])
    last = shown[-1].id if len(found) > query.limit else max(number, context.events.last)
    return Reply(EventPage(shown, context.cursor(last), missed))


async def stream(call: Call) -> Stream:
    given = call.headers.get("last-event-id")
    if given is None and call.query.after is not None:
        given = call.query.after
    number, missed = _number(call.context, given) if given else (None, False)
    return Stream(_stream(call.context, call.who, number, missed))


async def _stream(
    context: Context, who: Principal | None, after: int | None, missed: bool
) -> AsyncGenerator[bytes, None]:
    yield b"retry: 2000\n\n"
    while True:
        if missed or after is None:
            after = context.events.last
        if missed:
            yield frame({}, event="missed", cursor=context.cursor(after))
        try:
            async with aclosing(context.events.listen(after)) as listening:
                async for event in listening:
                    after = event.id
                    if _sees(context, who, event):
                        yield frame(event, cursor=context.cursor(event.id))
        except Missed:
            missed = True


def _sees(context: Context, who: Principal | None, event: Event) -> bool:
    return who is not None and context.access.sees(who, event.tenant)


def _number(context: Context, cursor: str | None) -> tuple[int, bool]:
    """(the event's number, whether what followed is no longer remembered). Raises InputError."""
    if not cursor:
        return 0, False
    if not re.match(CURSOR, cursor):  # a header's
        fix = "give one as it was sent"
        raise InputError(Problem("Last-Event-ID", cursor[:80], "is no cursor", fix))
    born, _, number = cursor.partition("-")
    if born != context.born or int(number) > context.events.last:
        return 0, True
    kept = context.events.since()
    return int(number), bool(kept) and int(number) + 1 < kept[0].id


async def live(call: Call) -> Stream:
    return Stream(_live(call.context, call.who))


async def _live(context: Context, who: Principal | None) -> AsyncGenerator[bytes, None]:
    while True:
        yield frame(await context.view.live(who))
        await asyncio.sleep(TICK)


class StreamQuery(Struct, frozen=True, kw_only=True):
    after: Annotated[
        Cursor | None,
        Meta(description="The id of the last event that was seen, where Last-Event-ID can't be "
             "given."),
    ] = None  # fmt: skip


ROUTES = (
    Route(
        method="GET",
        path="/v1/events",
        role="viewer",
        summary="What has happened, as far as it is remembered.",
        handler=listed,
        query=EventsQuery,
        answers={200: EventPage},
        errors=(422,),
    ),
    Route(
        method="GET",
        path="/v1/events/stream",
        role="viewer",
        summary="What happens, as server-sent events.",
        description="Resumes after Last-Event-ID; an event `missed` says that some are lost.",
        handler=stream,
        query=StreamQuery,
        answers={200: Media(EVENTS, "Each `data` is an Event.")},
        errors=(422,),
        request_headers=("Last-Event-ID",),
    ),
    Route(
        method="GET",
        path="/v1/live",
        role="viewer",
        summary="All services each second, as server-sent events.",
        handler=live,
        answers={200: Media(EVENTS, "Each `data` is a Live.")},
    ),
)
