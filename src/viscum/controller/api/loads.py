"""What the load guard sees and does."""

from __future__ import annotations

from msgspec import Struct

from viscum.controller.api.route import Call, Reply, Route
from viscum.controller.guard.part import BoxLoad


class Change(Struct, frozen=True):
    """at: seconds since 1970; share: percent of new flows from then on."""

    at: float
    share: float


class History(Struct, frozen=True):
    """Oldest first; the newest 900."""

    items: tuple[Change, ...]


async def load(call: Call) -> Reply:
    return Reply(call.context.controller.guard.box())


async def history(call: Call) -> Reply:
    record = call.context.record(call.who, call.path["name"])
    changes = call.context.controller.guard.history(record.name)
    return Reply(History(tuple(Change(round(at, 3), share) for at, share in changes)))


ROUTES = (
    Route(
        method="GET",
        path="/v1/host/load",
        role="viewer",
        host=True,
        summary="How busy the box is, as the load guard sees it.",
        handler=load,
        answers={200: BoxLoad},
    ),
    Route(
        method="GET",
        path="/v1/services/{name}/history",
        role="viewer",
        summary="How the load guard has changed its share of new flows.",
        description="Empty if it never has, since this controller started.",
        handler=history,
        answers={200: History},
        errors=(404,),
    ),
)
