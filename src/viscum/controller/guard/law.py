"""The guard's control law: what the box and its services are like → which share each may have.

Pure: no clock, no files. One `Law` is the state between two steps. Levels run from 0 to 1: the part
of a service's own `share` that it keeps.

Every signal becomes a *pressure*, its value over its set-point; the largest counts. From it follows
by how much, relative to what there is, the load of all services has to change (a relative change
keeps the loop's gain at 1 or less however far the box was overloaded). Lowering is taken from the
services of the lowest priority that use anything until they have nothing left, then from the next;
raising begins with the highest. The state is in the levels alone, so that there is nothing to wind
up, and a controller that adopts levels goes on without a jump.

A share acts on new flows only, so what it does is seen a flow's lifetime later (`Demand.lag`). Far
beyond the set-point the law does not wait for that; near it, and when raising, it moves as slowly
as flows live. Between `resume` and the set-point nothing moves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from viscum.controller.settings import Guard as SetPoints
from viscum.kernel.load import Load

Cause = Literal[
    "cpu", "cpu-pressure", "memory-pressure", "memory-available", "time-squeezes", "drops"
]

SMOOTH = 3.0  # seconds; a measurement's weight falls to 1/e in that time
SMOOTH_OWN = 4.0  # a service's own limit has ten periods a second, which tell little
GAIN = 0.5  # of the loop, over (what is not smoothed away + lag)
SAMPLING = 1.25  # seconds between a change and the first measurement that shows all of it
FAR = 0.15  # pressure beyond 1 from which on the law does not wait for flows to end
HURRY = 0.5  # a second, of what is beyond FAR
RAISE = 0.8  # of the gain, when raising
AIM = 0.9  # the pressure that raising aims at, between `resume` and 1
STEEPEST = 0.25  # at most this much down a second
RISE = 0.05  # at most this much up a second
CALM = 5.0  # seconds below `resume` before anything is raised
MAX_LAG = 30.0
LONGEST = 2.0  # seconds; a controller that was held up does not make up for it in one step
FOOT = 0.05  # raising from nothing begins as if from here
LITTLE = 0.01  # of the box: a service that uses less is no cause
NOT_THEIRS = 0.02  # of the box: if all services together use less, lowering them is no help
LEAST_PART = 0.25  # of the box, in reckoning how much of their load has to go
GONE = 0.005  # a level below this is 0
STEEP = 3.0  # how steeply being throttled rises with load, see `own_pressure`


class Reading(Struct, frozen=True):
    """One signal. pressure: 1 is its set-point."""

    name: str
    value: float
    set_point: float
    pressure: float


class Demand(Struct, frozen=True):
    """What one service is, and uses just now. cpu, memory: parts of the box's (None: not known);
    cores: the same as cpu, in processors; throttled: the part of the time in which it was held back
    by its own limit; lag: how long its flows live, in seconds."""

    name: str
    priority: int
    floor: float = 0.0  # never below this level
    cpu: float | None = None
    memory: float | None = None
    cores: float | None = None
    throttled: float = 0.0
    max_cores: float | None = None
    max_throttled: float = 0.0  # 0: does not count
    lag: float = 0.0


class Level(Struct):
    """State of one service. box: because of the box; own: because of the service alone."""

    box: float = 1.0
    own: float = 1.0
    throttled: float = 0.0  # smoothed
    cores: float = 0.0  # smoothed
    calm: float = 0.0  # seconds for which its own pressure has been low

    def value(self, floor: float) -> float:
        return max(min(self.box, self.own), min(floor, 1.0))


class Step(Struct, frozen=True):
    """What a step came to. not_theirs: the box is short, and not because of the services."""

    levels: Mapping[str, float]
    emergency: Cause | None = None
    not_theirs: bool = False


class Law:
    """Of one host."""

    def __init__(self, points: SetPoints) -> None:
        self.points = points
        self.state: dict[str, Level] = {}
        self.readings: tuple[Reading, ...] = ()
        self.pressure = 0.0  # smoothed: the largest of the signals'
        self.cause: Cause = "cpu"
        self.raw = 0.0  # the same, just now
        self.short = False  # whether something has to be done
        self.emergency: Cause | None = None  # and at once
        self.services = 0.0  # smoothed: what all services use of the processors; 1: not known
        self._smooth: dict[Cause, float] = {}
        self._calm = 0.0
        self._dropping = 0

    def adopt(self, levels: Mapping[str, float]) -> None:
        """Goes on from levels that an earlier controller left; why is not known any more."""
        for name, level in levels.items():
            self.state[name] = Level(level, level)

    def feel(self, load: Load) -> float:
        """Takes in what the box is like; its pressure now. `step` comes after it."""
        weight = 1 - math.exp(-load.seconds / SMOOTH)
        raw = pressures(self.points, load)
        self.readings = raw
        self.raw = max((r.pressure for r in raw), default=0.0)
        for reading in raw:
            name: Cause = reading.name  # type: ignore[assignment]
            old = self._smooth.get(name, min(reading.pressure, 1.0))
            self._smooth[name] = old + weight * (reading.pressure - old)
        self.cause = max(self._smooth, key=lambda k: self._smooth[k], default="cpu")
        self.pressure = self._smooth.get(self.cause, 0.0)
        used = 1.0 if load.services is None else min(1.0, load.services / max(load.cpus, 1))
        self.services += weight * (used - self.services)
        self._calm = self._calm + load.seconds if self.pressure < self.points.resume / 100 else 0.0
        beyond = self.points.drops and load.dropped >= self.points.drops
        self._dropping = self._dropping + 1 if beyond else 0
        self.emergency = self._emergency(load)
        self.short = self.emergency is not None or (self.pressure > 1 and self.raw > 1)
        return self.pressure

    def lowered(self) -> set[str]:
        """The services that are below their share."""
        return {name for name, s in self.state.items() if min(s.box, s.own) < 1}

    def step(self, load: Load, demands: Sequence[Demand]) -> Step:
        """One step, after `feel`. demands: every service that may be lowered."""
        seconds = min(load.seconds, LONGEST)
        self.state = {d.name: self.state.get(d.name, Level()) for d in demands}
        for demand in demands:
            self._own(demand, seconds)
        emergency = self.emergency
        active = [d for d in demands if self._counts(d)] if self.short else []
        not_theirs = self.short and self._use(active) < NOT_THEIRS
        if not_theirs:  # those that have given way already go on
            emergency = None
            active = [d for d in active if self.state[d.name].box < 1]
        if emergency:
            for demand in demands:
                self.state[demand.name].box = min(self.state[demand.name].box, demand.floor)
        elif active:
            self._lower(active, self._cut(active) * seconds, seconds)
        elif self._calm >= CALM:
            self._raise(demands, seconds)
        self._in_order(demands, seconds)
        levels = {d.name: self.state[d.name].value(d.floor) for d in demands}
        return Step(levels, emergency, not_theirs)

    # ---- the box

    def _emergency(self, load: Load) -> Cause | None:
        if load.available < self.points.memory_floor / 100:
            self.cause = "memory-available"
        elif self._dropping >= 2:
            self.cause = "drops"
        else:
            return None
        return self.cause

    def _cut(self, active: Sequence[Demand]) -> float:
        """What part of their load has to go in a second, for each second. The less of what is short
        is theirs, the more of it."""
        error = min(self.pressure, self.raw) - 1
        theirs = 1.0
        if not self.cause.startswith("memory"):
            theirs = max(self._use(active), LEAST_PART)
        lag = min(max(d.lag for d in active), MAX_LAG)
        near = min(error, FAR) * GAIN / (SAMPLING + lag)
        return (near + max(0.0, error - FAR) * HURRY) / theirs

    def _counts(self, demand: Demand) -> bool:
        """Whether it uses anything of what is short; what is lowered already stays so."""
        use = self._of(demand)
        return use is None or use >= LITTLE or self.state[demand.name].box < 1

    def _of(self, demand: Demand) -> float | None:
        return demand.memory if self.cause.startswith("memory") else demand.cpu

    def _use(self, demands: Iterable[Demand]) -> float:
        """Of the box; all of it if it is not known."""
        uses = [self._of(d) for d in demands]
        return 1.0 if None in uses else sum(use for use in uses if use is not None)

    def _lower(self, active: Sequence[Demand], cut: float, seconds: float) -> None:
        """Takes the part `cut` of what they all use from the lowest priorities first."""
        left = min(1.0, cut)
        total = max(self._use(active), 1e-9)
        for priority in sorted({d.priority for d in active}):
            mine = [d for d in active if d.priority == priority]
            open_ = [d for d in mine if self.state[d.name].box > d.floor]
            if not open_:
                continue
            use = max(self._use(open_) / total if self._known(active) else 1.0, 1e-9)
            part = min(1.0, left / use)
            for demand in open_:
                state = self.state[demand.name]
                state.box = _fallen(state.box, part, demand.floor, seconds)
            left -= part * use
            if left <= 1e-6 or any(self.state[d.name].box > d.floor for d in open_):
                return  # these first

    def _known(self, demands: Iterable[Demand]) -> bool:
        return all(self._of(d) is not None for d in demands)

    def _raise(self, demands: Sequence[Demand], seconds: float) -> None:
        """Gives the highest priority that lacks something more; the next when it lacks nothing."""
        lacking = [d for d in demands if self.state[d.name].box < 1]
        if not lacking:
            return
        priority = max(d.priority for d in lacking)
        for demand in (d for d in lacking if d.priority == priority):
            state = self.state[demand.name]
            gain = RAISE * GAIN / (SAMPLING + min(demand.lag, MAX_LAG))
            state.box = _risen(state.box, gain * max(0.0, AIM - self.pressure), seconds)

    def _in_order(self, demands: Sequence[Demand], seconds: float) -> None:
        """No service keeps more than its floor while one of a higher priority lacks something: a
        new one, one that was idle till now or another priority may have brought that about."""
        short = max((d.priority for d in demands if self.state[d.name].box < 1), default=-1)
        for demand in demands:
            state = self.state[demand.name]
            if demand.priority < short and state.box > demand.floor and self._counts(demand):
                state.box = _fallen(state.box, 1.0, demand.floor, seconds)

    # ---- a service's own limits

    def _own(self, demand: Demand, seconds: float) -> None:
        state = self.state[demand.name]
        weight = 1 - math.exp(-seconds / SMOOTH_OWN)
        state.throttled += weight * (demand.throttled - state.throttled)
        state.cores += weight * ((demand.cores or 0.0) - state.cores)
        pressure = own_pressure(demand, state.throttled, state.cores)
        raw = own_pressure(demand, demand.throttled, demand.cores or 0.0)
        lag = min(demand.lag, MAX_LAG)
        gain = GAIN / (SMOOTH_OWN / 2 + lag)
        if pressure > 1 and raw > 1:
            state.calm = 0.0
            state.own = min(state.own, state.value(0.0))  # what the box has taken has no effect
            error = min(pressure, raw) - 1
            cut = (min(error, FAR) * gain + max(0.0, error - FAR) * HURRY) * seconds
            state.own = _fallen(state.own, min(cut, 1.0), demand.floor, seconds)
            return
        state.calm = state.calm + seconds if pressure < self.points.resume / 100 else 0.0
        if state.own < 1 and state.calm >= CALM:
            state.own = _risen(state.own, RAISE * gain * max(0.0, AIM - pressure), seconds)


def own_pressure(demand: Demand, throttled: float, cores: float) -> float:
    """1: at its set-point. Being throttled rises steeply when a limit is near (from 5 % of the time
    to all of it while the load grows by a third), so its logarithm is taken, which makes it as
    steep as the other signals."""
    found = 0.0
    if demand.max_cores is not None:
        found = cores / demand.max_cores
    if demand.max_throttled > 0 and throttled > 0:
        found = max(found, 1 + math.log(throttled / demand.max_throttled) / STEEP)
    return found


def _fallen(level: float, part: float, floor: float, seconds: float) -> float:
    fallen = max(floor, level * (1 - part), level - STEEPEST * seconds)
    return min(level, 0.0 if fallen < GONE else fallen)


def _risen(level: float, rate: float, seconds: float) -> float:
    risen = level + min(max(level, FOOT) * rate, RISE) * seconds
    return 1.0 if risen > 1 - GONE else risen


def pressures(points: SetPoints, load: Load) -> tuple[Reading, ...]:
    """The signals that are there and have a set-point."""
    busy = min(1.0, load.cpu * 100 / points.cpu) if points.cpu else 1.0
    found = [
        ("cpu", load.cpu * 100, points.cpu, 1.0),
        ("cpu-pressure", _percent(load.cpu_waits), points.cpu_pressure, busy * busy),
        ("memory-pressure", _percent(load.memory_waits), points.memory_pressure, 1.0),
        ("time-squeezes", load.squeezed, points.time_squeezes, 1.0),
        ("drops", load.dropped, points.drops, 1.0),
    ]
    readings = [
        Reading(name, value, point, value / point * weight)
        for name, value, point, weight in found
        if value is not None and point
    ]
    if point := points.memory_available or points.memory_floor:
        left = load.available * 100
        pressure = points.memory_available / max(left, 1e-3)
        readings.append(Reading("memory-available", left, point, pressure))
    return tuple(readings)


def _percent(part: float | None) -> float | None:
    return None if part is None else part * 100
