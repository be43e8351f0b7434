"""What a row of answers says of a server's health. Pure: no clock, no kernel.

A server that is unhealthy again soon after it had recovered has to answer for longer before it is
believed: twice as many successes in a row each time, until it has stayed well for a while.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from viscum.spec import Probe

State = Literal["unknown", "healthy", "unhealthy"]

CALM = 30  # probes that a recovered server has to go on well before its flapping is forgotten
FLAPS = 5  # at most 2**FLAPS times as many successes
RESTARTS = 6  # at most 2**RESTARTS times as many failures between two restarts


class Tally(Struct, frozen=True):
    """Of one instance. failures, successes: in a row, till now; lasted: probes since it was found
    healthy; flaps, restarts: how often lately it fell ill again, was restarted without success."""

    state: State = "unknown"
    failures: int = 0
    successes: int = 0
    lasted: int = 0
    flaps: int = 0
    restarts: int = 0


def after(tally: Tally, ok: bool, probe: Probe) -> Tally:
    """With one more answer."""
    lasted = tally.lasted + 1 if tally.state == "healthy" else 0
    if ok:
        successes = tally.successes + 1
        needed = probe.successes << tally.flaps
        if tally.state != "healthy" and successes >= needed:
            lasted = CALM if tally.state == "unknown" else 0  # it has not recovered from anything
            return replace(
                tally, state="healthy", failures=0, successes=successes, lasted=lasted, restarts=0
            )
        flaps = 0 if lasted >= CALM else tally.flaps
        return replace(tally, failures=0, successes=successes, lasted=lasted, flaps=flaps)
    failures = tally.failures + 1
    tally = replace(tally, failures=failures, successes=0, lasted=lasted)
    if tally.state == "unhealthy" or failures < probe.failures:
        return tally
    relapsed = tally.state == "healthy" and lasted < CALM
    flaps = min(tally.flaps + 1, FLAPS) if relapsed else tally.flaps
    return replace(tally, state="unhealthy", lasted=0, flaps=flaps)


def is_to_restart(tally: Tally, probe: Probe) -> bool:
    """Whether so many failures in a row call for a restart; after one that did not help, twice as
    many."""
    return 0 < probe.restart_after << tally.restarts <= tally.failures


def restarted(tally: Tally) -> Tally:
    return replace(tally, failures=0, successes=0, restarts=min(tally.restarts + 1, RESTARTS))


def anew(tally: Tally) -> Tally:
    """Another process is there: what is known of the old one does not count, but that an unhealthy
    one was."""
    state: State = "unhealthy" if tally.state == "unhealthy" else "unknown"
    return replace(tally, state=state, failures=0, successes=0, lasted=0)


def of_all(states: list[State]) -> State:
    """Of a service by its instances': one that is ill makes it so (docs/decisions.md 45)."""
    if "unhealthy" in states:
        return "unhealthy"
    return "healthy" if states and set(states) == {"healthy"} else "unknown"
