"""What handlers work with, and what one principal sees of it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from viscum.controller.access import Access, Principal
from viscum.controller.api.route import NotFound
from viscum.controller.api.streams import Streams
from viscum.controller.engine import Engine
from viscum.controller.events import Events
from viscum.errors import InputError
from viscum.spec import to_mapping
from viscum.store import Record, World

if TYPE_CHECKING:
    from viscum.controller.probes import Probes
    from viscum.controller.supervise import Supervisor

HIDDEN = "(hidden)"


@dataclass(slots=True)
class Context:
    """Of one controller."""

    engine: Engine
    access: Access
    supervisor: Supervisor
    probes: Probes
    streams: Streams = field(default_factory=Streams)
    born: str = field(default_factory=lambda: secrets.token_hex(4))  # tells controllers apart
    _openapi: bytes = b""

    @property
    def events(self) -> Events:
        return self.engine.events

    def openapi(self) -> bytes:
        """Written when it is first asked for."""
        if not self._openapi:
            from viscum.controller.api.openapi import document

            self._openapi = document()
        return self._openapi

    def world(self, who: Principal | None) -> World:
        """What is asked for of the principal's own services, in the order of their names."""
        world = self.engine.world
        mine = {
            name: record
            for name, record in sorted(world.services.items())
            if who is not None and self.access.sees(who, record.tenant)
        }
        return World(world.host, mine)

    def record(self, who: Principal | None, name: str) -> Record:
        """Raises NotFound, also for a service of somebody else: that it exists is not told."""
        mine = self.world(who)
        try:
            return self.engine.host.known(mine, name)
        except InputError as error:
            problem = error.problems[0]
            raise NotFound(f"{name}: {problem.message}", hint=problem.fix) from None


def spec_of(record: Record, who: Principal | None) -> dict[str, Any]:
    """The spec as `export` has it; a viewer sees which variables there are, not what they hold."""
    given = to_mapping(record.spec)
    if (who is None or who.role == "viewer") and "environment" in given.get("run", {}):
        given["run"] = given["run"] | {
            "environment": dict.fromkeys(given["run"]["environment"], HIDDEN)
        }
    return given
