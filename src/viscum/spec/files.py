"""Spec files and directories of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from viscum.errors import InputError, Problem
from viscum.spec.read import BadSpec, from_toml
from viscum.spec.types import Spec


class BadFiles(InputError):
    """found: the specs as far as they could be read, as `specs_from_paths` returns them."""

    def __init__(self, found: list[tuple[Path, Spec]], *problems: Problem) -> None:
        super().__init__(*problems)
        self.found = found


MAX_FILE = 2**20  # bytes; a spec of a few lines has no need of more


def specs_from_paths(paths: Iterable[str | Path]) -> list[tuple[Path, Spec]]:
    """Reads every FILE, and every *.toml of every DIRECTORY in the order of their names.

    A file given twice counts once. Raises BadFiles with the problems of all files.
    """
    found: list[tuple[Path, Spec]] = []
    partial: list[tuple[Path, Spec]] = []
    problems: list[Problem] = []
    seen: set[tuple[int, int]] = set()
    named: dict[str, Path] = {}
    for given in paths:
        try:
            files = _files(Path(given))
        except InputError as error:
            problems.extend(error.problems)
            continue
        for path in files:
            try:
                content = _read(path, seen)
                if content is None:
                    continue
                spec = from_toml(content, source=str(path))
            except BadSpec as error:
                problems.extend(error.problems)
                partial.append((path, error.partial))
                continue
            except InputError as error:
                problems.extend(error.problems)
                continue
            first = named.setdefault(spec.name, path)
            if first is not path:
                problems.append(
                    Problem(
                        f"{path}: name",
                        spec.name,
                        f"is the name of the service in {first} too",
                        "rename one of them",
                    )
                )
            found.append((path, spec))
    if problems:
        raise BadFiles([*found, *partial], *problems)
    return found


def _files(given: Path) -> list[Path]:
    try:
        if not given.is_dir():
            return [given]
        files = sorted(p for p in given.glob("*.toml") if not p.name.startswith("."))
    except (OSError, ValueError) as error:
        raise _unreadable(given, error) from None
    if not files:
        raise InputError(
            Problem(str(given), "", "is a directory without *.toml", "put specs there or name them")
        )
    return files


def _read(path: Path, seen: set[tuple[int, int]]) -> str | None:
    """The file's text; None if it was read before."""
    try:
        # Non-blocking, so that a FIFO without a writer does not hang us before it is refused.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise InputError(Problem(str(path), "", "is not a regular file", "name a file"))
            if (info.st_dev, info.st_ino) in seen:
                return None
            seen.add((info.st_dev, info.st_ino))
            content = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if len(content) > MAX_FILE:
        raise InputError(Problem(str(path), "", "is larger than 1 MiB", "is it a spec at all?"))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            Problem(f"{path}: line {line}", "", "is not UTF-8", "save the file as UTF-8")
        ) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    why = getattr(error, "strerror", None) or str(error)
    fix = "check the path" if isinstance(error, FileNotFoundError) else "make it readable"
    return InputError(Problem(str(path), "", f"can't be read: {why}", fix))
