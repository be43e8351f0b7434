"""One loop over Ops; the first that fails stops it, and says which it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from viscum.errors import ViscumError
from viscum.ops import Op

LONGEST = 400  # characters of a hint


class OpFailed(ViscumError):
    """An Op failed; `op` is it. The ones before it are done, those after it are not."""

    def __init__(self, op: Op, error: BaseException) -> None:
        detail = error.message if isinstance(error, ViscumError) else str(error)
        if not isinstance(error, (ViscumError, OSError)):  # a mistake of ours: say what it was
            detail = repr(error)
        super().__init__(
            f"could not {op.describe()}: {detail}",
            hint=getattr(error, "hint", "") or _by_hand(op),
        )
        self.op = op


def _by_hand(op: Op) -> str:
    """Its commands, to see what they say; those that start a server are too long to be typed."""
    commands = " && ".join(op.shell())
    if len(commands) > LONGEST:
        return "`viscum plan FILE --as-shell` of its spec shows the step as commands"
    return f"by hand: {commands}"


def apply(ops: Iterable[Op], told: Callable[[Op], None] = lambda op: None) -> None:
    """Applies in order. Raises OpFailed.

    An Op with a method `begin` has a part that may run beside the Ops before it.
    """
    ops = tuple(ops)
    for op in ops:
        begin = getattr(op, "begin", None)
        if begin is not None:
            begin()
    for op in ops:
        told(op)
        try:
            op.apply()
        except Exception as error:  # whatever it is, what was done so far has to be taken back
            raise OpFailed(op, error) from error


def apply_all(ops: Iterable[Op]) -> list[OpFailed]:
    """Teardown: goes on after a failure and returns what failed."""
    failed = []
    for op in ops:
        try:
            op.apply()
        except Exception as error:
            failed.append(OpFailed(op, error))
    return failed
