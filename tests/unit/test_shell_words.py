"""The shell form of steps: what the kernel takes as a name is one word there."""

from __future__ import annotations

import shlex

from viscum.kernel.director.attach import HANDLE_MADE, Attachment
from viscum.kernel.director.steps import Attach, Detach, Loaded
from viscum.model import HostRule
from viscum.ops import ChangeRule

ODD = "e;$(id)'"  # the kernel refuses only '/', ':' and white space


def test_names_of_interfaces_are_quoted() -> None:
    there = Attachment(7, "viscum_in", 1, "clsact", HANDLE_MADE)
    for step in (
        Attach(Loaded(), 7, ODD, "viscum_in", "clsact", clsact=False),
        Detach(there, ODD, last=True),
        ChangeRule("add", HostRule(4, 118, 7, ODD, 7)),
    ):
        for line in step.shell():
            assert ODD in shlex.split(line)
