"""What is told of a wait that takes hours."""

from __future__ import annotations

import pytest

from viscum.rarely import Rarely


@pytest.mark.req("N9")
def test_the_same_is_told_once_and_changes_less_and_less_often() -> None:
    moment, told = 0.0, list[str]()
    rarely = Rarely(told.append, lambda: moment)
    for second in range(7200):
        moment = float(second)
        rarely(3, f"3 flows, {7200 - second} s left")
    assert told == ["3 flows, 7200 s left"]
    for second in range(7200, 14400):
        moment = float(second)
        rarely(second, f"{second} flows")
    assert told[1:4] == ["7200 flows", "7202 flows", "7206 flows"]
    assert 7200 / 60 < len(told) < 7200 / 60 + 10
