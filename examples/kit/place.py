"""Where a stage is, and what is left of stages that were killed.

A stage has one name: its lab's prefix, and its directory's. The directory is locked for as long as
the process lives, so that whoever finds one that is not locked may take away what is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from viscum.errors import ViscumError
from viscum.lab import Lab

PLACES = Path("/var/cache")  # which a strict sandbox shows to its service, unlike /var/tmp


@contextlib.contextmanager
def place(name: str) -> Iterator[Path]:
    """A directory for a stage, readable by all; gone afterwards. Its name is new, and free as a
    lab's prefix."""
    lock = None
    while lock is None:  # somebody who clears up may be faster than our lock
        directory = PLACES / f"vx-{name}-{secrets.token_hex(4)}"
        directory.mkdir()
        lock = _lock(directory)
    directory.chmod(0o755)
    done = True
    try:
        yield directory
    except ViscumError:  # maybe of a lab that would not go: by the directory the next one finds it
        done = False
        raise
    finally:
        if done:
            shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def clear_up() -> None:
    """Takes away labs and directories whose process is dead."""
    for directory in PLACES.glob("vx-*-*"):
        lock = _lock(directory, fcntl.LOCK_NB)
        if lock is None:
            continue
        try:
            Lab(directory.name).down()
            shutil.rmtree(directory)
        except (OSError, ViscumError) as error:
            print(f"{directory}, left by a play that was killed: {error}", file=sys.stderr)
        finally:
            os.close(lock)


def _lock(directory: Path, how: int = 0) -> int | None:
    """Nothing if it is locked, gone, or not a directory of ours."""
    try:
        file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | how)
        found, there = os.fstat(file), directory.lstat()
        if found.st_uid == os.geteuid() and os.path.samestat(found, there):
            return file
    except OSError:
        pass
    os.close(file)
    return None
