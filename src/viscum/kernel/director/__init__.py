"""Directors: what recognises packets for a target and hands them to a service.

One module each behind `Director`; nothing above this package knows how one works.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

import msgspec

from viscum.errors import InputError, Problem
from viscum.model import Address, Counters, Hold, Steering, SteerService

DEFAULT = "ebpf"
PLANNED = ("flower", "u32")


class Op(Protocol):
    """One step a director wants done: says what, says it as shell, does it (idempotent)."""

    def describe(self) -> str: ...
    def shell(self) -> tuple[str, ...]: ...
    def apply(self) -> None: ...


class Explanation(msgspec.Struct, frozen=True):
    """What a director would do with a packet.

    reason: one of `abi.REASONS`, or "not-attached": the interface carries no director. sid: the
    service concerned, 0 for none; slot and generation: where the packet goes, if to the edge.
    """

    reason: str
    sid: int = 0
    slot: int = 0
    generation: int = 0


class Look(msgspec.Struct, frozen=True):
    """What a director says of all services at one moment: counters and holds by sid, live UDP
    flows at the edge by slot."""

    counters: dict[int, Counters]
    holds: dict[int, Hold]
    udp_flows: dict[int, int]


class Director(Protocol):
    """Acts in the network namespace of the calling thread.

    Every method may raise OSError (a kernel call refused) or ViscumError.
    """

    name: str

    def missing(self) -> str | None:
        """Why this director can't work here (one clause), or None."""
        ...

    def warm(self) -> None:
        """Begins, in the background, what a first `plan` will need; changes nothing."""
        ...

    def plan(self, want: Steering, links: tuple[str, ...]) -> tuple[Op, ...]:
        """Reads what is from the kernel and returns the steps to `want` (none if nothing differs).

        Links of instances need not be there yet, only when the steps are applied. `links`:
        host-side names of all our service links that exist. With an empty `want` the steps take
        everything of this director away, also what a killed command left.
        """
        ...

    def look(self) -> Look:
        """`counters`, `holds` and `udp_flows` with one search for the maps."""
        ...

    def counters(self) -> dict[int, Counters]:
        """By sid."""
        ...

    def hold(self, sid: int, hold: Hold) -> bool:
        """Lets a service have at most so much of new flows, at once and until it is said anew.
        Needs no lock. False: there is no such service in the data path (any more)."""
        ...

    def holds(self) -> dict[int, Hold]:
        """What services are held at, by sid; the others are free."""
        ...

    def udp_flows(self) -> dict[int, int]:
        """Live UDP flows at the edge, by slot."""
        ...

    def udp_targets(self) -> dict[tuple[int, Address], int]:
        """The same by slot and target."""
        ...

    def seed_udp(self, service: SteerService, flows: tuple[tuple[str, int, str, int], ...]) -> None:
        """Records (client, port, target, port) as flows of the cloud, before steering begins."""
        ...

    def explain(self, ifindex: int, packet: bytes) -> Explanation:
        """What would happen to this Ethernet frame on that interface; nothing is changed.

        The frame needs the interface's own destination MAC (explain.py builds such frames).
        """
        ...


def chosen(name: str) -> str:
    """The director that `director = name` in a spec means."""
    return DEFAULT if name == "auto" else name


def get(name: str, *, attach: str = "auto") -> Director:
    """The director called `name` ("auto", "ebpf"). Raises InputError for one that is not there."""
    if chosen(name) == "ebpf":
        return _ebpf(attach)
    message = "not there yet" if name in PLANNED else "no such director"
    raise InputError(Problem("director", name, message, 'use "ebpf"'))


@cache
def _ebpf(attach: str) -> Director:
    """One for the whole process: what it has begun to load is not begun again."""
    from viscum.kernel.director.ebpf import EbpfDirector

    return EbpfDirector(attach)


def installed(*, attach: str = "auto") -> tuple[Director, ...]:
    """Every director there is."""
    return (get(DEFAULT, attach=attach),)
