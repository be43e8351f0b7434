"""/v1/host and what describes the API itself."""

from __future__ import annotations

import os
from importlib.metadata import version

from msgspec import Struct

from viscum.controller.api import etag
from viscum.controller.api.route import JSON, Call, Reply, Route, Text


class HostStatus(Struct, frozen=True):
    """The host and its controller. events: the cursor of the newest; you: who asks, as
    the controller sees it; role: what it may."""

    version: str
    pid: int
    state_dir: str
    services: int
    events: str
    you: str
    role: str
    tenant: str | None


async def host(call: Call) -> Reply:
    assert call.who is not None
    return Reply(
        HostStatus(
            version=version("viscum"),
            pid=os.getpid(),
            state_dir=call.context.engine.host.names.state_dir,
            events=call.context.cursor(call.context.events.last),
            services=len(call.context.world(call.who).services),
            you=call.who.name,
            role=call.who.role,
            tenant=call.who.tenant,
        )
    )


async def openapi(call: Call) -> Reply:
    data = call.context.openapi()
    tag = etag.of_bytes(data)
    unless = call.headers.get("if-none-match")
    if unless is not None and etag.matches(unless, tag, weak=True):
        return Reply(None, 304, {"etag": tag})
    return Reply(data, 200, {"etag": tag})


ROUTES = (
    Route(
        method="GET",
        path="/v1/host",
        role="viewer",
        summary="The host, and who you are to it.",
        handler=host,
        answers={200: HostStatus},
    ),
    Route(
        method="GET",
        path="/openapi.json",
        role="anyone",
        summary="This document.",
        handler=openapi,
        answers={200: Text(JSON), 304: None},
        request_headers=("If-None-Match",),
        headers=("ETag",),
    ),
)
