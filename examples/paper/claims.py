"""What the paper says, and where its counterpart is measured: claims.toml, read."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paper.measured import Measured, Ours

FILE = Path(__file__).with_name("claims.toml")


@dataclass(frozen=True)
class Claim:
    """See the head of claims.toml."""

    section: str
    says: str
    part: str
    figure: str
    over: str = ""
    percentile: int = 0
    least: bool = False
    theirs: str = "–"
    paper: float | None = None
    given: bool = False

    def ours(self, measured: Measured) -> Ours:
        """Raises Missing."""
        if self.over:
            return measured.ratio(self.part, self.figure, self.over)
        if self.percentile:
            return measured.percentile(self.part, self.figure, self.percentile)
        if self.least:
            return measured.least(self.part, self.figure)
        return measured.one(self.part, self.figure)


def read() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text())


def claims() -> tuple[Claim, ...]:
    return tuple(Claim(**words) for words in read()["claim"])


def not_here() -> dict[str, str]:
    """What cannot be measured here, and why."""
    found: dict[str, str] = read()["not-here"]
    return found
