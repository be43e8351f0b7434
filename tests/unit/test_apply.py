"""What is said of a step that failed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from viscum.apply import LONGEST, OpFailed, apply


@dataclass(frozen=True)
class Step:
    commands: tuple[str, ...]

    def describe(self) -> str:
        return "do it"

    def shell(self) -> tuple[str, ...]:
        return self.commands

    def apply(self) -> None:
        raise OSError(13, "Permission denied")


@pytest.mark.req("N15")
@pytest.mark.parametrize(
    ("commands", "hint"),
    [
        (("ip link add a", "ip link set a up"), "by hand: ip link add a && ip link set a up"),
        (("unshare -m " + "x" * LONGEST,), "viscum plan FILE --as-shell"),
    ],
)
def test_the_next_step_is_whole_commands_or_how_to_see_them(
    commands: tuple[str, ...], hint: str
) -> None:
    with pytest.raises(OpFailed, match="could not do it") as caught:
        apply([Step(commands)])
    assert hint in caught.value.hint
    assert "xx" not in caught.value.hint
