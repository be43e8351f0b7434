"""How busy the box is, and what services do to it: a few files of proc and of the control groups.

A `Sample` are counters as they stand, a `Load` what happened between two of them. What the kernel
does not tell (no PSI, no such controller) is None. One sample reads six files, 0.1 ms; those of
single services are read only when somebody asks for them.

Source: proc(5), Documentation/accounting/psi.rst, Documentation/admin-guide/cgroup-v2.rst, and
net/core/net-procfs.c for softnet_stat.
"""

from __future__ import annotations

import os

from msgspec import Struct

from viscum.clock import now
from viscum.kernel import cgroupfs as fs
from viscum.kernel.cgroup import CPU_PERIOD_USEC, Group

TICK = os.sysconf("SC_CLK_TCK")
IDLE, IOWAIT, STEAL = 3, 4, 7  # columns of a processor's line; guest time (8, 9) is in user's


class Sample(Struct, frozen=True):
    """Counters since the boot, but for memory (bytes)."""

    at: float
    cpus: int  # how many processors were counted
    busy: float  # seconds, of all of them together; stolen time is lost and counts as busy
    spent: float  # seconds, busy or not
    cpu_waits: int | None  # µs in which something waited for a processor
    memory_waits: int | None
    memory: int
    available: int
    dropped: int
    squeezed: int
    services: int | None  # µs of processor time, all services together


class Load(Struct, frozen=True):
    """Between two samples. Fractions of 1, and numbers a second."""

    seconds: float
    cpus: int
    cpu: float
    cpu_waits: float | None
    memory_waits: float | None
    available: float
    dropped: float
    squeezed: float
    services: float | None  # processors that services kept busy, such as 0.5; counted or not


def sample(prefix: str, cpus: tuple[int, ...] = ()) -> Sample:
    """prefix: the control group that has all services below it. cpus: those that count; (): all.

    Raises OSError where /proc has no stat or meminfo.
    """
    count, busy, spent = _processors(_read("/proc/stat"), frozenset(cpus))
    memory = _fields(_read("/proc/meminfo"), b"MemTotal:", b"MemAvailable:", b"MemFree:")
    dropped, squeezed = _softnet(frozenset(cpus))
    return Sample(
        at=now(),
        cpus=count,
        busy=busy,
        spent=spent,
        cpu_waits=_pressure("cpu"),
        memory_waits=_pressure("memory"),
        memory=memory[b"MemTotal:"] * 1024,
        available=memory.get(b"MemAvailable:", memory[b"MemFree:"]) * 1024,
        dropped=dropped,
        squeezed=squeezed,
        services=cpu_usec(prefix),
    )


def between(old: Sample, new: Sample) -> Load:
    """`new` was taken after `old`."""
    seconds = max(new.at - old.at, 1e-3)
    spent = max(new.spent - old.spent, 1e-9)
    return Load(
        seconds=seconds,
        cpus=new.cpus,
        cpu=_part((new.busy - old.busy) / spent),
        cpu_waits=_waited(old.cpu_waits, new.cpu_waits, seconds),
        memory_waits=_waited(old.memory_waits, new.memory_waits, seconds),
        available=new.available / max(new.memory, 1),
        dropped=(new.dropped - old.dropped) / seconds,
        squeezed=(new.squeezed - old.squeezed) / seconds,
        services=_cores(old.services, new.services, seconds),
    )


class Used(Struct, frozen=True):
    """What one service has used so far, all its instances together."""

    at: float
    cpu: int | None  # µs
    throttled: int  # periods of its instances' cpu limits in which they were held back
    memory: int | None  # bytes, now; None also where it was not asked for


def used(service: str, limited: tuple[str, ...], *, memory: bool) -> Used:
    """service: the control group above its instances'; limited: those with a cpu limit. memory:
    whether to ask for it, which costs more than all the rest."""
    return Used(
        at=now(),
        cpu=cpu_usec(service),
        throttled=sum(_throttled(path) for path in limited),
        memory=Group(service).usage().memory if memory else None,
    )


def throttled(old: Used, new: Used, limited: int) -> float:
    """The part of the time between in which its instances ran into their limits, from 0 to 1."""
    periods = (new.at - old.at) * 1e6 / CPU_PERIOD_USEC * limited
    return _part((new.throttled - old.throttled) / max(periods, 1))


def cores(old: Used, new: Used) -> float | None:
    """Processors that it kept busy between, such as 0.5."""
    return _cores(old.cpu, new.cpu, max(new.at - old.at, 1e-3))


def cpu_usec(path: str) -> int | None:
    """Processor time of a control group and all below it, in µs; 0 if there is no such group, None
    where the kernel does not tell: a box without the unified hierarchy."""
    unified = fs.hierarchies().unified
    return (fs.field(f"{unified}/{path}/cpu.stat", "usage_usec") or 0) if unified else None


def _throttled(path: str) -> int:
    root = Group(path).directory("cpu")
    return (fs.field(f"{root}/cpu.stat", "nr_throttled") or 0) if root else 0


# ---- reading -----------------------------------------------------------------------------------


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, 65536), b""))
    finally:
        os.close(fd)


def _processors(text: bytes, wanted: frozenset[int]) -> tuple[int, float, float]:
    """(how many, their busy seconds, their seconds). Those that are off line count for nothing; if
    none that is wanted is on line, all count."""
    count = busy = spent = 0
    for line in text.splitlines():
        if not line.startswith(b"cpu"):
            break
        name, *columns = line.split()
        number = name[3:]
        if not number or (wanted and int(number) not in wanted):
            continue
        times = [int(column) for column in columns[: STEAL + 1]]
        count += 1
        spent += sum(times)
        busy += sum(times) - times[IDLE] - times[IOWAIT]
    if not count and wanted:
        return _processors(text, frozenset())
    return count, busy / TICK, spent / TICK


def _fields(text: bytes, *names: bytes) -> dict[bytes, int]:
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if row[0] in names}


def _pressure(what: str) -> int | None:
    """µs since the boot; None without PSI (or booted with psi=0, which refuses to be read)."""
    try:
        line = _read(f"/proc/pressure/{what}").splitlines()[0]
    except (OSError, IndexError):
        return None
    return int(line.rpartition(b"total=")[2]) if line.startswith(b"some") else None


def _softnet(wanted: frozenset[int]) -> tuple[int, int]:
    """(packets dropped, turns that ended with packets left), of the processors that count."""
    try:
        rows = [line.split() for line in _read("/proc/net/softnet_stat").splitlines()]
    except OSError:
        return 0, 0
    number = 12  # the column with the processor's; before Linux 5.10 there is none
    rows = [
        row
        for line, row in enumerate(rows)
        if not wanted or (int(row[number], 16) if len(row) > number else line) in wanted
    ]
    return sum(int(row[1], 16) for row in rows), sum(int(row[2], 16) for row in rows)


def _cores(old: int | None, new: int | None, seconds: float) -> float | None:
    """A group that was made anew between has used what it has used since."""
    if new is None:
        return None
    spent = new - (old or 0)
    return (spent if spent >= 0 else new) / 1e6 / seconds


def _waited(old: int | None, new: int | None, seconds: float) -> float | None:
    return None if old is None or new is None else _part((new - old) / 1e6 / seconds)


def _part(value: float) -> float:
    return min(1.0, max(0.0, value))
