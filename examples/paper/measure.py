"""Measures all that the report needs, part by part; a part that fails or cannot run here stops
none of the others, and says why.

    make paper                          # everything, about twenty minutes
    make paper ARGS="--only rtt,game"   # these anew, the others as they were measured before
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import kit
from kit.figures import BUILD
from kit.stage import EXAMPLES
from paper.docker import CANNOT

ROOT = EXAMPLES.parent
# What the report is made of: a play that is played by itself, later, does not change it.
KEPT = BUILD.parent / "paper"
OUTCOMES = KEPT / "outcomes.json"


@dataclass(frozen=True)
class Part:
    """about: minutes; example: whether it is one, with a play of its own; series: files of raw data
    besides its figures."""

    name: str
    what: str
    about: float
    example: bool = False
    series: tuple[str, ...] = ()

    @property
    def figures(self) -> str:
        """The name that its figures are kept by."""
        return self.name if self.example else f"paper-{self.name}"

    @property
    def data(self) -> tuple[str, ...]:
        """Files for the report's reader."""
        return (f"{self.figures}.csv", *self.series)

    @property
    def argv(self) -> list[str]:
        if self.example:
            return [sys.executable, str(EXAMPLES / self.name / "play.py")]
        return [sys.executable, "-m", f"paper.{self.name}"]

    @property
    def command(self) -> str:
        return f'make paper ARGS="--only {self.name}"'


PARTS = (
    Part("rtt", "how far away the edge is", 1),
    Part("switch", "throughput and WAN bytes while the director is switched", 1,
         series=("paper-switch-series.csv", "paper-switch-events.csv")),
    Part("transitions", "what clients notice of 40 transitions", 2,
         series=("paper-transitions-flows.csv",)),
    Part("compare", "what a service costs the box, by Viscum and by Docker", 1,
         series=("paper-trees.txt",)),
    Part("guard", "disabling by load", 5.5, series=("guard-runs.csv", "guard-share.csv")),
    Part("unmodified", "whether servers are as Debian ships them", 0.1),
    Part("plates", "III.C.1: number plates", 2, example=True),
    Part("speedtest", "III.C.2: a speed test", 2, example=True),
    Part("game", "IV: a first-person shooter", 2, example=True),
    Part("faces", "IV: faces in a camera's frames", 2, example=True),
    Part("cache", "a cache in front of its own origin", 1, example=True),
    Part("tls", "a certificate at the edge", 1, example=True),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """outcome: done, failed, or cannot (run here); took: s; on: the machine, in words."""

    outcome: str
    why: str
    took: float
    when: str
    commit: str
    on: str


def commit() -> str:
    """Of this checkout, "+" behind it if files differ from it. What git reads it is not to keep: it
    would give the index of a user's checkout to root."""
    git = ("git", "--no-optional-locks", "-c", f"safe.directory={ROOT}", "-C", str(ROOT))
    ways = ("describe", "--always"), ("status", "--porcelain", "--untracked-files=no")
    try:
        name, differing = (
            subprocess.run([*git, *way], capture_output=True, text=True, check=True).stdout.strip()
            for way in ways
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # no git here, or no checkout of its
    return name + "+" * bool(differing)


def machine() -> str:
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text()
                  .splitlines() if line.startswith("model name")), platform.machine())  # fmt: skip
    kernel = platform.release().partition("-")[0]
    processors = len(os.sched_getaffinity(0))
    return f"Linux {kernel}, {processors} × {model}, Python {platform.python_version()}"


def run(part: Part) -> Outcome:
    """What it prints goes on to the terminal; of its errors the last line is kept."""
    files = (f"{part.figures}.json", *part.data)
    for place in (BUILD, KEPT):
        for name in files:
            (place / name).unlink(missing_ok=True)
    begun = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES)}
    child = subprocess.Popen(part.argv, env=environment, stderr=subprocess.PIPE, text=True)
    last = ""
    assert child.stderr is not None
    try:
        for line in child.stderr:
            sys.stderr.write(line)
            last = line.strip() or last
    except SystemExit:  # by a signal: it takes away what it has made, and heeds no second one
        child.terminate()
        child.wait()
        print(f"interrupted in {part.name}; next: make paper", file=sys.stderr)
        raise
    status = child.wait()
    outcome = {0: "done", CANNOT: "cannot"}.get(status, "failed")
    why = "" if outcome == "done" else last or f"exit status {status}"
    try:
        for name in files if outcome == "done" else ():
            shutil.copy(BUILD / name, KEPT / name)
    except OSError as error:
        outcome, why = "failed", str(error)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Outcome(outcome, why, time.monotonic() - begun, when, commit(), machine())


def earlier() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(OUTCOMES.read_text())
    except (OSError, ValueError):
        return {}
    return found


def page() -> Path:
    """Where the report goes: to docs/, if it is of everything."""
    whole = all(part.name in earlier() for part in PARTS)
    return (ROOT / "docs" if whole else KEPT / "report") / "paper.md"


def keep(outcomes: dict[str, Any]) -> None:
    """Whole or not at all."""
    new = OUTCOMES.with_suffix(".new")
    new.write_text(json.dumps(outcomes, indent=1))
    new.replace(OUTCOMES)


def alone() -> int:
    """Keeps a second one out of this checkout's figures till the process ends."""
    lock = os.open(KEPT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("another make paper measures in this checkout; next: wait for its end")
    return lock


def chosen() -> tuple[Part, ...]:
    """What the arguments ask for; with --examples, prints it and ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--only", metavar="PART[,PART]", help=", ".join(p.name for p in PARTS))
    parser.add_argument("--examples", action="store_true", help="say which of them are examples")
    given = parser.parse_args()
    wanted = [part.name for part in PARTS] if given.only is None else given.only.split(",")
    for name in wanted:
        if name not in {part.name for part in PARTS}:
            known = ", ".join(part.name for part in PARTS)
            parser.error(f"--only: there is no part {name!r}; next: one of {known}")
    parts = tuple(part for part in PARTS if part.name in wanted)
    if given.examples:
        print(*(part.name for part in parts if part.example))
        sys.exit()
    return parts


def main() -> None:
    parts = chosen()
    BUILD.mkdir(parents=True, exist_ok=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    lock = alone()
    outcomes = earlier()
    left = sum(part.about for part in parts)
    for number, part in enumerate(parts, 1):
        print(f"[{number}/{len(parts)}] {part.name}: {part.what}; {left:.0f} min left", flush=True)
        outcomes.pop(part.name, None)  # what it says is of figures that go now
        keep(outcomes)
        outcomes[part.name] = asdict(run(part))
        keep(outcomes)
        left -= part.about
    os.close(lock)
    failed = [part.name for part in parts if outcomes[part.name]["outcome"] == "failed"]
    for part in parts:
        if why := outcomes[part.name]["why"]:
            print(f"{part.name}: {outcomes[part.name]['outcome']}: {why}", file=sys.stderr)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the others are measured")


if __name__ == "__main__":
    kit.run(main)
