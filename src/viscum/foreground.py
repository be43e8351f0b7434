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
    """Returns the exit status of the first instance that ended (128+n for a signal)."""
    pids = [
        pid
        for i in instances(host.load(), host.names)
        if i.record.name == name and (pid := process.main_pid(Group(i.cgroup))) is not None
    ]
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous = signal.set_wakeup_fd(writer)
    handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    try:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        for pid in pids:
            poll.register(os.pidfd_open(pid), select.POLLIN)
        if pids:
            poll.poll()
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    host.remove(name)
    statuses = [status for pid in pids if (status := _status(pid)) is not None]
    return next((s for s in statuses if s), 0)


def _status(pid: int) -> int | None:
    """None if it is not our child (a server that went into the background)."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
