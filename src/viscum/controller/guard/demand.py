"""What each service uses just now, for the guard: read only when there is a reason to.

A service can't have run into its limits without having used the processor time that they allow; so
while all services together use less than that, which one file tells, nobody's files are read.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from viscum import flows
from viscum.controller.guard.law import Demand
from viscum.controller.settings import Guard as SetPoints
from viscum.host import Host
from viscum.kernel import director, load
from viscum.kernel.load import Used
from viscum.model import Counters
from viscum.plan import Instance, instances
from viscum.store import Record, World

OLD = 5.0  # seconds; what was read before is no measure for what is now
LAG_EVERY = 5.0  # seconds between two looks at how long flows live
ARRIVALS = ("edge-syn", "edge-cookie")
USUAL_LAG = 2.0  # seconds, before the first look


class Subject(Struct, frozen=True):
    """A service that may be lowered, as its record has it."""

    name: str
    sid: int
    priority: int
    top: int  # its own share, percent
    floor: float  # level it is never lowered below
    group: str
    mine: tuple[Instance, ...]
    limited: tuple[str, ...]  # control groups with a cpu limit
    max_throttled: float  # 0: does not count
    max_cores: float | None
    bound: float  # cores that it uses at least, when a set-point of its own is reached


def subjects(world: World, host: Host, points: SetPoints) -> dict[str, Subject]:
    """Every service that may be lowered, by name, the lowest priority first."""
    every = list(instances(world, host.names))
    found = {}
    for record in sorted(world.services.values(), key=lambda r: r.spec.priority):
        if may_be_lowered(record):
            mine = tuple(i for i in every if i.record.name == record.name)
            found[record.name] = _subject(
                record, mine, f"{host.names.prefix}/{record.name}", points
            )
    return found


def may_be_lowered(record: Record) -> bool:
    """What may not go to the cloud can't be sent there, and what has no share has none to lose."""
    spec = record.spec
    return spec.guard.mode == "on" and spec.steer.when_down == "cloud" and spec.steer.share > 0


def _subject(record: Record, mine: tuple[Instance, ...], group: str, points: SetPoints) -> Subject:
    spec, own = record.spec, record.spec.guard
    limit = spec.limits.cpu
    part = (points.throttled if own.throttled is None else own.throttled) / 100
    bounds = [] if own.cpu is None else [own.cpu]
    if limit is not None and part:
        bounds.append(part * limit * max(len(mine), 1))
    return Subject(
        name=record.name,
        sid=record.sid,
        priority=spec.priority,
        top=spec.steer.share,
        floor=min(1.0, own.min_share / spec.steer.share),
        group=group,
        mine=mine,
        limited=tuple(i.cgroup for i in mine) if limit is not None and part else (),
        max_throttled=part if limit is not None else 0.0,
        max_cores=own.cpu,
        bound=min(bounds, default=float("inf")),
    )


class Demands:
    """Remembers the last look at each service. Its methods are for a thread that may block."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._before: dict[str, Used] = {}
        self._lag: dict[str, float] = {}
        self._arrived: dict[str, int] = {}
        self._arrived_at = 0.0

    def read(
        self, wanted: Iterable[Subject], sample: load.Sample, *, memory: bool
    ) -> dict[str, Demand]:
        """By name. Who was not looked at a moment ago uses nothing yet."""
        found, now = {}, {}
        for subject in wanted:
            new = load.used(subject.group, subject.limited, memory=memory)
            now[subject.name] = new
            old = self._before.get(subject.name)
            if old is None or new.at - old.at > OLD:
                old = new
            found[subject.name] = self._demand(subject, old, new, sample)
        self._before = now
        return found

    def _demand(self, subject: Subject, old: Used, new: Used, sample: load.Sample) -> Demand:
        known = new.at > old.at
        cores = load.cores(old, new) if known else 0.0
        return Demand(
            name=subject.name,
            priority=subject.priority,
            floor=subject.floor,
            cpu=None if cores is None else min(1.0, cores / sample.cpus),
            memory=None if new.memory is None else new.memory / max(sample.memory, 1),
            cores=cores,
            throttled=load.throttled(old, new, len(subject.limited)) if known else 0.0,
            max_cores=subject.max_cores,
            max_throttled=subject.max_throttled,
            lag=self._lag.get(subject.name, USUAL_LAG),
        )

    def unread(self, subject: Subject) -> Demand:
        """Of one whose files there is no reason to read: it uses too little to matter."""
        return Demand(
            name=subject.name,
            priority=subject.priority,
            floor=subject.floor,
            cpu=0.0,
            memory=0.0,
            cores=0.0,
            max_cores=subject.max_cores,
            max_throttled=subject.max_throttled,
        )

    def look_at_lags(self, wanted: Iterable[Subject], at: float) -> None:
        """How long flows live: as many as there are over as many as begin in a second (Little's
        law). Of TCP alone, for no one knows when a UDP flow has ended. Raises OSError, ViscumError.
        """
        if at - self._arrived_at < LAG_EVERY:
            return
        counters: dict[int, Counters] = {}
        for by in director.installed(attach=self.host.attach):
            counters |= by.counters()
        arrived = {}
        for subject in wanted:
            packets = counters[subject.sid].packets if subject.sid in counters else {}
            arrived[subject.name] = sum(packets.get(reason, 0) for reason in ARRIVALS)
            before = self._arrived.get(subject.name)
            if before is None or at - self._arrived_at > 4 * LAG_EVERY:
                continue
            begun, open_ = arrived[subject.name] - before, flows.count(subject.mine, {})
            if begun > 0:
                self._lag[subject.name] = open_ * (at - self._arrived_at) / begun
            elif not open_:  # what was a lag is over
                self._lag.pop(subject.name, None)
        self._arrived, self._arrived_at = arrived, at
        self._lag = {name: lag for name, lag in self._lag.items() if name in arrived}
