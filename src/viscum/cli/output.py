"""How results, progress and errors are shown. Colours and tables only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from viscum.errors import InputError, ViscumError

TRACE_HINT = "this is a fault of viscum's; please report it with the lines above"


def say(line: str) -> None:
    """A result, on standard output. When nobody reads it any more the work goes on all the same:
    `viscum rm --all | head -1` removes them all."""
    _write(line, err=False)


def note(line: str) -> None:
    """Progress and remarks, on standard error."""
    _write(line, err=True)


def _write(line: str, err: bool) -> None:
    try:
        click.echo(line, err=err)
    except BrokenPipeError:
        nobody_reads(2 if err else 1)


def nobody_reads(*fds: int) -> None:
    """What is still buffered has to go somewhere when the interpreter ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    for fd in fds:
        os.dup2(null, fd)
    os.close(null)


def as_json(value: Any) -> None:
    import json

    say(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns on a terminal, tab-separated without a head elsewhere."""
    lines = [[str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in lines:
            say("\t".join(line))
        return
    widths = [max(len(line[i]) for line in [list(columns), *lines]) for i in range(len(columns))]
    for number, line in enumerate([list(columns), *lines]):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say(click.style(text.rstrip(), bold=True) if number == 0 else text.rstrip())


def fields(values: Mapping[str, object]) -> None:
    """`name: value` lines, aligned."""
    width = max(len(name) for name in values) + 1
    for name, value in values.items():
        say(f"{name + ':':<{width}} {value}")


def fail(error: BaseException) -> int:
    """Says what went wrong in words; returns the exit status."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        note("")  # the line on which the terminal shows ^C
        note("viscum: interrupted; what was done stays, the same command again goes on from here")
        return 1
    if isinstance(error, BrokenPipeError):
        nobody_reads(1, 2)
        return 1
    if isinstance(error, InputError):
        for problem in error.problems:
            note(_red(f"viscum: {problem}"))
        note("nothing was changed")
        return error.exit_code
    if isinstance(error, ViscumError):
        note(_red(f"viscum: {error.message}"))
        for line in getattr(error, "log", ()):
            note(f"  | {line}")
        if error.state:
            note(f"now: {error.state}")
        if error.hint:
            note(f"next: {error.hint}")
        return error.exit_code
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        note(_red(f"viscum: {error.strerror or error}{where}"))
        note("next: `viscum doctor` looks for what is missing here")
        return 1
    import traceback

    traceback.print_exception(error)
    note(_red(f"viscum: {type(error).__name__}: {error}"))
    note(TRACE_HINT)
    return 1


def _red(text: str) -> str:
    return click.style(text, fg="red") if sys.stderr.isatty() else text
