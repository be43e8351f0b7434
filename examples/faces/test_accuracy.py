"""How it is counted what was found, and that the same seed draws the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from faces.accuracy import Score, overlap, score
from faces.scene import draw, known

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


def test_the_same_seed_draws_the_same_and_another_something_else(tmp_path: Path) -> None:
    one, same, other = tmp_path / "one", tmp_path / "same", tmp_path / "other"
    for directory, seed in (one, 1), (same, 1), (other, 2):
        draw(directory, 1, seed)
    for name in known(one):
        assert (one / name).read_bytes() == (same / name).read_bytes()
        assert (one / name).read_bytes() != (other / name).read_bytes()
    assert known(one) == known(same) != known(other)
