"""The control group file systems: where they are mounted, and reading and writing in them.

Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the kernel. All errors are
OSError with the control file as `filename`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from functools import cache

from msgspec import Struct

from viscum.kernel.knobs import read

CONTROLLERS = ("cpu", "memory", "pids")


class Hierarchies(Struct, frozen=True):
    """Where the control group file systems are mounted."""

    unified: str | None  # v2
    v1: tuple[tuple[str, str], ...]  # (controller, mount point), only those in CONTROLLERS

    @property
    def roots(self) -> tuple[str, ...]:
        """Every mount point once, the home first."""
        roots = [self.unified] if self.unified else []
        roots += [path for name, path in self.v1 if name == "pids"]
        return tuple(dict.fromkeys([*roots, *(path for _, path in self.v1)]))

    def available(self) -> frozenset[str]:
        """The controllers with which a limit can be set on this box."""
        found = {name for name, _ in self.v1}
        if self.unified:
            found.update(read(f"{self.unified}/cgroup.controllers").split())
        return frozenset(found & set(CONTROLLERS))


def parse_mountinfo(text: str) -> Hierarchies:
    """Hierarchies as `/proc/self/mountinfo` (proc(5)) lists them; only whole ones count."""
    unified: str | None = None
    v1: dict[str, str] = {}
    for line in filter(None, text.split("\n")):  # names may hold any other line end or space
        left, _, right = line.partition(" - ")
        root, target = left.split(" ")[3:5]
        kind, _, options = right.split(" ", maxsplit=2)
        if root != "/":
            continue
        if kind == "cgroup2":
            unified = unified or target
        elif kind == "cgroup":
            for name in set(options.split(",")).intersection(CONTROLLERS):
                v1.setdefault(name, target)
    return Hierarchies(unified, tuple(sorted(v1.items())))


@cache
def hierarchies() -> Hierarchies:
    """Those of this process, read once."""
    return parse_mountinfo(read("/proc/self/mountinfo"))


def children(path: str) -> Iterator[str]:
    try:
        with os.scandir(path) as entries:
            yield from sorted(entry.path for entry in entries if entry.is_dir())
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def walk(path: str) -> Iterator[str]:
    """The directory and all below it, parents first; nothing if it is not there."""
    if os.path.isdir(path):
        yield path
        for child in children(path):
            yield from walk(child)


def rmdir(path: str) -> None:
    # A process is out of cgroup.procs a moment before its group counts as empty in every
    # hierarchy, and v1 has no event for that: hence the bounded retries.
    for wait in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.0):
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or not wait or read(f"{path}/cgroup.procs"):
                raise
        time.sleep(wait)


V1_UNLIMITED = 1 << 62  # memory.limit_in_bytes of a group without a limit is about 2**63


def words(path: str) -> tuple[int | None, int | None] | None:
    """The two numbers of cpu.max ("max": None); None without such a file."""
    try:
        quota, period = read(path).split()
    except OSError:
        return None
    return (None if quota == "max" else int(quota)), int(period)


def number(path: str) -> int | None:
    try:
        return int(read(path))
    except (OSError, ValueError):
        return None


def field(path: str, name: str) -> int | None:
    """`name VALUE` in a flat keyed file."""
    try:
        lines = read(path).splitlines()
    except OSError:
        return None
    return next((int(line[len(name) :]) for line in lines if line.startswith(f"{name} ")), None)
