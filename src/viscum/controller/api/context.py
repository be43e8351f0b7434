"""What handlers work with, and what one principal sees of it."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from viscum.controller.api import etag
from viscum.controller.api.changes import Changes
from viscum.controller.api.route import NotFound, TooMany
from viscum.controller.api.streams import Streams
from viscum.controller.api.view import View
from viscum.controller.engine import Engine
from viscum.controller.events import Events
from viscum.controller.who.access import Access, Principal
from viscum.controller.who.turns import Turns
from viscum.errors import InputError
from viscum.spec import to_mapping
from viscum.store import Record, World
from viscum.tenancy import kept

if TYPE_CHECKING:
    from viscum.controller.main import Controller

HIDDEN = "(hidden)"
# Requests at a time for each of which the box is looked at anew: half of the engine's threads.
ASKING = 4


@dataclass
class Context:
    """Of one controller, whose parts it hands on."""

    controller: Controller
    changes: Changes
    turns: Turns = field(default_factory=Turns)
    streams: Streams = field(default_factory=Streams)
    born: str = field(default_factory=lambda: secrets.token_hex(4))  # tells controllers apart
    _asking: int = 0
    _openapi: bytes = b""
    _asked: dict[str, Asked] = field(default_factory=dict)  # by service

    def __post_init__(self) -> None:
        self.view = View(self)

    @property
    def engine(self) -> Engine:
        return self.controller.engine

    @property
    def access(self) -> Access:
        return self.controller.access

    @property
    def events(self) -> Events:
        return self.engine.events

    @contextmanager
    def asking(self, who: Principal | None) -> Iterator[None]:
        """Around what makes the box look at something for one request alone; tenants leave one for
        the operator. Raises TooMany."""
        if self._asking >= (ASKING if who is not None and who.of_host else ASKING - 1):
            raise TooMany(f"{ASKING} others ask the box for something like this", after=2)
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1

    def cursor(self, number: int) -> str:
        """Numbers of events begin anew with each controller: a cursor says of which."""
        return f"{self.born}-{number}"

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

    def kept(self, who: Principal | None) -> Collection[str]:
        """The principal's own services that the next boot starts, there now or not."""
        return {} if who is None else kept.files(self.engine.host.config_dir, who.tenant or "")

    def asked(self, record: Record) -> Asked:
        """Worked out once as long as the record is the same."""
        known = self._asked.get(record.name)
        if known is None or known.record is not record:
            for name in self._asked.keys() - self.engine.world.services.keys():
                del self._asked[name]
            known = self._asked[record.name] = _asked(record)
        return known

    def record(self, who: Principal | None, name: str) -> Record:
        """Raises NotFound, also for a service of somebody else: that it exists is not told."""
        mine = self.world(who)
        try:
            return self.engine.host.known(mine, name)
        except InputError as error:
            problem = error.problems[0]
            raise NotFound(f"{name}: {problem.message}", hint=problem.fix) from None


class Asked(NamedTuple):
    """What follows from a record alone."""

    record: Record
    etag: str
    spec: dict[str, Any]
    hidden: dict[str, Any]  # the same for viewers: which variables there are, not what they hold


def _asked(record: Record) -> Asked:
    spec = to_mapping(record.spec)
    hidden = spec
    if "environment" in spec.get("run", {}):
        names = dict.fromkeys(spec["run"]["environment"], HIDDEN)
        hidden = spec | {"run": spec["run"] | {"environment": names}}
    return Asked(record, etag.of_record(record, spec), spec, hidden)
