"""Directors: what recognises packets for a target and hands them to a service.

One module each behind `Director`; nothing above this package knows how one works.
"""

from __future__ import annotations

from typing import Protocol

from viscum.model import Counters, Steering, SteerService


class Op(Protocol):
    """One step a director wants done: says what, says it as shell, does it (idempotent)."""

    def describe(self) -> str: ...
    def shell(self) -> tuple[str, ...]: ...
    def apply(self) -> None: ...


class Director(Protocol):
    """Acts in the network namespace of the calling process.

    Every method may raise OSError (a kernel call refused) or ViscumError.
    """

    name: str

    def missing(self) -> str | None:
        """Why this director can't work here (one clause), or None."""
        ...

    def plan(self, want: Steering, links: tuple[str, ...]) -> tuple[Op, ...]:
        """Reads what is from the kernel and returns the steps to `want` (none if nothing differs).

        `links`: host-side names of all our service links that exist. With an empty `want` the
        steps take everything of this director away, also what a killed command left.
        """
        ...

    def counters(self) -> dict[int, Counters]:
        """By sid."""
        ...

    def udp_flows(self) -> dict[int, int]:
        """Live UDP flows at the edge, by slot."""
        ...

    def seed_udp(self, service: SteerService, flows: tuple[tuple[str, int, str, int], ...]) -> None:
        """Records (client, port, target, port) as flows of the cloud, before steering begins."""
        ...
