"""/v1/services/NAME/names: what the targets that are names stand for just now."""

from __future__ import annotations

from msgspec import Struct

from viscum.controller.api.route import Call, Reply, Route
from viscum.controller.dns.part import Row


class Addresses(Struct, frozen=True):
    """Of one service; empty without a target that is a name, and while it is stopped."""

    items: tuple[Row, ...]


async def listed(call: Call) -> Reply:
    record = call.context.record(call.who, call.path["name"])
    rows = await call.context.controller.names.table(record.name)
    return Reply(Addresses(tuple(rows)))


ROUTES = (
    Route(
        method="GET",
        path="/v1/services/{name}/names",
        role="viewer",
        summary="What its targets that are names stand for, how that is known and until when.",
        handler=listed,
        answers={200: Addresses},
        errors=(404,),
    ),
)
