"""A service's output, and the controller's own log, into journald, where there is one.

The stream protocol of journald: connect, write a header of seven lines, then every line written
is a log entry. Source: systemd, src/libsystemd/sd-journal/journal-send.c (sd_journal_stream_fd)
and docs/JOURNAL_NATIVE_PROTOCOL.md's sibling interface `/run/systemd/journal/stdout`. journald
keeps open streams across its own restarts.

The native protocol, for entries with fields of their own: one datagram each (systemd,
docs/JOURNAL_NATIVE_PROTOCOL.md). The socket is named with every one, so that a journald that was
restarted is found again.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/stdout"
NATIVE = "/run/systemd/journal/socket"
PRIORITY = 6  # LOG_INFO, for lines that carry no <n> of their own


def present(path: str = SOCKET) -> bool:
    return os.path.exists(path)


def connect(identifier: str, *, unit: str = "", levels: bool = True, path: str = SOCKET) -> int:
    """A stream that is to be a service's standard output; returns its fd (close-on-exec).

    identifier: SYSLOG_IDENTIFIER of the entries (`journalctl -t IDENTIFIER`); unit: the systemd
    unit they are shown under, which journald believes root only; levels: whether a line may say how
    urgent it is ("<0>", which is shown on every terminal). Raises OSError; then the caller
    falls back to the file (kernel/logs.py).
    """
    if "\n" in identifier + unit:
        raise ValueError("a journal identifier is one line")
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.connect(path)
        stream.shutdown(socket.SHUT_RD)
        # identifier, unit, priority, whether "<3>" at a line's start is a priority,
        # and whether to forward to syslog, to the kernel's log, to the console
        stream.sendall(f"{identifier}\n{unit}\n{PRIORITY}\n{int(levels)}\n0\n0\n0\n".encode())
        return stream.detach()
    except OSError as error:
        raise OSError(error.errno, f"journal: {error.strerror}", path) from None
    finally:
        stream.close()


def is_standard_error() -> bool:
    """Whether journald reads this process' standard error: systemd.exec(5), $JOURNAL_STREAM."""
    try:
        there = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def entry(fields: Mapping[str, str]) -> bytes:
    """One entry as the native protocol has it. ValueError for a name that journald would ignore."""
    parts = []
    for name, value in fields.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a journal field: {name!r}")
        data = value.encode(errors="replace")
        if b"\n" in data:  # else it could bring fields of its own
            parts.append(name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


class Sender:
    """Sends entries; never waits for journald."""

    def __init__(self, path: str = NATIVE) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def send(self, fields: Mapping[str, str]) -> None:
        """Raises OSError: nobody listens there, too large, or it is too busy (BlockingIOError)."""
        self._socket.sendto(entry(fields), self.path)

    def close(self) -> None:
        self._socket.close()
