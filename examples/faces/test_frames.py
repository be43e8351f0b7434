"""The frames that are drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from faces.scene import draw, known

pytestmark = pytest.mark.req("U4")


def test_the_same_seed_draws_the_same_and_another_something_else(tmp_path: Path) -> None:
    one, same, other = tmp_path / "one", tmp_path / "same", tmp_path / "other"
    for directory, seed in (one, 1), (same, 1), (other, 2):
        draw(directory, 1, seed)
    for name in known(one):
        assert (one / name).read_bytes() == (same / name).read_bytes()
        assert (one / name).read_bytes() != (other / name).read_bytes()
    assert known(one) == known(same) != known(other)
