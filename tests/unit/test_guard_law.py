"""The guard's control law against models of what it controls: overload, ramps, noise, priorities.

The models are coarse on purpose: a service's load follows its share of new flows with the flows'
lifetime as time constant, a processor can't be more than busy, and every measurement is noisy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viscum.controller.guard.law import GONE, RISE, STEEPEST, Demand, Law, Step
from viscum.controller.settings import Guard as SetPoints
from viscum.kernel.load import Load

pytestmark = pytest.mark.req("C2")

SET = 0.70  # the default set-point of the processors
RESUME = 0.8 * SET


@dataclass
class Service:
    """offered: processors' worth of work at full share, of a box that has one in all."""

    name: str = "web"
    offered: float = 3.0
    lives: float = 0.1  # seconds, of a flow
    priority: int = 50
    floor: float = 0.0
    load: float = 0.0
    level: float = 1.0
    levels: list[float] = field(default_factory=list)


class Box:
    """One processor; `base` of it is the router's."""

    def __init__(self, *services: Service, base: float = 0.1, noise: float = 0.0, seed: int = 1):
        self.services = services
        self.base, self.noise = base, noise
        self.random = random.Random(seed)
        self.law = Law(SetPoints())
        self.busy: list[float] = []
        self.available = 0.6
        self.dropped = 0.0
        self.step: Step | None = None

    @property
    def truly(self) -> float:
        return min(1.0, self.base + sum(s.load for s in self.services))

    def run(self, seconds: int, change: Callable[[int], None] = lambda second: None) -> Box:
        for second in range(seconds):
            change(second)
            for s in self.services:
                decay = math.exp(-1 / s.lives)
                s.load = s.level * s.offered + (s.load - s.level * s.offered) * decay
            self.tick()
        return self

    def tick(self) -> None:
        wanted = sum(s.load for s in self.services)
        got = min(1.0, max(0.0, 1 - self.base) / wanted) if wanted else 1.0
        jitter = 1 + self.random.gauss(0, self.noise) if self.noise else 1.0
        busy = min(1.0, max(0.0, self.truly * jitter))
        waits = min(1.0, busy**2 if wanted + self.base < 1 else 1.0)
        load = Load(
            seconds=1.0,
            cpus=1,
            cpu=busy,
            cpu_waits=waits if self.noise else None,
            memory_waits=0.0,
            available=self.available,
            dropped=self.dropped,
            squeezed=0.0,
            services=wanted * got,
        )
        self.law.feel(load)
        demands = [
            Demand(
                s.name, s.priority, s.floor, cpu=s.load * got, memory=0.05, cores=s.load * got,
                lag=s.lives,
            )
            for s in self.services
        ]  # fmt: skip
        self.step = self.law.step(load, demands)
        for s in self.services:
            s.level = self.step.levels[s.name]
            s.levels.append(s.level)
        self.busy.append(self.truly)


def turns(levels: list[float], least: float = 0.01) -> int:
    """How often it changes its direction, in moves that are worth writing into the data path."""
    written, direction, count = levels[0], 0, 0
    for level in levels:
        if abs(level - written) >= least:
            sign = 1 if level > written else -1
            count += direction not in (0, sign)
            written, direction = level, sign
    return count


@pytest.mark.parametrize("noise", [0.0, 0.08])
@pytest.mark.parametrize(
    ("lives", "settles", "bends"), [(0.1, 40, 2), (5.0, 90, 3), (60.0, 900, 3)]
)
def test_three_times_too_much_settles_at_the_set_point(
    lives: float, settles: int, bends: int, noise: float
) -> None:
    for seed in range(5):
        web = Service(lives=lives)
        box = Box(web, noise=noise, seed=seed)
        box.run(settles)
        assert turns(web.levels) <= bends
        box.run(600)
        after = box.busy[settles:]
        assert RESUME - 0.06 < sum(after) / 600 < SET + 0.02
        assert max(after) < SET + 0.10
        assert min(after) > RESUME - 0.12
        assert turns(web.levels[settles:]) <= 2, "it hunts"


def test_a_step_is_answered_within_seconds_and_smoothly() -> None:
    """Never more than the steepest step, and no jump to nothing where something is enough."""
    web = Service(lives=0.1)
    box = Box(web)
    box.run(15)
    assert web.level == pytest.approx((SET - 0.1) / 3.0, rel=0.15)
    steps = [a - b for a, b in zip([1.0, *web.levels], web.levels, strict=False)]
    assert min(steps) >= 0
    assert max(steps) <= STEEPEST


def test_a_ramp_is_followed() -> None:
    web = Service(offered=0.2)

    def ramp(second: int) -> None:
        web.offered = min(3.0, 0.2 + second * 0.02)

    box = Box(web, noise=0.05)
    box.run(400, ramp)
    assert max(box.busy) < SET + 0.1, "it is never far beyond"
    assert turns(web.levels) <= 2
    assert web.level == pytest.approx(0.19, abs=0.04)


def test_what_is_within_bounds_is_left_alone() -> None:
    web = Service(offered=0.5)
    box = Box(web, noise=0.1, seed=4)
    box.run(2000)
    assert set(web.levels) == {1.0}


@pytest.mark.parametrize("lives", [0.1, 5.0])
def test_when_the_load_ends_it_comes_back_up_and_only_up(lives: float) -> None:
    web = Service(lives=lives)
    box = Box(web, noise=0.05)
    box.run(120)
    web.offered = 0.3
    low = len(web.levels)
    box.run(240)
    after = web.levels[low:]
    assert all(a <= b <= a + 0.051 for a, b in pairwise(after)), "at most five points a second"
    assert after[-1] == 1.0
    down = next(i for i, level in enumerate(web.levels) if level < 0.3)
    assert after.index(1.0) > 2 * down, "slower up than down"


def test_long_overload_winds_nothing_up() -> None:
    """Coming back takes as long after an hour of it as after a minute."""
    took = []
    for seconds in (60, 3600):
        web = Service(offered=10.0)
        box = Box(web, base=0.9)
        box.run(seconds)
        assert web.level == 0.0
        box.base, web.offered = 0.1, 0.2
        box.run(200)
        took.append(web.levels[seconds:].index(1.0))
    assert took[0] == took[1]


def test_the_lowest_priority_gives_way_first_and_comes_back_last() -> None:
    high, mid, low = (
        Service("high", 0.4, priority=80),
        Service("mid", 0.4, priority=50),
        Service("low", 0.4, priority=20),
    )
    box = Box(high, mid, low)
    for second in range(200):
        box.run(1)
        assert low.level == 0 or mid.level == 1, second
        assert mid.level == 0 or high.level == 1, second
    assert (high.level, low.level) == (1.0, 0.0)
    assert 0 < mid.level < 1
    high.offered = mid.offered = low.offered = 0.1
    box.run(200)
    assert mid.levels.index(1.0, 200) < low.levels.index(1.0, 200)
    assert (mid.level, low.level) == (1.0, 1.0)


def test_equal_priorities_give_way_together() -> None:
    a, b = Service("a", 2.0), Service("b", 0.5)
    Box(a, b).run(60)
    assert a.level == pytest.approx(b.level)
    assert 0.2 < a.level < 0.3


def test_a_service_that_uses_nothing_is_not_blamed_for_its_priority() -> None:
    heavy, idle = Service("heavy", 3.0, priority=90), Service("idle", 0.002, priority=1)
    box = Box(heavy, idle)
    box.run(60)
    assert set(idle.levels) == {1.0}
    assert heavy.level < 0.3
    idle.offered = 1.0
    box.run(60)
    assert idle.level == 0.0, "now it does, and is the lowest"


def test_a_new_service_of_low_priority_does_not_push_a_higher_one_further_down() -> None:
    old = Service("old", 3.0, priority=50)
    box = Box(old)
    box.run(60)
    level = old.level
    new = Service("new", 3.0, priority=10)
    box.services = (old, new)
    box.run(120)
    assert new.level == 0.0
    assert old.level == pytest.approx(level, abs=0.05)


def test_a_low_priority_is_not_served_while_a_higher_one_lacks_something() -> None:
    """Though what it uses would fit between `resume` and the set-point."""
    high = Service("high", 3.0, priority=80)
    box = Box(high)
    box.run(60)
    assert high.level < 0.3
    box.base -= 0.05
    low = Service("low", 0.05, priority=20)
    box.services = (high, low)
    box.run(20)
    assert low.level == 0.0
    assert RESUME < box.truly < SET


def test_no_service_goes_below_its_least_share() -> None:
    kept, other = Service("kept", 3.0, floor=0.2, priority=10), Service("other", 3.0, priority=20)
    box = Box(kept, other, base=0.5)
    box.run(100)
    assert min(kept.levels) == pytest.approx(0.2)
    assert other.level == 0.0
    box.available = 0.01
    box.run(5)
    assert kept.level == pytest.approx(0.2)


def test_a_busy_router_comes_first() -> None:
    """Whatever the box is busy with: services give way to it, down to nothing."""
    web = Service(offered=0.3)
    box = Box(web, base=0.1)
    box.run(50)
    assert web.level == 1.0
    box.base = 0.75
    box.run(60)
    assert web.level == 0.0
    box.base = 0.2
    box.run(100)
    assert web.level == 1.0


def test_services_that_use_nothing_are_not_blamed_for_a_busy_box() -> None:
    web = Service(offered=0.01)
    box = Box(web, base=0.95)
    box.run(60)
    assert web.level == 1.0
    assert box.step
    assert box.step.not_theirs


@pytest.mark.parametrize("what", ["available", "dropped"])
def test_an_emergency_takes_everything_at_once(what: str) -> None:
    high, idle = Service("high", 0.4, priority=100), Service("idle", 0.0, priority=0)
    box = Box(high, idle)
    box.run(20)
    setattr(box, what, {"available": 0.02, "dropped": 500.0}[what])
    box.run(2)
    assert (high.level, idle.level) == (0.0, 0.0)
    assert box.step
    assert box.step.emergency
    setattr(box, what, {"available": 0.6, "dropped": 0.0}[what])
    box.run(3)
    assert high.level == 0.0, "not before it has been calm for a while"
    box.run(120)
    assert high.level == 1.0


def test_one_burst_of_drops_is_no_emergency() -> None:
    web = Service(offered=0.4)
    box = Box(web)
    box.run(20)
    box.dropped = 30.0
    box.run(1)
    box.dropped = 0.0
    box.run(1)
    assert web.level > 0.5


def test_scarce_memory_is_taken_from_those_that_have_it() -> None:
    web = Service(offered=0.1)
    box = Box(web)
    box.available = 0.08
    box.run(30)
    assert web.level < 0.5
    assert box.law.cause == "memory-available"


# ---- a service's own limits --------------------------------------------------------------------


def throttled_part(rate: float, cost: float, quota: float, source: random.Random) -> float:
    """Of ten periods of 0.1 s those in which a service that gets `rate` requests a second of `cost`
    seconds each runs into `quota` processors; the backlog goes on into the next one."""
    backlog, count = throttled_part.backlog, 0  # type: ignore[attr-defined]
    for _ in range(10):
        arrived = sum(source.random() < rate / 1000 for _ in range(100))
        backlog = min(backlog + arrived * cost, 3.0)  # clients that wait longer have gone
        if backlog > quota / 10:
            count += 1
        backlog = max(0.0, backlog - quota / 10)
    throttled_part.backlog = backlog  # type: ignore[attr-defined]
    return count / 10


@pytest.mark.parametrize("over", [1.2, 3.0, 10.0])
def test_a_throttled_service_gives_way_alone_until_it_is_hardly_throttled(over: float) -> None:
    source = random.Random(5)
    throttled_part.backlog = 0.0  # type: ignore[attr-defined]
    law, quota, cost = Law(SetPoints()), 0.5, 0.02
    calm = Load(1.0, 2, 0.3, None, None, 0.6, 0.0, 0.0, 0.5)
    level, parts, levels = 1.0, [], []
    for _ in range(600):
        part = throttled_part(over * quota / cost * level, cost, quota, source)
        law.feel(calm)
        demands = [
            Demand("web", 50, cpu=0.2, cores=0.4, throttled=part, max_throttled=0.4, lag=0.3),
            Demand("other", 10, cpu=0.05, cores=0.1),
        ]
        step = law.step(calm, demands)
        assert step.levels["other"] == 1.0
        level = step.levels["web"]
        parts.append(part)
        levels.append(level)
    settled = parts[60:]
    assert 0.2 < sum(settled) / len(settled) < 0.45
    assert 0.55 < sum(levels[60:]) / 540 * over < 1.0, "and its limit is put to use"
    assert turns(levels[60:], 0.02) <= 10


def test_its_own_set_point_of_processors_lowers_it_alone() -> None:
    law = Law(SetPoints())
    calm = Load(1.0, 4, 0.2, None, None, 0.6, 0.0, 0.0, 0.8)
    level = 1.0
    for _ in range(120):
        law.feel(calm)
        cores = 0.8 * level
        step = law.step(calm, [Demand("web", 50, cpu=cores / 4, cores=cores, max_cores=0.4)])
        level = step.levels["web"]
    assert 0.3 < cores <= 0.42


# ---- what always holds -------------------------------------------------------------------------

PARTS = st.integers(0, 20).map(lambda n: n / 20)
LOADS = st.builds(
    Load,
    seconds=st.sampled_from([0.001, 1.0, 1.0, 1.0, 30.0]),
    cpus=st.sampled_from([1, 4]),
    cpu=PARTS,
    cpu_waits=st.none() | PARTS,
    memory_waits=st.none() | PARTS,
    available=PARTS,
    dropped=st.sampled_from([0.0, 0.0, 1.0, 1e6]),
    squeezed=st.sampled_from([0.0, 0.0, 300.0, 1e9]),
    services=st.none() | PARTS,
)
DEMANDS = st.builds(
    Demand,
    name=st.sampled_from("abcd"),
    priority=st.integers(0, 3),
    floor=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
    cpu=st.none() | PARTS,
    memory=st.none() | PARTS,
    cores=st.none() | PARTS,
    throttled=PARTS,
    max_cores=st.none() | st.just(0.5),
    max_throttled=st.sampled_from([0.0, 0.25, 1.0]),
    lag=st.sampled_from([0.0, 1.0, 1e4]),
)
SERVICES = st.lists(DEMANDS, max_size=4, unique_by=lambda d: d.name)


@settings(max_examples=200, deadline=None)
@given(st.lists(LOADS, max_size=15), SERVICES, st.dictionaries(st.sampled_from("abcd"), PARTS))
def test_shares_stay_between_floor_and_all_and_move_in_bounds(
    loads: list[Load], demands: list[Demand], adopted: dict[str, float]
) -> None:
    law = Law(SetPoints())
    law.adopt(adopted)
    before = {d.name: max(adopted.get(d.name, 1.0), d.floor) for d in demands}
    for load in loads:
        law.feel(load)
        assert law.pressure >= 0
        step = law.step(load, demands)
        assert set(step.levels) == {d.name for d in demands}
        most = STEEPEST * min(load.seconds, 2.0)
        for d in demands:
            level = step.levels[d.name]
            assert d.floor <= level <= 1
            if not step.emergency:
                assert before[d.name] - 2 * most - GONE <= level <= before[d.name] + RISE * 2
        before = dict(step.levels)


@settings(max_examples=200, deadline=None)
@given(st.lists(LOADS, min_size=1, max_size=20), st.lists(PARTS, min_size=3, max_size=3))
def test_the_order_of_priorities_always_holds(loads: list[Load], uses: list[float]) -> None:
    """Of services that use something: nobody lacks anything while a lower one has anything."""
    law = Law(SetPoints())
    demands = [
        Demand(name, n, cpu=max(0.02, use), memory=max(0.02, use), lag=use)
        for n, (name, use) in enumerate(zip("abc", uses, strict=True))
    ]
    for load in loads:
        law.feel(load)
        levels = list(law.step(load, demands).levels.values())
        for low, high in pairwise(levels):
            assert low == 0 or high == 1
