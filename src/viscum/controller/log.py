"""The controller's own log: every event, into the journal or as one line of JSON on standard error.

Into the journal where it is what reads standard error, as for a unit of systemd: then each event is
an entry with fields. What the journal can't take at the moment goes to standard error as well.
"""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Callable

import msgspec

from viscum.controller.events import Event
from viscum.kernel import journal

IDENTIFIER = "viscumd"
PRIORITIES = {"info": 6, "warning": 4, "error": 3}  # syslog(3)

Sink = Callable[[Event], None]


def sink() -> Sink:
    return to_journal() if journal.is_standard_error() else to_standard_error()


def to_standard_error() -> Sink:
    encoder = msgspec.json.Encoder()

    def write(event: Event) -> None:
        _say(encoder.encode(event) + b"\n")

    return write


def to_journal(path: str = journal.NATIVE) -> Sink:
    sender = journal.Sender(path)
    otherwise = to_standard_error()

    def write(event: Event) -> None:
        try:
            sender.send(fields(event))
        except OSError:
            otherwise(event)

    return write


def fields(event: Event) -> dict[str, str]:
    """An event as an entry of the journal (docs/metrics.md)."""
    found = {
        "MESSAGE": event.message,
        "PRIORITY": str(PRIORITIES[event.level]),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "VISCUM_KIND": event.kind,
        "VISCUM_EVENT": str(event.id),
    }
    if event.service:
        found["VISCUM_SERVICE"] = event.service
    if event.tenant:
        found["VISCUM_TENANT"] = event.tenant
    if event.data:
        found["VISCUM_DATA"] = msgspec.json.encode(event.data).decode()
    return found


def trace(error: BaseException) -> None:
    """Where a fault of ours came from."""
    _say("".join(traceback.format_exception(error)).encode(errors="replace"))


def _say(text: bytes) -> None:
    """As far as somebody reads it; where nobody does, or not any more, the work goes on."""
    try:
        fd = sys.stderr.fileno()
    except (OSError, ValueError):
        sys.stderr.buffer.write(text)  # in memory, of a test
        return
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    try:
        for at in range(0, len(text), select.PIPE_BUF):
            if not poll.poll(0):  # a pipe without room for so much
                return
            os.write(fd, text[at : at + select.PIPE_BUF])
    except OSError:
        pass
