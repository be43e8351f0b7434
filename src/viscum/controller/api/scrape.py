"""/metrics: what the host and its services have counted, for Prometheus."""

from __future__ import annotations

from viscum.controller import metrics
from viscum.controller.api.route import Call, Reply, Route, Text


async def shown(call: Call) -> Reply:
    assert call.who is not None
    mine = None if call.who.tenant is None else call.context.world(call.who).services
    text = await metrics.text(call.context.controller, mine)
    return Reply(text.encode(), media=metrics.MEDIA)


ROUTES = (
    Route(
        method="GET",
        path="/metrics",
        role="viewer",
        summary="Metrics in Prometheus' text format; a tenant's are of its own services only.",
        handler=shown,
        answers={200: Text(metrics.MEDIA, "See docs/metrics.md.")},
    ),
)
