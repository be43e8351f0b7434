"""The door for asking a server how it is: sockets made where it runs, and commands run there.

A connection comes from the namespace's loopback address and is tied to `lo`. Then it reaches the
server at the target's own address, as clients do, although what the server itself sends to a target
leaves the box (rule 50); and it is told from a client's, which never comes from there (flows.py).
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import TypeAlias

from msgspec import Struct

from viscum.kernel import identity, knobs, netns, process
from viscum.kernel import syscalls as sys
from viscum.kernel.cgroup import Group
from viscum.kernel.process import Process
from viscum.spec import Run

Sock: TypeAlias = socket.socket
# One for each address the server may be at, in the order they are tried; not connected yet.
Sockets: TypeAlias = list[tuple[str, Sock]]

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
IP_RECVERR, IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h

SAID = 2048  # bytes of a command's output that are kept
CHATTY = 65536  # a command that prints more is ended
BLOCK = 16384
STUCK = 0.2  # seconds after which a killed command is left to whom it hangs on

_uncollected: list[int] = []


# ---- sockets ---------------------------------------------------------------------------------


def places(networks: Iterable[str]) -> list[str]:
    """Where a server of these targets may be: at them, as its clients believe, or inside alone."""
    found: dict[int, str] = {}
    for text in networks:
        net = ip_network(text)
        first = net.network_address + (1 if net.num_addresses > 2 else 0)
        found.setdefault(net.version, str(first))
    return [*found.values(), *LOOPBACK.values()]


def streams(name: str, addresses: Iterable[str]) -> Sockets:
    """A TCP socket for each address, not connected yet. FileNotFoundError: no such namespace."""
    return _made(name, addresses, socket.SOCK_STREAM)


def connected(name: str, addresses: Iterable[str], port: int, seconds: float) -> Sock:
    """At the first address that does not refuse, within so many seconds at each. Raises OSError."""
    sockets, refused = streams(name, addresses), OSError(errno.EADDRNOTAVAIL, "no address to ask")
    made = None
    try:
        for address, sock in sockets:
            sock.settimeout(seconds)
            try:
                sock.connect((address, port))
            except ConnectionRefusedError as error:
                refused = error
                continue
            made = sock
            return made
        raise refused
    finally:
        for _, sock in sockets:
            if sock is not made:
                sock.close()


def datagrams(name: str, addresses: Iterable[str]) -> Sockets:
    """The same for UDP: unconnected, for a server bound to every address answers from another, and
    told when nothing listens."""
    return _made(name, addresses, socket.SOCK_DGRAM)


def _made(name: str, addresses: Iterable[str], kind: int) -> Sockets:
    found: Sockets = []

    def make() -> None:
        for address in addresses:
            version = 6 if ":" in address else 4
            try:
                made = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, kind)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                continue  # a kernel without IPv6
            found.append((address, made))
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
            if kind == socket.SOCK_DGRAM and version == 4:
                made.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            elif kind == socket.SOCK_DGRAM:
                made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
            made.bind((LOOPBACK[version], 0))

    try:
        with netns.opened(name) as fd:
            sys.in_netns(fd, make)
    except BaseException:
        for _, made in found:
            made.close()
        raise
    return found


# ---- commands --------------------------------------------------------------------------------


class Done(Struct, frozen=True):
    """How a command went. why: in words, "" if well; output: the end of what it printed.

    server_ended: the server it was to run beside did; hopeless: it can't be run at all.
    """

    ok: bool
    why: str = ""
    output: str = ""
    server_ended: bool = False
    hopeless: bool = False


class Beside(Struct, frozen=True):
    """Where the server of an instance runs, and as whom. uid: in a strict sandbox."""

    group: Group
    run: Run
    uid: int

    @property
    def sandbox(self) -> int | None:
        return self.uid if self.run.sandbox == "strict" else None


class Running:
    """A command beside a running server: in its control group, namespaces and directory, as its
    user, with its environment; without a terminal.

    Never waits: `fds` are readable when `look` has something to see, and `give_up` ends it.
    ProcessLookupError if no server runs; LaunchError if the command can't be run.
    """

    def __init__(self, beside: Beside, argv: Sequence[str], timeout: float) -> None:
        """timeout: seconds that may pass until the command is executed."""
        server = process.main(beside.group)
        if server is None:
            raise ProcessLookupError(errno.ESRCH, "no process is running in", beside.group.path)
        self._server = server
        self.name = " ".join(argv)
        self._status: int | None = None
        self._read = 0
        self._said = b""
        try:
            _collect()
            self._output, output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                os.set_blocking(output, True)
                self._main = Process(_start(beside, argv, self._server, output, timeout))
            except BaseException:
                os.close(self._output)
                raise
            finally:
                os.close(output)
        except BaseException:
            self._server.close()
            raise

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def fds(self) -> tuple[int, ...]:
        ends = (self._main.fd, self._server.fd)
        return ends if self._output < 0 else (*ends, self._output)

    def look(self) -> Done | None:
        """Takes what it has printed; None while it runs."""
        self._take()
        if self._main.wait(0):
            return self._done(self._end())
        if self._server.wait(0):
            self._end()
            return Done(False, f"{self.name!r}: the server ended meanwhile", server_ended=True)
        if self._read > CHATTY:
            self._end()
            return Done(False, f"{self.name!r} printed more than {CHATTY >> 10} KB", self._tail())
        return None

    def give_up(self, seconds: float) -> Done:
        """It took too long."""
        self._end()
        self._take()
        return Done(False, f"{self.name!r} did not end within {seconds:g} s", self._tail())

    def close(self) -> None:
        self._end()
        self._main.close()
        self._server.close()
        if self._output >= 0:
            os.close(self._output)
            self._output = -1

    def _end(self) -> int:
        """Kills all of its process group, which its number names as long as it is not collected."""
        if self._status is None:
            try:
                os.killpg(self._main.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            if self._main.wait(STUCK):
                self._status = self._main.exit_status() or 0
            else:
                _uncollected.append(self._main.pid)
                self._status = 128 + signal.SIGKILL
        return self._status

    def _take(self) -> None:
        while self._output >= 0 and self._read <= CHATTY:
            try:
                block = os.read(self._output, BLOCK)
            except BlockingIOError:
                return
            if not block:
                os.close(self._output)
                self._output = -1
            self._read += len(block)
            self._said = (self._said + block)[-SAID:]

    def _done(self, status: int) -> Done:
        self._take()
        if status == 0:
            return Done(True, "", self._tail())
        return Done(False, f"{self.name!r} {process.in_words(status)}", self._tail())

    def _tail(self) -> str:
        return self._said.decode(errors="replace").strip()


def in_words(argv: Sequence[str], error: OSError) -> str:
    """Why a command could not be run."""
    what = f" ({error.filename})" if error.filename and error.filename != argv[0] else ""
    return f"{' '.join(argv)!r}: {error.strerror or error}{what}"


def _collect() -> None:
    """Those that were stuck in the kernel when they were killed."""
    for _ in range(len(_uncollected)):
        try:
            pid = _uncollected.pop(0)  # what is taken out is for this thread alone
        except IndexError:
            return
        if not os.waitpid(pid, os.WNOHANG)[0]:
            _uncollected.append(pid)


def run(beside: Beside, argv: Sequence[str], timeout: float) -> Done:
    """Runs it to its end, or for `timeout` seconds. Raises as `Running` does."""
    end = time.monotonic() + timeout
    with Running(beside, argv, timeout) as running:
        while (done := running.look()) is None:
            left = end - time.monotonic()
            if left <= 0:
                return running.give_up(timeout)
            poll = select.poll()
            for fd in running.fds:
                poll.register(fd, select.POLLIN)
            poll.poll(left * 1000)
    return done


def _start(
    beside: Beside, argv: Sequence[str], server: Process, output: int, timeout: float
) -> int:
    run = beside.run
    root = f"/proc/{server.pid}/root" if run.root else None
    user, keep, sandbox = process.powers(run.user, run.capabilities, root, beside.sandbox)
    directory = run.working_directory or "/"

    def set_up(step: process.Step) -> None:
        step("be expendable", "")
        knobs.write("/proc/self/oom_score_adj", str(process.OOM_SCORE_ADJ))
        process.join(step, beside.group, server, sandbox.namespaces if sandbox else 0)
        step("redirect output", "")
        null = os.open("/dev/null", os.O_RDWR)
        os.setsid()
        os.umask(0o022)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        step("become user", user.name)
        identity.become(user, keep, no_new_privileges=True)
        step("change to directory", directory)
        os.chdir(directory)
        if sandbox is not None:
            step("confine", user.name)
            sandbox.confine()

    environment = process.environment(user, run.environment)
    # Whatever holds it up on its way, it holds nothing of ours meanwhile, such as the host's lock.
    needed = (output, server.fd)
    return process.spawn(tuple(argv), environment, set_up, True, timeout, needed)
