"""What of this machine would spoil a play, said before it begins."""

from __future__ import annotations

import functools
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from viscum.kernel import identity, process


@functools.cache
def note_load() -> None:
    """Once: what a play measures is also what others leave it."""
    load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > processors:
        words = f"note: the load average is {load:.1f}, of {processors} processors: this machine is"
        print(f"{words} busy, and what is measured says so too", file=sys.stderr, flush=True)


def need_reach(spec: str, program: Path) -> None:
    """Exits with words if the spec's service may not execute the program, or not come to it."""
    told: dict[str, Any] = tomllib.loads(spec)
    run = told.get("run", {})
    user, keep, _ = process.powers(run.get("user"), run.get("capabilities"), None, None)
    way = [*reversed(program.parents), program]
    closed = first_closed(way, user, keep)
    if closed is not None:
        words = f"{told['name']}: its server runs as {user.name}, who may not enter {closed}"
        step = f"chmod o+x {closed}, or clone to where others may enter, /srv say"
        sys.exit(f"{words}; next: {step}")


def first_closed(way: list[Path], user: identity.User, keep: int) -> Path | None:
    """The first of these that the user with these capabilities may not enter (or execute)."""
    child = os.fork()
    if child == 0:
        found = len(way)
        try:
            identity.become(user, keep, True)
            found = next((n for n, path in enumerate(way) if not os.access(path, os.X_OK)), found)
        finally:
            os._exit(found)
    found = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return way[found] if found < len(way) else None
