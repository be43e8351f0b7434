"""A directory of the user's own pictures, looked through before anything is started."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kit import example_dir, installed
from plates.client import SUFFIXES, photos_of

KNOWN = "plates.json"
FORM = '{"car.jpg": "AB123CD", …}'


class Unusable(Exception):
    """Says what can't be used, and what to do."""

    def __init__(self, what: object, next_step: str) -> None:
        super().__init__(f"{what}; next: {next_step}")


@dataclass(frozen=True)
class Pictures:
    """names: of the pictures, in order, without copies of one another; plates: what is on those of
    which it is known; notes: what was left out."""

    directory: Path
    names: tuple[str, ...]
    plates: dict[str, str]
    notes: tuple[str, ...]


def pictures_in(words: str) -> Pictures:
    """words: as the user has typed the directory. Raises Unusable."""
    directory = Path(words).absolute()
    try:
        found = photos_of(directory)
        there = [name for name in os.listdir(directory) if not name.startswith(".")]
    except OSError as error:
        step = "name a directory of pictures"
        if words.startswith("~"):
            step += ", with a space before the ~, so that the shell puts your home in its place"
        raise Unusable(f"{directory}: {error.strerror}", step) from None
    if not found:
        step = f"put some there, called {', '.join(SUFFIXES)}; sub-directories are not looked into"
        raise Unusable(f"{directory}: no pictures", step)
    plates = _known(directory / KNOWN, {path.name for path in found})
    _check(directory, found)
    names: dict[str, str] = {}
    notes = []
    for path in found:
        first = names.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
        if first != path.name:
            notes.append(f"{path.name} is the same as {first}")
    if more := len(there) - len(found) - (KNOWN in there):
        notes.append(f"{more} more that are not files called {', '.join(SUFFIXES)}")
    return Pictures(directory, tuple(names.values()), plates, tuple(notes))


def _known(path: Path, names: set[str]) -> dict[str, str]:
    """What the user says is on the pictures, as it is read: without gaps and dashes."""
    try:
        words = json.loads(path.read_bytes()) if os.path.lexists(path) else {}
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}", "make it readable or take it away") from None
    except ValueError as error:
        raise Unusable(f"{path} is not JSON: {error}", f"write {FORM}") from None
    if not isinstance(words, dict):
        raise Unusable(f"{path} is not an object", f"write {FORM}")
    plates = {}
    for name, plate in words.items():
        if name not in names:
            raise Unusable(f"{path} names {name!r}, which is no picture there", "correct the name")
        plates[name] = re.sub("[^A-Z0-9]", "", plate.upper()) if isinstance(plate, str) else ""
        if not plates[name]:
            raise Unusable(f"{path} says of {name!r} {plate!r}, no plate", f"write {FORM}")
    return plates


def _check(directory: Path, pictures: list[Path]) -> None:
    """Whether the server will take them. Raises Unusable."""
    for path in pictures:
        if not path.name.isprintable():
            raise Unusable(f"{directory}/{path.name!r}: an unprintable name", "rename it")
    python = installed("plates") / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "plates.picture", directory],
        cwd=example_dir("plates").parent, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    if done.stdout:
        raise Unusable(done.stdout.rstrip(), "repair it or take it away")
