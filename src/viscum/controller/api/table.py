"""Every route there is. A new part of the API adds its ROUTES here and nowhere else."""

from __future__ import annotations

from viscum.controller import console
from viscum.controller.api import (
    asking,
    happenings,
    hosts,
    loads,
    naming,
    output,
    scrape,
    services,
    tenancy,
)
from viscum.controller.api.route import Route

ROUTES: tuple[Route, ...] = (
    *hosts.ROUTES,
    *services.ROUTES,
    *loads.ROUTES,
    *output.ROUTES,
    *asking.ROUTES,
    *naming.ROUTES,
    *happenings.ROUTES,
    *tenancy.ROUTES,
    *scrape.ROUTES,
    *console.ROUTES,
)
