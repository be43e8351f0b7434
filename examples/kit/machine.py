"""What of this machine would spoil a play, said before it begins."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from msgspec.structs import replace

from viscum.spec import Run, from_toml
from viscum.validate_run import process_problems


@functools.cache
def note_load() -> None:
    """Once: what a play measures is also what others leave it."""
    load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > processors:
        words = f"note: the load average is {load:.1f}, of {processors} processors: this machine is"
        print(f"{words} busy, and what is measured says so too", file=sys.stderr, flush=True)


def need_reach(text: str, program: Path) -> None:
    """Exits with words if the server of that spec may not execute the program, or not come to it:
    what `viscum apply` would say when half of the play is up."""
    spec = from_toml(text)
    run = Run(user=spec.run.user, capabilities=spec.run.capabilities)
    for problem in process_problems(replace(spec, command=(str(program),), run=run)):
        words = f"{spec.name}: {program}: {problem.message}"
        sys.exit(f"{words}; next: {problem.fix} (clone to /srv, say)")
