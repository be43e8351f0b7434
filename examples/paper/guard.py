"""A service that is offered three times what the box can do, with and without the load guard in
turn: `make bench-guard`, and the share of new flows over time.
"""

from __future__ import annotations

import csv
import runpy
import sys
from collections import defaultdict
from pathlib import Path

from kit import Figures, run
from kit.figures import BUILD
from paper.docker import CANNOT

BENCH = Path(__file__).parents[2] / "scripts" / "bench_guard.py"
RUNS = BUILD / "guard-runs.csv"
WANTED = {
    "failed": ("the service's requests that failed", "%"),
    "edge": ("the service's requests that the edge answered", "%"),
    "delivered": ("what others got through the router", "Mbit/s"),
    "p50": ("a round trip of others, median", "ms"),
    "p99": ("a round trip of others, 99 of 100", "ms"),
}


def main() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    sys.argv = [str(BENCH), "--out", str(BUILD)]
    try:  # in this process: what ends us has to let it take its lab away
        runpy.run_path(str(BENCH), run_name="__main__")
    except SystemExit as ended:
        said = str(ended.code)
        if not any(words in said for words in ("two processors are needed", "this kernel")):
            raise
        print(said, file=sys.stderr)
        raise SystemExit(CANNOT) from None
    runs = defaultdict[str, list[dict[str, str]]](list)
    with RUNS.open(newline="") as file:
        for row in csv.DictReader(file):
            runs[row["run"]].append(row)
    figures = Figures("paper-guard")
    for name, some in runs.items():
        for field, (what, unit) in WANTED.items():
            if name != "no service" or field in ("delivered", "p50", "p99"):
                figures.add(f"{what}, {name}", [float(row[field]) for row in some], unit)
    figures.save()


if __name__ == "__main__":
    run(main)
