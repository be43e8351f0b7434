"""Of the frames that wait, the newest is looked at next."""

from __future__ import annotations

import subprocess

import pytest

from faces.scene import ENVIRONMENT, python

pytestmark = pytest.mark.req("U4")

# In the example's environment, where the library is that the module needs.
NEWEST = """
from faces.stream import Newest
newest = Newest()
assert newest.put(b"0") and newest.take() == (0, 0, b"0")
assert all(newest.put(b"%d" % n) for n in (1, 2, 3))
assert newest.take() == (3, 2, b"3")
assert newest.put(b"4") and newest.put(b"5")
newest.close()
assert not newest.put(b"6")
assert newest.take() == (5, 1, b"5")
assert newest.take() is None
"""


def test_what_is_passed_over_is_counted_and_the_last_is_kept() -> None:
    subprocess.run(python("-c", NEWEST), check=True, env=ENVIRONMENT)
