"""How a server has ended, and the event that tells it."""

from __future__ import annotations

from typing import NamedTuple

from viscum.controller.events import Events
from viscum.host import Host
from viscum.kernel import logs, process
from viscum.plan import Instance
from viscum.start import LOG_LINES

STEADY = 10.0  # seconds
LINE = 300  # characters of a line of the log that are reported


class Ended(NamedTuple):
    """How a server has ended. status: 0 … 255, 128 + signal, None: the kernel does not tell; late:
    it was ended as it did not listen in time, whatever its status says."""

    status: int | None
    lived: float
    oom: bool
    late: bool

    @property
    def failed(self) -> bool:
        return self.late or self.status != 0

    def is_steady(self, longest_delay: float) -> bool:
        """Whether it ran for so long that failures before are forgotten: at least as long as the
        longest delay, so that a server that keeps failing is down for no more than half the time;
        and not just because that delay is short, which would make the delay of a crash loop never
        grow."""
        return self.lived >= max(longest_delay, STEADY)

    def __str__(self) -> str:
        if self.late:
            return "did not listen in time and was ended"
        if self.oom:
            return "was killed: out of memory"
        if self.status is None:
            return "ended (this kernel does not tell how)"
        return process.in_words(self.status)


def last_lines(host: Host, at: Instance) -> list[str]:
    """What it has said last."""
    place = host.store.log(at.record.name, at.generation.number, at.index)
    try:
        lines = logs.tail(str(place), LOG_LINES).lines
    except OSError:
        return []  # in the journal
    return [line[:LINE] for line in lines]


def report(
    events: Events, at: Instance, ended: Ended | None, delay: float | None, lines: list[str]
) -> None:
    """ended None: nobody saw how. delay: seconds until it is started again; None: it is not."""
    how = str(ended) if ended else "is not running"
    then = f"; it is started again in {delay:g} s" if delay is not None else ""
    failed = ended is None or ended.failed
    events.publish(
        "service.crashed" if failed else "service.ended",
        f"{at.group} {how}{then}; new flows go to the cloud",
        service=at.record.name,
        level="error" if failed else "info",
        status=ended.status if ended else None,
        lived=round(ended.lived, 3) if ended else None,
        out_of_memory=bool(ended and ended.oom),
        restart_in=delay,
        log=lines,
    )
