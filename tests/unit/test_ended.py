"""What the end of a server means for its next start."""

from __future__ import annotations

import pytest

from viscum.controller.ended import Ended

pytestmark = pytest.mark.req("C1")


@pytest.mark.parametrize(
    ("lived", "longest_delay", "steady"),
    [(0.2, 0.1, False), (9.9, 0.1, False), (10, 0.1, True), (59, 60, False), (60, 60, True)],
)
def test_failures_are_forgotten_after_running_for_a_while(
    lived: float, longest_delay: float, steady: bool
) -> None:
    assert Ended(1, lived, oom=False, late=False).is_steady(longest_delay) == steady


@pytest.mark.parametrize(
    ("status", "late", "failed"),
    [(0, False, False), (0, True, True), (3, False, True), (143, True, True), (None, False, True)],
)
def test_one_that_is_ended_for_being_late_has_failed(
    status: int | None, late: bool, failed: bool
) -> None:
    assert Ended(status, 3, oom=False, late=late).failed == failed
