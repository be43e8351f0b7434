"""A service's output without anything resident to collect it.

Standard output and error are one O_APPEND file per instance. Nobody reads along, so the file is
bounded from outside: every viscum command calls `trim`, which punches the old part out
(fallocate(2), FALLOC_FL_PUNCH_HOLE). The server's next write goes to the end as before, it never
sees an error, and the size keeps growing while the blocks do not: blocks are the measure here.
A resource limit (RLIMIT_FSIZE) or a full file system would end up as an error in the server
instead, and many do not survive that. Between two trims the hard stop is the file system:
`mount_dir` gives the logs a small tmpfs of their own, so that a server that shouts while nobody
looks after it gets ENOSPC on its log before the box gets short of memory.

Lines carry no time of their own. `trim` therefore notes (time, size) in an index beside the log,
which is how `tail(since=…)` works: as finely as viscum commands were run.
"""

from __future__ import annotations

import errno
import os
import select
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from viscum.kernel.syscalls import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    MNT_DETACH,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_REMOUNT,
    boottime_ns,
    fallocate,
    mount,
    umount2,
)

BOUND = 1 << 20  # bytes kept of each instance's log
HARD_STOP = 16 << 20  # bytes of the tmpfs that holds the logs of a host
MARKS = 512  # lines in an index before its older half is thinned
LINE = 1 << 16  # bytes of a line that are waited for
BEHIND = 1 << 20  # bytes that who follows a log may be behind
_BLOCK = 4096
_CHUNK = 1 << 16

IN_MODIFY = 0x2  # linux/inotify.h
IN_ATTRIB = 0x4  # also when a link to the file goes


def open_log(path: str) -> int:
    """Open (or make) an instance's log for its server; directories are made. Returns the fd."""
    os.makedirs(os.path.dirname(path) or ".", mode=0o750, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    _mark(path, os.fstat(fd).st_size)
    return fd


def remove(path: str) -> None:
    """Remove a log and its index, if they are there."""
    for name in (path, _index(path)):
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass


def used(path: str) -> int:
    """Bytes the log occupies (not its size, most of which is a hole)."""
    return os.stat(path).st_blocks * 512


def trim(path: str, bound: int = BOUND) -> int:
    """Keep at most the last `bound` bytes (rounded up to a block); returns the bytes now used.

    Safe beside a writing server: nothing after the point chosen is touched. A file system that
    cannot punch holes (vfat, jffs2) loses the whole log instead, so that the bound holds.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        cut = (size - bound) // _BLOCK * _BLOCK
        if cut > 0 and os.fstat(fd).st_blocks * 512 > bound:
            try:
                fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, cut)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                os.ftruncate(fd, 0)
        now = os.fstat(fd)
        if now.st_blocks * 512 > now.st_size - max(cut, 0) + 2 * _BLOCK:
            # More than the text can take: reserved beyond the end (fallocate), by no honest server.
            end = -(-now.st_size // _BLOCK) * _BLOCK
            length = (1 << 63) - _BLOCK - end
            if length > 0:
                fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, length)
        # Last, since it needs room, which a full file system has only now. Still true: what is
        # written from now on is written after `size`.
        _mark(path, size)
        return os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a log: lines without their newlines, and from when on they are complete."""

    lines: list[str]
    end: int  # bytes from the start of the file: where `follow` goes on
    since_ns: int | None = None  # CLOCK_BOOTTIME of the mark that was used; None: from the start


def tail(
    path: str,
    lines: int | None = None,
    *,
    since_ns: int | None = None,
    most: int = HARD_STOP,
) -> Tail:
    """The last `lines` lines (None: all that is kept) written since `since_ns` (CLOCK_BOOTTIME),
    as far as they lie in the last `most` bytes.

    `since_ns` is met from the safe side: what is returned starts at the last mark before it, so
    it can begin too early (Tail.since_ns says when) but misses nothing that is still kept.
    """
    mark = None
    start = 0
    if since_ns is not None:
        for mark_ns, offset in _marks(path):
            if mark_ns <= since_ns:
                mark, start = mark_ns, offset
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        pieces, whole = _newest(_written(fd, min(start, size), size), most)
        if not whole:
            mark = None
        if lines is None:
            data = pieces[0][0] if pieces else size
            text = b"".join(_read(fd, *piece) for piece in pieces)
        else:
            data, text = _last_lines(fd, pieces, lines)
        if data > 0 and (data > start or mark is None):
            text = text.partition(b"\n")[2]  # begins in the middle of a line
    finally:
        os.close(fd)
    # A page that was written in part counts as written: what is between is no text.
    found = text.replace(b"\0", b"").decode(errors="replace").split("\n")
    if not found[-1]:
        found.pop()
    return Tail(found if lines is None else found[max(0, len(found) - lines) :], size, mark)


@dataclass(slots=True)
class _Followed:
    path: str
    fd: int
    at: int
    partial: bytes = b""
    skip: bool = False  # up to the next newline: its start is in a hole

    def new(self) -> Iterator[tuple[str, str]]:
        """Lines that have come; a longer one than LINE comes in parts."""
        size = os.fstat(self.fd).st_size
        if size < self.at:  # truncated
            self.at, self.partial = 0, b""
        if size - self.at > BEHIND:  # nobody reads as fast as that is written: the newest of it
            self.at, self.partial, self.skip = size - BEHIND, b"", True
        while self.at < size:
            data = _data(self.fd, self.at)
            if data > self.at:  # trimmed faster than we read
                self.at, self.partial, self.skip = data, b"", True
            chunk = os.pread(self.fd, min(_CHUNK, size - self.at), self.at)
            if not chunk:
                return
            self.at += len(chunk)
            *complete, self.partial = (self.partial + chunk).split(b"\n")
            if len(self.partial) > LINE:
                complete.append(self.partial)
                self.partial = b""
            if self.skip and complete:
                self.skip = False
                del complete[0]
            for line in complete:
                yield self.path, line.decode(errors="replace")


class Follower:
    """What is written to files, from given offsets on, as it is written.

    `fileno()` is readable when there may be more to `read` (inotify(7): no polling). `over` when
    all the files have been removed. FileNotFoundError if one is not there at first.
    """

    def __init__(self, starts: Mapping[str, int]) -> None:
        self._notify, watch = _inotify()
        self._files: list[_Followed] = []
        try:
            for path, at in starts.items():
                watch(path, IN_MODIFY | IN_ATTRIB)
                self._files.append(_Followed(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC), at))
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._notify

    @property
    def over(self) -> bool:
        return not self._files

    def read(self) -> Iterator[tuple[str, str]]:
        """(path, line) for each line since the last time."""
        try:
            os.read(self._notify, _CHUNK)
        except BlockingIOError:
            pass
        for file in list(self._files):
            gone = os.fstat(file.fd).st_nlink == 0
            yield from file.new()
            if gone:
                if file.partial:
                    yield file.path, file.partial.decode(errors="replace")
                self._files.remove(file)
                os.close(file.fd)

    def close(self) -> None:
        os.close(self._notify)
        for file in self._files:
            os.close(file.fd)
        self._files.clear()


def follow(starts: Mapping[str, int], *, stop_fd: int = -1) -> Iterator[tuple[str, str]]:
    """(path, line) for each line written from the offset of its file on, as it is written.

    Ends when all the files have been removed or `stop_fd` becomes readable. FileNotFoundError if
    one is not there at first.
    """
    follower = Follower(starts)
    try:
        poll = select.poll()
        poll.register(follower, select.POLLIN)
        if stop_fd >= 0:
            poll.register(stop_fd, select.POLLIN)
        while True:
            yield from follower.read()
            if follower.over:
                return
            if stop_fd in dict(poll.poll()):
                yield from follower.read()
                return
    finally:
        follower.close()


def mount_dir(path: str, size: int = HARD_STOP) -> None:
    """Make `path` a tmpfs of its own of `size` bytes; changes the size if it is one already."""
    os.makedirs(path, mode=0o750, exist_ok=True)
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    remount = MS_REMOUNT if os.path.ismount(path) else 0
    mount("viscum-logs", path, "tmpfs", flags | remount, f"size={size},mode=0750")


def unmount_dir(path: str) -> None:
    """Undo `mount_dir`, contents and all; nothing happens where nothing is mounted."""
    if os.path.ismount(path):
        umount2(path, MNT_DETACH)


def _inotify() -> tuple[int, Callable[[str, int], None]]:
    """inotify_init1(2), and inotify_add_watch(2) on it."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise OSError(ctypes.get_errno(), f"inotify: {os.strerror(ctypes.get_errno())}")

    def watch(path: str, mask: int) -> None:
        if libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask)) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"inotify: {os.strerror(number)}", path)

    return fd, watch


def _data(fd: int, at: int) -> int:
    """Offset of the first byte from `at` on that is not in a hole; the size if there is none."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return os.fstat(fd).st_size


def _written(fd: int, start: int, end: int) -> list[tuple[int, int]]:
    """What is no hole between two offsets: (from, to) each. A server may make its log as long as it
    likes (ftruncate), and only its file system bounds how much of it there is to read."""
    pieces: list[tuple[int, int]] = []
    while (first := _data(fd, start)) < end:
        start = min(os.lseek(fd, first, os.SEEK_HOLE), end)
        pieces.append((first, start))
    return pieces


def _newest(pieces: list[tuple[int, int]], most: int) -> tuple[list[tuple[int, int]], bool]:
    """(the last `most` bytes of the pieces, whether these are all)."""
    kept: list[tuple[int, int]] = []
    for first, last in reversed(pieces):
        begin = max(first, last - most)
        most -= last - begin
        if begin < last:
            kept.insert(0, (begin, last))
        if begin > first:
            return kept, False
    return kept, True


def _last_lines(fd: int, pieces: list[tuple[int, int]], lines: int) -> tuple[int, bytes]:
    """(offset, text from there on), from the end towards the start, a chunk at a time, until there
    are enough newlines."""
    at, count, parts = 0, 0, list[bytes]()
    for first, last in reversed(pieces):
        at = last
        while at > first and count <= lines:
            step = max(first, at - _CHUNK)
            parts.append(_read(fd, step, at))
            count += parts[-1].count(b"\n")
            at = step
        if count > lines:
            break
    return at, b"".join(reversed(parts))


def _read(fd: int, start: int, end: int) -> bytes:
    parts = []
    while start < end and (part := os.pread(fd, end - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


# ---- the index: (CLOCK_BOOTTIME ns, size then) pairs of 64 bits -------------------------------

_PAIR = struct.Struct("=QQ")


def _index(path: str) -> str:
    return f"{path}.index"


def _marks(path: str) -> list[tuple[int, int]]:
    """In order of time; empty if there is no index."""
    try:
        with open(_index(path), "rb") as file:
            raw = file.read()
    except FileNotFoundError:
        return []
    return list(_PAIR.iter_unpack(raw[: len(raw) // _PAIR.size * _PAIR.size]))


def _mark(path: str, size: int) -> None:
    marks = _marks(path)
    if marks and marks[-1][1] == size:
        return  # nothing was written since
    marks.append((boottime_ns(), size))
    if len(marks) > MARKS:
        half = len(marks) // 2
        marks = marks[:half:2] + marks[half:]
    new = f"{_index(path)}.new"
    try:
        with open(new, "wb") as file:
            file.write(b"".join(_PAIR.pack(*mark) for mark in marks))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.unlink(new)  # `since` becomes coarser, that is all
    else:
        os.replace(new, _index(path))
