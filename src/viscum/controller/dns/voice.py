"""What the part tells of names: each thing once, or once in a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from viscum.clock import now
from viscum.controller.dns.learn import SPOILED, Told
from viscum.controller.events import Events

if TYPE_CHECKING:
    from collections.abc import Collection

    from viscum.kernel.dnswatch import Datagram

QUIET = 60.0  # seconds between two events of the same refusal
MAX_QUIET = 256  # of them that are remembered


class Voice:
    """Publishes the events names.…"""

    def __init__(self, events: Events) -> None:
        self._events = events
        # service and name ("": setting them), or "" and an interface
        self._failing: set[tuple[str, str]] = set()
        self._told: dict[tuple[str, str], float] = {}

    def changed(
        self, service: str, names: tuple[str, ...], before: Collection[str], after: Collection[str]
    ) -> None:
        """Its targets, as networks."""
        self.succeeded(service)
        added, removed = sorted(set(after) - set(before)), sorted(set(before) - set(after))
        words = [f"{sign}{a}" for sign, which in (("+", added), ("-", removed)) for a in which]
        self._events.publish(
            "names.changed",
            f"{service}: {', '.join(names)} {' '.join(words)}",
            service=service,
            added=added,
            removed=removed,
        )

    def failed(self, service: str, why: str, name: str = "") -> None:
        """Once, until it has succeeded."""
        if (service, name) in self._failing:
            return
        self._failing.add((service, name))
        self._events.publish(
            "names.failed",
            f"{service}: {name + ': ' if name else ''}{why}; what it stood for stays",
            service=service,
            level="warning",
            name=name,
            why=why,
        )

    def succeeded(self, service: str, name: str = "") -> None:
        self._failing.discard((service, name))

    def listening(self, interface: str, why: str) -> None:
        """Why it can't be listened on, once, until it can ("")."""
        if not why:
            self.succeeded("", interface)
        elif ("", interface) not in self._failing:
            self._failing.add(("", interface))
            self._events.publish(
                "names.deaf",
                f"{interface}: nothing that clients are told there is learnt: {why};"
                " it is tried again",
                level="warning",
                interface=interface,
                why=why,
            )

    def refused(self, service: str, name: str, why: str, told: Told | None = None) -> None:
        """An address; told: which client was given it."""
        if self._just_now(service, why):
            return
        data = {"client": str(told.client), "server": str(told.server)} if told else {}
        self._events.publish(
            "names.refused",
            f"{service}: {name} may not lead to {why}",
            service=service,
            level="warning",
            name=name,
            why=why,
            **data,
        )

    def forged(self, name: str, seen: Datagram) -> None:
        """An answer for the name that came in from the clients' side."""
        if self._just_now("", str(seen.source)):
            return
        self._events.publish(
            "names.forged",
            f"{seen.source} answers for {name} from the clients' side; nothing that clients are"
            f" told is learnt for {SPOILED:g} s",
            level="warning",
            name=name,
            source=str(seen.source),
            client=str(seen.destination),
        )

    def _just_now(self, service: str, what: str) -> bool:
        """Whether it was told within QUIET; else it is now."""
        moment = now()
        if moment - self._told.get((service, what), -QUIET) < QUIET:
            return True
        if len(self._told) >= MAX_QUIET:
            self._told.clear()
        self._told[service, what] = moment
        return False
