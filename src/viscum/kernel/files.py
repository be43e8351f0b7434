"""Files that more than one process writes, for root alone."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds flock(2) on PATH.lock meanwhile, which is waited for: it is held for milliseconds."""
    path.parent.mkdir(0o755, parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write_private(path: Path, data: bytes) -> None:
    """Replaces it atomically, mode 0600, and never through a link; on the disk when it returns."""
    path.parent.mkdir(0o755, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # of a killed write
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def append_private(path: Path, line: bytes) -> None:
    """O_APPEND, mode 0600, never through a link; on the disk when it returns.

    What an earlier write left unfinished is a line of its own.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    try:
        size = os.fstat(fd).st_size
        data = line + b"\n"
        if size and os.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    finally:
        os.close(fd)


def tail(path: Path, most: int) -> bytes:
    """Its last `most` bytes."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        return file.read()


BLOCK = 65536


def lines_backwards(path: Path) -> Iterator[bytes]:
    """Its lines, the last one first, without their ends; nothing of a file that is not there."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        at, rest = os.fstat(file.fileno()).st_size, b""
        end = True  # of the file: what is after its last newline is no line if it is empty
        while at > 0:
            step = min(BLOCK, at)
            at -= step
            first, *lines = (os.pread(file.fileno(), step, at) + rest).split(b"\n")
            if lines and end:
                end = False
                if not lines[-1]:
                    lines.pop()
            yield from reversed(lines)
            rest = first
        if rest or not end:
            yield rest
