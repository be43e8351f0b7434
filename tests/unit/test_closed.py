"""Who may enter a directory that a server is to run in: said before it is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from viscum.kernel.identity import User, mask
from viscum.validate_run import Who, _closed

pytestmark = pytest.mark.req("N15")

OTHER = 54321


def who(uid: int = OTHER, *groups: int, may: str = "") -> Who:
    return Who(User(uid, OTHER, groups, "them", "/"), mask([may] if may else []), "them")


@pytest.mark.parametrize(
    ("mode", "owner", "member", "others"),
    [(0o700, True, False, False), (0o710, True, True, False), (0o611, False, True, True),
     (0o701, True, False, True), (0o755, True, True, True)],
)  # fmt: skip
def test_the_bit_of_the_mode_that_counts(
    tmp_path: Path, mode: int, owner: bool, member: bool, others: bool
) -> None:
    """As the kernel sees it: an owner has the owner's bit, though others had more."""
    closed, program = tmp_path / "closed", tmp_path / "closed" / "program"
    closed.mkdir()
    program.touch(0o755)
    for path in (closed, *closed.parents):  # where the tests are is another matter
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o111)
    closed.chmod(mode)
    mine = closed.stat()
    for one, may in ((who(mine.st_uid), owner), (who(OTHER, mine.st_gid), member), (who(), others)):
        assert _closed("", str(program), one) == ("" if may else str(closed)), one
    for power in ("dac-override", "dac-read-search"):
        assert _closed("", str(program), who(may=power)) == ""
    assert _closed(str(tmp_path), "/closed", who()) == ("" if others else str(closed))
