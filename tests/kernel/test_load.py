"""The box's load as kernel/load.py reads it, against the kernel's own words and real work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Figure
from support import need_kernel, wait_until
from viscum.kernel import cgroupfs, load
from viscum.kernel.cgroup import Group

pytestmark = pytest.mark.req("C2")

SPIN = [sys.executable, "-S", "-c", "while True: pass"]


@pytest.fixture
def group() -> Iterator[Group]:
    made = Group(f"viscum-vt-{os.getpid()}/spin/1.0")
    made.create()
    yield made
    made.kill()
    made.wait_empty(10)
    made.remove()


def spin(group: Group, count: int = 1) -> None:
    for _ in range(count):
        group.join(subprocess.Popen(SPIN).pid)


def after(seconds: float, prefix: str, cpus: tuple[int, ...] = ()) -> load.Load:
    old = load.sample(prefix, cpus)
    time.sleep(seconds)
    return load.between(old, load.sample(prefix, cpus))


def test_a_sample_says_what_the_kernel_says() -> None:
    seen = load.sample("viscum-nobody")
    assert seen.cpus == os.sysconf("SC_NPROCESSORS_ONLN")
    assert seen.memory == pytest.approx(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01
    )
    assert 0 < seen.available < seen.memory
    assert 0 < seen.busy <= seen.spent
    assert seen.services == 0, "there is no such group"
    need_kernel("PSI", Path("/proc/pressure/cpu").exists())
    assert seen.cpu_waits is not None


def test_what_a_group_spends_is_its_own(group: Group) -> None:
    prefix = group.path.split("/")[0]
    old, before = load.sample(prefix), load.used(f"{prefix}/spin", (), memory=True)
    spin(group)
    wait_until(lambda: (load.cpu_usec(prefix) or 0) > 300_000, "0.3 s spent")
    now, after_ = (
        load.between(old, load.sample(prefix)),
        load.used(f"{prefix}/spin", (), memory=True),
    )
    assert now.services is not None
    assert 0 < now.services < 1.1
    cores = load.cores(before, after_)
    assert cores is not None
    assert 0 < cores < 1.1
    assert now.cpu > 0
    assert after_.memory


def test_a_group_at_its_limit_is_throttled(group: Group) -> None:
    need_kernel("a cpu controller", "cpu" in cgroupfs.hierarchies().available())
    group.set_limits(cpu=0.1)
    spin(group)
    old = load.used("viscum-nobody", (group.path,), memory=False)
    time.sleep(1.0)
    new = load.used("viscum-nobody", (group.path,), memory=False)
    assert load.throttled(old, new, 1) > 0.3
    assert load.throttled(old, new, 2) < 0.6, "of two instances one"
    group.set_limits(cpu=None)
    time.sleep(0.2)
    old = load.used("viscum-nobody", (group.path,), memory=False)
    time.sleep(0.3)
    assert load.throttled(old, load.used("viscum-nobody", (group.path,), memory=False), 1) == 0


def test_only_the_processors_that_are_named_count() -> None:
    every, first = load.sample("x"), load.sample("x", (0,))
    assert first.cpus == 1
    assert first.spent < every.spent or every.cpus == 1
    assert load.sample("x", (4095,)).cpus == every.cpus, "none of them is there"


def test_a_sample_costs_little(figure: Figure) -> None:
    prefix = "viscum-nobody"
    began = time.thread_time()
    for _ in range(100):
        load.sample(prefix)
    figure("one sample of the box", (time.thread_time() - began) * 1e4, "µs (aim: at most 300)")
