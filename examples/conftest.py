"""Tests of the examples: of what a play has measured (`make example-NAME` plays first), and of what
else its programs have to do."""

from __future__ import annotations

import pytest

from kit import Figures


@pytest.fixture
def played(request: pytest.FixtureRequest) -> Figures:
    """What the play of the test's directory has measured."""
    name = request.path.parent.name
    try:
        return Figures.load(name)
    except FileNotFoundError:
        pytest.fail(f"it was not played; next: make example-{name}")
