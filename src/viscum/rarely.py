"""Telling of what changes all the time."""

from __future__ import annotations

from collections.abc import Callable

from viscum.clock import now

FIRST, LONGEST = 1.0, 60.0  # s between two lines


class Rarely:
    """Tells what is new, but less and less often: a wait of hours is not to fill a log."""

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = now) -> None:
        self._tell = tell
        self._clock = clock
        self._told: object = None
        self._next, self._pause = 0.0, FIRST

    def __call__(self, what: object, line: str) -> None:
        """what: a line is new only if this is."""
        moment = self._clock()
        if what == self._told or moment < self._next:
            return
        self._tell(line)
        self._told = what
        self._next, self._pause = moment + self._pause, min(2 * self._pause, LONGEST)
