"""A service's output into journald, where there is one.

The stream protocol of journald: connect, write a header of seven lines, then every line written
is a log entry. Source: systemd, src/libsystemd/sd-journal/journal-send.c (sd_journal_stream_fd)
and docs/JOURNAL_NATIVE_PROTOCOL.md's sibling interface `/run/systemd/journal/stdout`. journald
keeps open streams across its own restarts.
"""

from __future__ import annotations

import os
import socket

SOCKET = "/run/systemd/journal/stdout"
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
