"""Frames of the user's own, looked through before anything is started: a directory of JPEGs, or a
video.

    python -m faces.own SOURCE        in the example's environment: says what can't be used
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from faces.camera import frames_of
from faces.config import Config
from faces.detector import Unreadable, picture_of

KNOWN = "faces.json"
FORM = '{"people.jpg": [[left, top, width, height], …], …} in pixels'


class Unusable(Exception):
    """Says what, and what to do."""


def check(source: Path) -> None:
    """Raises Unusable."""
    if not source.exists():
        raise Unusable(f"{source} does not exist; next: name a directory of JPEGs, or a video")
    limits = Config()
    names = set()
    for name, jpeg in frames_of(source):
        names.add(name)
        if len(jpeg) > limits.max_bytes:
            raise Unusable(f"{name} has {len(jpeg)} bytes; at most {limits.max_bytes}")
        try:
            picture_of(jpeg, limits)
        except Unreadable as error:
            raise Unusable(f"{name}: {error}") from None
    path = source / KNOWN
    if source.is_dir() and path.exists():
        _check_known(path, names)


def _check_known(path: Path, names: set[str]) -> None:
    try:
        there = json.loads(path.read_bytes())
    except ValueError as error:
        raise Unusable(f"{path} is not JSON: {error}; next: write {FORM}") from None
    for name, faces in there.items() if isinstance(there, dict) else [("", None)]:
        if not isinstance(faces, list) or not all(map(_is_box, faces)):
            raise Unusable(f"{path} can't be used; next: write {FORM}")
        if name not in names:
            raise Unusable(f"{path} names {name!r}, which is no frame there")


def _is_box(face: object) -> bool:
    return (
        isinstance(face, list)
        and len(face) == 4
        and all(isinstance(part, int | float) for part in face)
        and min(face[2:]) > 0
    )


def main() -> None:
    try:
        check(Path(sys.argv[1]))
    except (Unusable, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
