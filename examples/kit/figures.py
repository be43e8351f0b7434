"""Figures with what they are compared to: printed as a table, kept as CSV and JSON."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

BUILD = Path(__file__).parents[2] / "build" / "examples"


@dataclass(frozen=True)
class Figure:
    """One result. given: the lab set it, so that it proves nothing; samples: every measurement, of
    which `value` is the median."""

    claim: str
    value: float
    unit: str
    given: bool = False
    command: str = ""
    samples: tuple[float, ...] = ()

    def __str__(self) -> str:
        text = f"{self.value:.4g} {self.unit}"
        if len(self.samples) > 1:
            text += f" ({min(self.samples):.4g} … {max(self.samples):.4g}, n={len(self.samples)})"
        return text


@dataclass
class Figures:
    """Those of one example."""

    example: str
    rows: list[Figure] = field(default_factory=list)

    def add(
        self,
        claim: str,
        value: float | list[float],
        unit: str,
        *,
        given: bool = False,
        command: str = "",
    ) -> Figure:
        samples = tuple(value) if isinstance(value, list) else ()
        middle = median(samples) if samples else value
        assert isinstance(middle, float | int)
        row = Figure(claim, middle, unit, given, command, samples)
        self.rows.append(row)
        print(f"  {claim}: {row}", flush=True)
        return row

    def value(self, claim: str) -> float:
        """Raises KeyError."""
        for row in self.rows:
            if row.claim == claim:
                return row.value
        raise KeyError(claim)

    def save(self, directory: Path = BUILD) -> Path:
        """Writes NAME.json (all) and NAME.csv (every sample); the directory."""
        directory.mkdir(parents=True, exist_ok=True)
        rows = [asdict(row) for row in self.rows]
        (directory / f"{self.example}.json").write_text(json.dumps(rows, indent=1))
        with (directory / f"{self.example}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["claim", "value", "unit"])
            for row in self.rows:
                for sample in row.samples or (row.value,):
                    writer.writerow([row.claim, sample, row.unit])
        return directory

    @classmethod
    def load(cls, example: str, directory: Path = BUILD) -> Figures:
        """What its play has measured. AssertionError if it was not played."""
        path = directory / f"{example}.json"
        assert path.exists(), f"{example} was not played; next: make example-{example}"
        rows = json.loads(path.read_text())
        return cls(example, [Figure(**{**row, "samples": tuple(row["samples"])}) for row in rows])
