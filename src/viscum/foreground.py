"""`run --foreground`: standing by while a supervisor (systemd, procd) watches this process.

The server is this process's child, in its own cgroup. When it ends, or this process is told to,
the service is taken away as `rm` does, and the server's exit status is this process's.
"""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

from viscum.kernel import process
from viscum.kernel.cgroup import Group
from viscum.plan import instances

if TYPE_CHECKING:
    from viscum.host import Host

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def stand_by(host: Host, name: str) -> int:
    """Returns the exit status of the first instance that ended (128+n for a signal).

    The end of a child is asked for, not looked for: a server that ended while this process was
    not looking yet is found as well.
    """
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous = signal.set_wakeup_fd(writer)
    handlers = {n: signal.signal(n, lambda *_: None) for n in (*SIGNALS, signal.SIGCHLD)}
    try:
        status = _await_end(_others(host, name), reader)
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
    host.remove(name)
    while (ended := _collect()) is not None:
        status = ended if status is None else status
    return status or 0


def _others(host: Host, name: str) -> list[int]:
    """pidfds of the instances' main processes that are not our children, but an earlier
    command's; their exit status is not ours to learn."""
    found = []
    for i in instances(host.load(), host.names):
        pid = process.main_pid(Group(i.cgroup)) if i.record.name == name else None
        if pid is not None:
            try:
                found.append(os.pidfd_open(pid))
            except ProcessLookupError:
                continue
    return found


def _await_end(others: list[int], signals: int) -> int | None:
    """Until a child (its exit status) or another process ends, or this one is told to (None)."""
    poll = select.poll()
    for fd in (signals, *others):
        poll.register(fd, select.POLLIN)
    try:
        while True:
            status = _collect()
            if status is not None or not (others or _has_child()):
                return status
            ready = [fd for fd, _ in poll.poll()]
            if ready != [signals]:
                return _collect()
            if any(number in SIGNALS for number in os.read(signals, 64)):
                return None
    finally:
        for fd in others:
            os.close(fd)


def _has_child() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _collect() -> int | None:
    """The exit status of a child that has ended; None if none has."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    if not pid:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
