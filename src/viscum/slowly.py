"""What may have to wait for flows, written as generators: each yields the seconds after which it
looks again. So one command waits for many services at once, and needs no threads for it."""

from __future__ import annotations

import heapq
import time
from collections.abc import Generator, Iterable
from typing import TypeVar

from viscum.clock import now

T = TypeVar("T")

#: Does nothing before its first step; what it returns is the result.
Slowly = Generator[float, None, T]


def finish(one: Slowly[T]) -> T:
    """To its end. Raises what it raises."""
    while True:
        try:
            pause = next(one)
        except StopIteration as end:
            result: T = end.value
            return result
        time.sleep(pause)


def together(ones: Iterable[Slowly[None]]) -> None:
    """Each in its turn as far as it comes without waiting, then all of them to their end, in the
    order in which they get there. Raises what one of them raises; the others stay as they are."""
    waiting: list[tuple[float, int, Slowly[None]]] = []

    def step(number: int, one: Slowly[None]) -> None:
        try:
            heapq.heappush(waiting, (next(one) + now(), number, one))
        except StopIteration:
            pass

    for number, one in enumerate(ones):
        step(number, one)
    while waiting:
        moment, number, one = heapq.heappop(waiting)
        time.sleep(max(0.0, moment - now()))
        step(number, one)
