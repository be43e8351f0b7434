"""What was found, compared with what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SAME = 0.5  # intersection over union, as in the benchmarks of the field (WIDER FACE, FDDB)
Box = Sequence[float]  # left, top, width, height


@dataclass(frozen=True)
class Score:
    """faces: that are there; found: of these; wrong: found where none is."""

    faces: int = 0
    found: int = 0
    wrong: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.faces + other.faces, self.found + other.found, self.wrong + other.wrong)


def score(told: Sequence[dict[str, Any]], truth: dict[str, Any]) -> Score:
    """told: the faces of an answer, the surest first; truth: an entry of faces.json. Each is there
    once; what is uncounted may be found or not."""
    left = list(truth["faces"])
    there = len(left)
    wrong = 0
    for face in told:
        box = [face[name] for name in ("x", "y", "width", "height")]
        best = max(left, key=lambda face: overlap(box, face), default=None)
        if best is not None and overlap(box, best) >= SAME:
            left.remove(best)
        elif not any(_centre_in(box, other) for other in truth["uncounted"]):
            wrong += 1
    return Score(there, there - len(left), wrong)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(across, 0) * max(down, 0)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def _centre_in(box: Box, other: Box) -> bool:
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    return other[0] <= x <= other[0] + other[2] and other[1] <= y <= other[1] + other[3]
