"""`run --foreground`: standing by while a supervisor (systemd, procd) watches this process.

The server is this process's child, in its own cgroup. When nothing of it serves any more, or this
process is told to end, the service is taken away as `rm` does, and the server's exit status is this
process's. Other commands may give the service new servers meanwhile, or stop it: that ends nothing.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from viscum.errors import InputError
from viscum.kernel import process
from viscum.kernel.cgroup import Group
from viscum.plan import Instance, instances
from viscum.slowly import finish

if TYPE_CHECKING:
    from viscum.host import Host
    from viscum.spec import Spec
    from viscum.start import Outcome
    from viscum.store import World

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LOOK = 5000  # milliseconds after which servers are found that other commands have started
UNKNOWN = 1  # exit status for a server that was another command's child and has ended


class Told(BaseException):
    """This process was told to end while the server was being started."""


class Signals:
    """`reader`: readable after a signal. While `interrupting` they raise Told as well, for what
    waits then (for the server to listen, for older flows) may wait for long."""

    __slots__ = ("interrupting", "reader")

    def __init__(self, reader: int) -> None:
        self.reader = reader
        self.interrupting = True

    def handle(self, number: int, _: object) -> None:
        if self.interrupting and number in SIGNALS:
            self.interrupting = False
            raise Told


def run(host: Host, spec: Spec, replacing: bool, begun: Callable[[Outcome], None]) -> int:
    """`host.up`, and to the end of the server; `begun` is called between. Returns the exit status.

    That is the last child's (128+n for a signal). Raises what `up` raises.
    """
    status = None
    with _signals() as signals:
        try:
            outcome = finish(host.up(spec, replacing=replacing, as_child=True))
            signals.interrupting = False
        except Told:
            there = host.load().services.get(spec.name)
            ours = there is not None and there.spec == spec  # else it had not begun
        else:
            begun(outcome)
            ours, status = _stand_by(host, spec.name, signals.reader)
    if ours:
        with suppress(InputError):  # another command has taken it away
            finish(host.remove(spec.name))
    while (ended := _collect()) is not None:
        status = ended
    return status or 0


@contextmanager
def _signals() -> Iterator[Signals]:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous = signal.set_wakeup_fd(writer)
    signals = Signals(reader)
    handlers = {
        n: signal.signal(n, signals.handle)
        for n in (*SIGNALS, signal.SIGCHLD)
        if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN  # nohup
    }
    try:
        yield signals
    finally:
        signals.interrupting = False
        signal.set_wakeup_fd(previous)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _stand_by(host: Host, name: str, reader: int) -> tuple[bool, int | None]:
    """Until the service is over: whether it is still there, and the exit status so far."""
    left: set[str] = set()  # cgroups where only children of a server that has ended are left
    status = None
    while True:
        while (ended := _collect()) is not None:
            status = ended
        world = host.load()
        if name not in world.services:
            return False, status
        if _over(host, world, name, left):
            with host.changing(f"look after {name}") as change:  # no other command is at it now
                over = _over(host, change.world, name, left)
            if over:
                return True, UNKNOWN if status is None else status
        if not world.services[name].removing:
            status = None  # others have come after that one, or will
        if _await(host, world, name, reader, left):
            return True, status


def _over(host: Host, world: World, name: str, left: set[str]) -> bool:
    """Whether no server is left that should be there; one that was stopped should not."""
    record = world.services.get(name)
    if record is None or not (record.running or record.removing):
        return False
    return not any(
        Group(i.cgroup).populated() and i.cgroup not in left
        for i in _mine(host, world, name)
        if record.removing or i.generation.state != "draining"
    )


def _mine(host: Host, world: World, name: str) -> list[Instance]:
    return [i for i in instances(world, host.names) if i.record.name == name]


def _await(host: Host, world: World, name: str, reader: int, left: set[str]) -> bool:
    """Until a server ends or it is time to look again; whether this process is told to end."""
    mains: dict[int, str] = {}
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    try:
        for i in _mine(host, world, name):
            main = process.main(Group(i.cgroup))
            if main is None:
                left.discard(i.cgroup)
            elif i.cgroup in left:
                main.close()
            else:
                mains[main.fd] = i.cgroup
                poll.register(main, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(LOOK)]
        left |= {mains[fd] for fd in ready if fd in mains}
        return reader in ready and any(n in SIGNALS for n in os.read(reader, 64))
    finally:
        for fd in mains:
            os.close(fd)


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
