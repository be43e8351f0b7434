"""/v1/services/NAME/logs: what a service's server printed, and goes on to print."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from viscum.clock import now
from viscum.controller.api.route import EVENTS, Call, NotFound, Reply, Route, Stream, Text
from viscum.controller.api.streams import frame
from viscum.kernel import logs as files
from viscum.spec.types import Duration

BATCH = 200  # lines in one event


class LogQuery(Struct, frozen=True, kw_only=True):
    lines: Annotated[
        int | None,
        Meta(
            description="Only the last so many of each instance; none given: 10000. No more than "
            "4 MB of all instances together.",
            ge=0,
            le=100000,
        ),
    ] = None
    since: Annotated[
        Duration | None,
        Meta(description="Only of the last T, as finely as is known.", examples=["10m"]),
    ] = None


class InstanceLog(Struct, frozen=True):
    """Of one instance: label is GENERATION.INSTANCE. complete: whether it holds all of the time
    that was asked for (`since`)."""

    label: str
    lines: tuple[str, ...]
    complete: bool = True


class Logs(Struct, frozen=True):
    """Oldest generation first."""

    logs: tuple[InstanceLog, ...]


async def shown(call: Call) -> Reply:
    found, _ = await _tails(call)
    return Reply(Logs(tuple(found)))


async def streamed(call: Call) -> Stream:
    found, ends = await _tails(call)
    return Stream(_follow(found, ends))


LINES = 10_000  # of each instance, where nobody says how many
MOST = 4 << 20  # bytes of all instances together, whoever says how many


async def _tails(call: Call) -> tuple[list[InstanceLog], dict[str, int]]:
    """The ends of its logs, and by path where they end. Raises NotFound."""
    context, query = call.context, call.query
    record = context.record(call.who, call.path["name"])
    directory = context.engine.host.store.logs / record.name
    with context.asking(call.who):
        found, ends = await context.engine.look(_read, directory, query.lines, query.since)
    if not found:
        raise NotFound(
            f"{record.name} has no log",
            hint=f"where there is a journal: journalctl -t {record.name}.1.0 on the box "
            "(generation, instance)",
        )
    return found, ends


def _read(
    directory: Path, lines: int | None, since: float | None
) -> tuple[list[InstanceLog], dict[str, int]]:
    since_ns = None if since is None else int((now() - since) * 1e9)
    found, ends = [], {}
    paths = sorted(map(str, directory.glob("*.log")))
    for path in paths:
        try:
            tail = files.tail(
                path,
                LINES if lines is None else lines,
                since_ns=since_ns,
                most=MOST // len(paths),
            )
        except FileNotFoundError:
            continue  # its generation has just ended
        complete = since is None or tail.since_ns is not None
        found.append(InstanceLog(Path(path).stem, tuple(tail.lines), complete))
        ends[path] = tail.end
    return found, ends


async def _follow(found: list[InstanceLog], ends: dict[str, int]) -> AsyncGenerator[bytes, None]:
    for one in found:
        for begin in range(0, len(one.lines), BATCH):
            yield frame({"label": one.label, "lines": one.lines[begin : begin + BATCH]})
    found.clear()  # a stream may go on for days
    yield frame({"label": "", "lines": []})  # what was there is complete; the rest is new
    follower = files.Follower(ends)
    news = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(follower.fileno(), news.set)
    try:
        while not follower.over:
            news.clear()
            path, lines = "", list[str]()
            for where, line in follower.read():
                if where != path or len(lines) >= BATCH:
                    if lines:
                        yield frame({"label": Path(path).stem, "lines": lines})
                    path, lines = where, []
                lines.append(line)
            if lines:
                yield frame({"label": Path(path).stem, "lines": lines})
            if not follower.over:
                await news.wait()
    finally:
        loop.remove_reader(follower.fileno())
        follower.close()


ROUTES = (
    Route(
        method="GET",
        path="/v1/services/{name}/logs",
        role="viewer",
        summary="What its server printed, as far as it is kept.",
        handler=shown,
        query=LogQuery,
        answers={200: Logs},
        errors=(404,),
    ),
    Route(
        method="GET",
        path="/v1/services/{name}/logs/stream",
        role="viewer",
        summary="The same, and what it goes on to print, as server-sent events.",
        description="Each `data` is {label, lines}. One without lines ends what was there before. "
        "The stream ends when those instances do.",
        handler=streamed,
        query=LogQuery,
        answers={200: Text(EVENTS, "Each `data` is {label, lines}.")},
        errors=(404,),
    ),
)
