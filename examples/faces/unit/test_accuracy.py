"""How it is counted what was found."""

from __future__ import annotations

from typing import Any

import pytest

from faces.accuracy import Score, overlap, score

pytestmark = pytest.mark.req("U4")

TRUTH = {"faces": [[10, 10, 40, 40], [100, 10, 40, 40]], "uncounted": [[200, 10, 40, 40]]}


def found(*boxes: tuple[int, int, int, int]) -> list[dict[str, Any]]:
    return [dict(zip(("x", "y", "width", "height"), box, strict=True)) for box in boxes]


def test_overlap() -> None:
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (20, 20, 10, 10)) == 0


@pytest.mark.parametrize(
    ("boxes", "counted"),
    [
        ([], Score(2, 0, 0)),
        ([(12, 12, 40, 40), (98, 10, 40, 40)], Score(2, 2, 0)),
        ([(10, 10, 40, 40), (11, 11, 40, 40)], Score(2, 1, 1)),  # each is there once
        ([(30, 30, 40, 40)], Score(2, 0, 1)),  # not half of it
        ([(205, 15, 20, 20)], Score(2, 0, 0)),  # may be found
        ([(300, 300, 40, 40)], Score(2, 0, 1)),
    ],
)
def test_score(boxes: list[tuple[int, int, int, int]], counted: Score) -> None:
    assert score(found(*boxes), TRUTH) == counted
    assert score(found(*boxes), {"faces": [], "uncounted": []}) == Score(0, 0, len(boxes))
