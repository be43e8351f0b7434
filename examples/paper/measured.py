"""What the parts have measured, read back for the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import quantiles

from kit import Figure, Figures


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

    def __init__(self, parts: Iterable[str]) -> None:
        self.figures: dict[str, Figures] = {}
        for name in parts:
            try:
                self.figures[name] = Figures.load(name)
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
        spread = f"{number(min(row.samples))} … {number(max(row.samples))}" if row.samples else ""
        return Ours(row.value, row.unit, spread)

    def percentile(self, part: str, claim: str, percent: int) -> Ours:
        row = self.row(part, claim)
        if len(row.samples) < 100:
            raise Missing(part)
        return Ours(quantiles(row.samples, n=100)[percent - 1], row.unit)

    def ratio(self, part: str, over: str, under: str) -> Ours:
        upper, lower = self.row(part, over).value, self.row(part, under).value
        if not lower:
            raise Missing(part)
        return Ours(upper / lower, "×")

    def least(self, part: str, having: str) -> Ours:
        """Of those whose claim has these words."""
        rows = self.rows(part, having)
        values = [row.value for row in rows]
        return Ours(min(values), rows[0].unit, f"{number(min(values))} … {number(max(values))}")


def number(value: float) -> str:
    """To three digits that count."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return f"{value:.6f}".rstrip("0") if "e" in text else text
