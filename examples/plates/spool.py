"""Records on disk until somebody has taken them: append-only files, one JSON object a line.

`append` returns when they are on the disk (fsync). A file is written to by one process, which holds
its lock; whoever delivers takes files that nobody holds, its own and those that a process left
which was killed, and removes them when all of it is delivered. So a crash at any moment loses
nothing that was acknowledged; it may have some delivered twice, which their keys make harmless.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
ASIDE = ".aside"


class Segment:
    """A file of the spool that is this process' to deliver, while the context lasts."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file = file

    def records(self) -> list[Record]:
        """Without a last line that was not finished: it was never acknowledged."""
        lines = self._path.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if _whole(line)]

    def put_aside(self, records: Iterable[Record]) -> Path:
        """What nobody takes is kept, in a file beside it that is never taken, and named here. The
        same again after a crash gives the same. Raises OSError."""
        path = self._path.with_suffix(ASIDE)
        with path.open("wb") as file:
            file.write(_lines(records))
            file.flush()
            os.fsync(file.fileno())
        _sync_directory(path.parent)
        return path

    def delivered(self) -> None:
        self._path.unlink()

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


class Spool:
    """limit: bytes that all of it may take."""

    def __init__(self, directory: Path, limit: int) -> None:
        """Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        _sync_directory(directory.parent)
        self.directory = directory
        self.limit = limit
        self.filled = threading.Event()  # set when there may be something to deliver
        if self._segments():
            self.filled.set()
        self._lock = threading.Lock()
        self._file: int | None = None
        self._end = 0

    def append(self, records: Iterable[Record]) -> None:
        """Raises OSError; then none of them will be delivered on account of this call."""
        data = _lines(records)
        with self._lock:
            if self.size() + len(data) > self.limit:
                raise OSError(errno.ENOSPC, "the spool is full")
            try:
                file = self._open()
                _write(file, data)
                os.fsync(file)
            except OSError:
                self._forget()
                raise
            self._end += len(data)
        self.filled.set()

    def take(self) -> Segment | None:
        """The oldest that nobody writes to or delivers; what was appended is in a finished one."""
        with self._lock:
            self._close()
        for path in self._segments():
            try:
                file = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            if _locked(file) and os.fstat(file).st_nlink:
                return Segment(path, file)
            os.close(file)
        return None

    def size(self) -> int:
        total = 0
        for path in (*self._segments(), *self._aside()):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                pass  # delivered meanwhile
        return total

    def count(self) -> int:
        """Records that wait."""
        return sum(map(_count, self._segments()))

    def count_aside(self) -> int:
        """Records that nobody takes."""
        return sum(map(_count, self._aside()))

    def _segments(self) -> list[Path]:
        return sorted(self.directory.glob("*.jsonl"))

    def _aside(self) -> list[Path]:
        return list(self.directory.glob("*" + ASIDE))

    def _open(self) -> int:
        """The file to append to. It gets its name when it is locked, lest another take it."""
        if self._file is not None:
            return self._file
        path = self.directory / f"{time.time_ns():020d}-{secrets.token_hex(8)}.jsonl"
        new = path.with_suffix(".new")
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self._file, self._end = file, 0
        fcntl.flock(file, fcntl.LOCK_EX)
        new.rename(path)
        _sync_directory(self.directory)
        return file

    def _forget(self) -> None:
        """After a failure: what is in the file beyond the last success must not be delivered, and
        after a failed fsync the file is not to be trusted with more."""
        if self._file is None:
            return
        try:
            os.ftruncate(self._file, self._end)
        except OSError:
            pass  # then it is delivered, and again under the same key when it is sent again
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _lines(records: Iterable[Record]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def _count(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0  # delivered meanwhile


def _whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
