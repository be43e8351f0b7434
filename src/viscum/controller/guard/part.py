"""The load guard: services give new flows back to the cloud before the router suffers.

Once a second the box's load is read; what follows from it is decided in `law`, and written into the
data path through the engine. No flow that has begun is touched.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from msgspec import Struct

from viscum.clock import now
from viscum.controller.engine import Engine
from viscum.controller.guard.demand import Demands, Subject, may_be_lowered, subjects
from viscum.controller.guard.law import LITTLE, NOT_THEIRS, Demand, Law, Reading, Step, own_pressure
from viscum.controller.settings import Guard as SetPoints
from viscum.errors import ViscumError
from viscum.kernel import load
from viscum.store import World

TICK = 1.0  # seconds
NEAR = 0.8  # pressure from which on services are looked at one by one
LEAST = 1.0  # percent of new flows; less is not worth a change
KEPT = 900  # changes of a service's share that are remembered

OWN = ("throttled", "own-cpu")  # causes that are a service's own affair

UNITS = {"time-squeezes": "a second", "drops": "a second"}


class BoxLoad(Struct, frozen=True):
    """How the box is. pressure: the largest of the signals', smoothed; beyond 1 services give way.
    cause: the signal it is of."""

    pressure: float
    cause: str
    signals: tuple[Reading, ...]


class ServiceLoad(Struct, frozen=True):
    """share: percent of new flows that the guard lets a service have. cause: the signal because of
    which that is less than its own share, "throttled" or "own-cpu" where it is its own affair; ""
    while it is not, and where an earlier controller knew."""

    share: float
    cause: str


class Guard:
    """The part that protects the router's first job."""

    name = "guard"

    def __init__(self, engine: Engine, points: SetPoints) -> None:
        self.engine = engine
        self.points = points
        self.law = Law(points)
        self.demands = Demands(engine.host)
        self._seen: World | None = None
        self._subjects: dict[str, Subject] = {}
        self._bound = float("inf")
        self._history: dict[str, deque[tuple[float, float]]] = {}
        self._causes: dict[str, str] = {}  # of those that are lowered, where it is known
        self._blamed = False  # whether it was told that the box is short and not by its services

    # ---- for the API, the console, metrics

    def signals(self) -> tuple[Reading, ...]:
        """The last second's: each signal with its set-point and pressure (1: at the set-point)."""
        return self.law.readings

    def box(self) -> BoxLoad:
        return BoxLoad(round(self.law.pressure, 3), self.law.cause, self.signals())

    def of(self, name: str) -> ServiceLoad:
        """Raises InputError for a service that is not there."""
        top = float(self.engine.record(name).spec.steer.share)
        return ServiceLoad(min(top, self.engine.held(name).load), self._causes.get(name, ""))

    def history(self, name: str) -> list[tuple[float, float]]:
        """(unix time, percent of new flows) whenever the guard has changed it, oldest first; each
        held until the next. Empty: it never has."""
        return list(self._history.get(name, ()))

    # ---- the clock

    async def run(self) -> None:
        if self.points.mode == "off":
            await self._let_go(list(self.engine.world.services))
            await asyncio.Event().wait()
        self.law = Law(self.points)
        self._seen = None
        await self._follow_records()
        self.law.adopt(
            {
                s.name: min(1.0, self.engine.held(s.name).load / s.top)
                for s in self._subjects.values()
                if self.engine.held(s.name).load < s.top
            }
        )
        old = self._sample()
        due = now()
        while True:
            due = max(due + TICK, now())
            await asyncio.sleep(due - now())
            new = self._sample()
            await self.tick(old, new)
            old = new

    def _sample(self) -> load.Sample:
        return load.sample(self.engine.host.names.prefix, self.points.cpus)

    async def tick(self, old: load.Sample, new: load.Sample) -> None:
        """One step. Does nothing but read the box's own files while the box is well."""
        await self._follow_records()
        felt = load.between(old, new)
        self.law.feel(felt)
        self._blamed = self._blamed and self.law.pressure >= self.points.resume / 100
        wanted = self._wanted(felt)
        if not wanted and not self._matters():
            if self.law.short:
                self._not_theirs()
            return
        demands = await self._look(wanted, new)
        step = self.law.step(felt, demands)
        if step.not_theirs:
            self._not_theirs()
        for demand in demands:
            await self._apply(demand, step)

    async def _follow_records(self) -> None:
        world = self.engine.world
        if world is self._seen:
            return
        self._seen = world
        self._subjects = subjects(world, self.engine.host, self.points)
        self._bound = min((s.bound for s in self._subjects.values()), default=float("inf"))
        for name in self._history.keys() - world.services.keys():
            del self._history[name]
            self._causes.pop(name, None)
        await self._let_go([r.name for r in world.services.values() if not may_be_lowered(r)])

    async def _let_go(self, names: list[str]) -> None:
        """Of services that are not (any more) the guard's."""
        for name in names:
            await self._hold(name, 100.0)

    # ---- who is looked at

    def _matters(self) -> bool:
        """Whether there is anything to decide."""
        return bool(self.law.lowered()) or (self._theirs() and self.law.short)

    def _theirs(self) -> bool:
        """Whether what is short may be because of services, as far as one number tells."""
        return self.law.cause.startswith("memory") or self.law.services >= NOT_THEIRS

    def _wanted(self, felt: load.Load) -> list[Subject]:
        """Whose files there is a reason to read."""
        every = self._subjects.values()
        near = max(self.law.raw, self.law.pressure) >= NEAR or self.law.emergency is not None
        if near and self._theirs():
            return list(every)
        used = felt.services if felt.services is not None else float("inf")
        lowered = self.law.lowered()
        if used < self._bound and not lowered:
            return []
        return [s for s in every if s.bound <= used or s.name in lowered]

    async def _look(self, wanted: list[Subject], sample: load.Sample) -> list[Demand]:
        """Of every service, those that are not wanted without having been looked at."""
        engine, demands = self.engine, self.demands
        memory = self.law.cause.startswith("memory")
        lowered = self.law.lowered()

        def look() -> dict[str, Demand]:
            found = demands.read(wanted, sample, memory=memory)
            busy = [s for s in wanted if s.name in lowered or uses(found[s.name])]
            try:
                demands.look_at_lags(busy, sample.at)
            except (OSError, ViscumError):
                pass  # interfaces come and go; the last value is good enough
            return found

        found = await engine.look(look) if wanted else {}
        return [found.get(s.name) or demands.unread(s) for s in self._subjects.values()]

    # ---- what follows

    async def _apply(self, demand: Demand, step: Step) -> None:
        subject = self._subjects.get(demand.name)
        if subject is None or demand.name not in self.engine.world.services:
            return
        level = step.levels[demand.name]
        share = 100.0 if level >= 1 else round(level * subject.top, 2)
        before = self.engine.held(demand.name).load
        ends = share == 100.0 or level <= demand.floor
        if share == before or (not ends and abs(share - min(before, subject.top)) < LEAST):
            return
        if not await self._hold(demand.name, share):
            return
        if share < before:
            self._causes[demand.name] = self._cause(demand)
        if share == 100.0:
            self.engine.events.publish(
                "guard.resumed",
                f"{demand.name} has all of its share of new flows again",
                service=demand.name,
                share=subject.top,
            )
        elif before >= 100.0 or level <= demand.floor:
            why, data = self._why(demand, step)
            how = "takes no new flows" if not share else f"takes {share:.0f} % of new flows"
            self.engine.events.publish(
                "guard.gives-way",
                f"{demand.name} {how} and keeps those it has: {why}",
                service=demand.name,
                level="warning",
                share=share,
                **data,
            )

    async def _hold(self, name: str, share: float) -> bool:
        """Whether it was another one before."""
        engine = self.engine
        record = engine.world.services.get(name)  # it may have gone since this step began
        if record is None or (before := engine.held(name).load) == share:
            return False
        top = float(record.spec.steer.share)
        try:
            await engine.hold(name, load=share)
        except (OSError, ViscumError) as error:
            engine.events.publish(
                "controller.error",
                f"could not hold {name} back: {error}",
                level="error",
                service=name,
            )
            return False
        kept = self._history.setdefault(name, deque(maxlen=KEPT))
        moment = time.time()
        if share == 100.0:
            self._causes.pop(name, None)
        if not kept:
            kept.append((moment - TICK, min(before, top)))
        kept.append((moment, min(share, top)))
        return True

    def _cause(self, demand: Demand) -> str:
        state = self.law.state[demand.name]
        if state.own >= state.box:
            return self.law.cause
        over = demand.max_cores is not None and state.cores > demand.max_cores
        return "own-cpu" if over else "throttled"

    def _why(self, demand: Demand, step: Step) -> tuple[str, dict[str, Any]]:
        state, cause = self.law.state[demand.name], self._cause(demand)
        if cause in OWN:
            pressure = own_pressure(demand, state.throttled, state.cores)
            used = f"it uses {state.cores:.2f} cores of the {demand.max_cores} of its guard.cpu"
            often = f"it runs into its limits.cpu {state.throttled:.0%} of the time"
            why = used if cause == "own-cpu" else often
            return why, {"cause": cause, "pressure": round(pressure, 2)}
        reading = self._reading()
        why = f"the box's {said(reading)}" if reading else "the box is short"
        return why, {
            "cause": cause,
            "pressure": round(self.law.pressure, 2),
            "emergency": step.emergency is not None,
        }

    def _reading(self) -> Reading | None:
        return next((r for r in self.law.readings if r.name == self.law.cause), None)

    def _not_theirs(self) -> None:
        reading = self._reading()
        if self._blamed or reading is None:
            return
        self._blamed = True
        self.engine.events.publish(
            "guard.not-theirs",
            f"the box's {said(reading)}, but services use"
            f" {self.law.services:.1%} of its processors: lowering their share would not help",
            level="warning",
            cause=self.law.cause,
            pressure=round(self.law.pressure, 2),
        )


def uses(demand: Demand) -> bool:
    """Whether it is worth knowing how long its flows live."""
    return demand.throttled > 0 or demand.cpu is None or demand.cpu >= LITTLE


def said(reading: Reading) -> str:
    """`cpu is at 93 % (set-point 70 %)`."""
    unit = UNITS.get(reading.name, "%")
    return (
        f"{reading.name} is at {reading.value:.0f} {unit} (set-point {reading.set_point:g} {unit})"
    )
