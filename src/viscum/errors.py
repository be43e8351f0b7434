"""What can go wrong, as data. Only the CLI turns these into words and exit codes."""

from __future__ import annotations

from msgspec import Struct


class Problem(Struct, frozen=True):
    """One thing wrong with what the user gave.

    field: where, in the syntax the user wrote (``steer.ports[1]``, ``--port``); value: what was
    given; message: what is wrong with it; fix: the next step.
    """

    field: str
    value: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        given = f" {self.value!r}" if self.value else ""
        fix = f"; {self.fix}" if self.fix else ""
        return f"{self.field}{given}: {self.message}{fix}"


def located(problem: Problem, source: str) -> Problem:
    """Says of which service or file it is, where several are checked together ("": of one)."""
    field = f"{source}: {problem.field}" if source else problem.field
    return Problem(field, problem.value, problem.message, problem.fix)


class ViscumError(Exception):
    """Something failed that was not the user's input (exit status 1).

    message says what failed on which object; state what is true now; hint the next step.
    """

    exit_code = 1

    def __init__(self, message: str, *, state: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.state = state
        self.hint = hint


class Held(ViscumError):
    """Another command has what is needed, for longer than was waited."""


class InputError(ViscumError):
    """Bad input (exit status 2): every problem at once, found before anything was touched."""

    exit_code = 2

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(str(p) for p in problems))
        self.problems = problems


class InConflict(InputError):
    """Nothing wrong with what was given, but with what there is just now; it may pass."""
