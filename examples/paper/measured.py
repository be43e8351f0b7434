"""What the parts have measured, read back for the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite, isinf
from pathlib import Path
from statistics import median, quantiles

from kit import Figure, Figures

FEW = 20  # as many samples of two things were measured in turn, one of each at a time


class Missing(Exception):
    """A figure that no part has measured."""


@dataclass(frozen=True)
class Ours:
    """A result; spread: of its samples, in words."""

    value: float
    unit: str = ""
    spread: str = ""


class Measured:
    """By the names that parts keep their figures by."""

    def __init__(self, parts: Iterable[str], directory: Path) -> None:
        self.figures: dict[str, Figures] = {}
        for name in parts:
            try:
                self.figures[name] = Figures.load(name, directory)
            except AssertionError:
                continue

    def rows(self, part: str, having: str = "") -> list[Figure]:
        """Raises Missing."""
        found = [row for row in self.figures[part].rows if having in row.claim] if (
            part in self.figures) else []  # fmt: skip
        if not found:
            raise Missing(part)
        return found

    def row(self, part: str, claim: str) -> Figure:
        """Raises Missing."""
        for row in self.rows(part, claim):
            if row.claim == claim:
                return row
        raise Missing(part)

    def one(self, part: str, claim: str) -> Ours:
        row = self.row(part, claim)
        return Ours(row.value, row.unit, spread(row.samples))

    def percentile(self, part: str, claim: str, percent: int) -> Ours:
        row = self.row(part, claim)
        if len(row.samples) < 100:
            raise Missing(part)
        return Ours(quantiles(row.samples, n=100)[percent - 1], row.unit)

    def ratio(self, part: str, over: str, under: str) -> Ours:
        """Of medians; of few samples, measured in turn: the median of their ratios."""
        upper, lower = self.row(part, over), self.row(part, under)
        pairs = list(zip(upper.samples, lower.samples, strict=False))
        if len(upper.samples) == len(lower.samples) and 1 < len(pairs) <= FEW:
            ratios = [one / other for one, other in pairs]
            return Ours(median(ratios), "×", spread(ratios))
        if not lower.value or not isfinite(upper.value / lower.value):
            raise Missing(part)
        return Ours(upper.value / lower.value, "×")

    def least(self, part: str, having: str) -> Ours:
        """Of those whose claim has these words."""
        rows = self.rows(part, having)
        values = [row.value for row in rows]
        return Ours(min(values), rows[0].unit, spread(values))


def spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{number(min(values))} … {number(max(values))}, n={len(values)}"


def number(value: float) -> str:
    """To three digits that count."""
    if isinf(value):
        return "never"  # what was waited for did not come
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return f"{value:.6f}".rstrip("0") if "e" in text else text
