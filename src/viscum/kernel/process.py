"""Starting, finding, entering and ending the processes of an instance.

`start` forks a short-lived helper that joins the control group and the namespaces, gives up what
the server is not to have, and execs: nothing of Viscum stays behind it. From then on there is no
handle to keep: the processes are whatever is in the control group, and a pidfd names one of them
without the danger of a reused number.

The steps between fork and exec run in the child of what may be a process with threads: they use
no lock of ours and no module that was not imported before.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct, field

from viscum.kernel import identity, knobs, mounts
from viscum.kernel import syscalls as sys
from viscum.kernel.cgroup import Group

if TYPE_CHECKING:
    from viscum.kernel.sandbox import Sandbox

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# How a set-up between fork and exec says what it does next, and to what, for the error.
Step: TypeAlias = Callable[[str, str], None]

# Short of memory, the box is to give up an edge server (there is a cloud to fall back on) before
# any daemon of its own.
OOM_SCORE_ADJ = 500


class Launch(Struct, frozen=True):
    """All that is needed to start one instance."""

    argv: tuple[str, ...]
    group: Group  # exists, with its limits
    netns_fd: int  # -1: stay where the caller is
    output: int  # fd that becomes standard output and error; -1: the caller's own
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None  # name or uid, optionally :group; None: root
    working_directory: str = "/"
    root: str | None = None  # an unpacked root file system
    files: Mapping[str, str] = field(default_factory=dict)  # /etc/resolv.conf, /etc/hosts → text
    hide: tuple[str, ...] = ()  # directories of the box: the state directory
    capabilities: tuple[str, ...] | None = None  # None: the default of root or of a user
    no_new_privileges: bool = True
    sandbox: int | None = None  # strictly confined, as this uid: without user and capabilities
    open_files: int | None = None  # RLIMIT_NOFILE, soft; at most the hard one


class LaunchError(OSError):
    """Starting failed: `strerror` says at which step and why, `filename` on what."""

    @property
    def hint(self) -> str:
        """What to do next; "" if nothing is known."""
        if self.errno == errno.EACCES and self.filename:
            return f"`namei -l {self.filename}` shows who may enter and execute what"
        return ""


def start(launch: Launch, *, foreground: bool = False) -> int:
    """Start it; returns its pid once the program has been executed.

    foreground: it stays a child of the caller, who then learns its exit status (`Process`) and
    must collect it; otherwise it belongs to init at once. Raises LaunchError (nothing runs then)
    and, for a user or a capability that there is not, before any fork.
    """
    steps = mounts.view(launch.root, launch.files, launch.hide)
    namespaces = sys.CLONE_NEWNS
    user, keep, sandbox = powers(launch.user, launch.capabilities, launch.root, launch.sandbox)
    if sandbox is not None:
        steps += sandbox.view(launch.root)
        namespaces |= sandbox.namespaces

    def set_up(step: Step) -> None:
        step("join the control group", launch.group.path)
        launch.group.join()
        knobs.write("/proc/self/oom_score_adj", str(OOM_SCORE_ADJ))
        step("open", "/dev/null")
        null = os.open("/dev/null", os.O_RDWR)
        step("enter the network namespace", launch.group.path)
        if launch.netns_fd >= 0:
            sys.setns(launch.netns_fd, sys.CLONE_NEWNET)
        step("make a mount namespace", "")
        sys.unshare(namespaces)
        for operation in steps:
            step(operation.what, operation.path)
            operation.apply()
        step("redirect output", "")
        os.setsid()
        os.umask(0o022)
        if launch.output >= 0:
            os.dup2(launch.output, 1)
            os.dup2(launch.output, 2)
        os.dup2(null, 0)
        if launch.open_files is not None:
            step("limit open files to", str(launch.open_files))
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (launch.open_files, hard))
        step("become user", user.name)
        identity.become(user, keep, launch.no_new_privileges)
        step("change to directory", launch.working_directory)
        os.chdir(launch.working_directory)
        if sandbox is not None:
            step("confine", user.name)
            sandbox.confine()

    return spawn(launch.argv, environment(user, launch.environment), set_up, foreground)


def powers(
    user: str | None, capabilities: Sequence[str] | None, root: str | None, uid: int | None
) -> tuple[identity.User, int, Sandbox | None]:
    """Who a server is, the capabilities it keeps, and its sandbox (uid: as whom it is in one, None:
    in none). OSError for a user or a capability that there is not."""
    if uid is None:
        who = identity.look_up(user, root)
        return who, identity.capabilities(capabilities, who.uid), None
    from viscum.kernel import sandbox

    return identity.sandboxed(uid), 0, sandbox.Sandbox()


def environment(user: identity.User, more: Mapping[str, str]) -> dict[str, str]:
    """A server's: little, and what its spec gives."""
    least = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": user.home, "USER": user.name}
    return least | {"LOGNAME": user.name, **more}


def join(step: Step, group: Group, server: Process, more: int = 0) -> None:
    """Moves the caller, which is about to be something else, to where the server runs. more: flags
    of namespaces beside those every server has."""
    step("join the control group", group.path)
    group.join()
    step("enter the namespaces of", f"process {server.pid}")
    sys.setns(server.fd, sys.CLONE_NEWNET | sys.CLONE_NEWNS | more)


def exec_in(
    group: Group, argv: Sequence[str], *, user: str | None = None, directory: str = "/"
) -> int:
    """Run a program inside a running instance, on the caller's terminal; returns its exit status
    (128 + n if signal n ended it).

    It joins the instance's control group, network and mount namespaces. With the caller's
    capabilities, so that an operator can look around in there, unless `user` is given.
    ProcessLookupError if the instance has no process; LaunchError if the program can't be run.
    """
    server = main(group)
    if server is None:
        raise ProcessLookupError(errno.ESRCH, "no process is running in", group.path)
    given = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", "USER": "root"}
    given |= {k: os.environ[k] for k in ("TERM", "COLORTERM") if k in os.environ}
    with server as inside:
        who = identity.look_up(user, f"/proc/{inside.pid}/root")
        keep = identity.capabilities(None, who.uid)

        def set_up(step: Step) -> None:
            join(step, group, inside)
            if user is not None:
                step("become user", user)
                identity.become(who, keep, no_new_privileges=True)
            step("change to directory", directory)
            os.chdir(directory)

        # The terminal's interrupt is for the program in there, which shares our process group.
        old = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            pid = spawn(tuple(argv), given, set_up, foreground=True)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            signal.signal(signal.SIGINT, old)
    return status if status >= 0 else 128 - status


class Process(Struct):
    """One process by pidfd. ProcessLookupError if it is not there (any more)."""

    pid: int
    fd: int = -1
    _status: int | None = None

    def __post_init__(self) -> None:
        self.fd = sys.pidfd_open(self.pid)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def fileno(self) -> int:
        """Readable once the process has ended."""
        return self.fd

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it has ended within `timeout` seconds (None: for ever)."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def send(self, number: int) -> bool:
        """Send a signal; False if it has ended."""
        return sys.pidfd_send_signal(self.fd, number)

    def how_it_ended(self) -> int | None:
        """Of any ended process, our child or not: 0 … 255, or 128 + signal. None if its parent has
        collected it and the kernel is older than 6.15, which tells no more."""
        number = _zombie(self.pid)
        if number is None:
            number = sys.pidfd_exit_code(self.fd)
        if number is None:
            return None
        code = os.waitstatus_to_exitcode(number)
        return code if code >= 0 else 128 - code

    def exit_status(self) -> int | None:
        """Of an ended process that is our child, which is collected: 0 … 255, or 128 + signal."""
        if self._status is None:
            try:
                result = os.waitid(os.P_PIDFD, self.fd, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return None
            if result is not None:
                ended = result.si_code == os.CLD_EXITED
                self._status = result.si_status if ended else 128 + result.si_status
        return self._status


def in_words(status: int) -> str:
    """What an exit status of 0 … 255 or 128 + signal says."""
    if status > 128:
        try:
            return f"was killed by {signal.Signals(status - 128).name}"
        except ValueError:
            pass
    return f"ended with status {status}"


def _zombie(pid: int) -> int | None:
    """The wait(2) status of a process that has ended and is not collected yet: proc_pid_stat(5),
    exit_code (52). None if it is no zombie."""
    try:
        fields = knobs.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[49]) if fields[0] == "Z" else None


def roots(group: Group, pids: list[int] | None = None) -> list[int]:
    """The group's processes whose parent is outside of it, oldest first. pids: all of them, if
    they are known already."""
    if pids is None:
        pids = group.pids()
    inside = set(pids)
    found = []
    for pid in pids:
        try:
            # proc(5): the name (2) is in brackets and may contain anything
            fields = knobs.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent, started = fields[0], int(fields[1]), int(fields[19])
        if parent not in inside and state not in "ZX":
            found.append((started, pid))
    return [pid for _, pid in sorted(found)]


def main_pid(group: Group, pids: list[int] | None = None) -> int | None:
    """The server: the oldest process whose parent is outside the group; None if there is none."""
    return next(iter(roots(group, pids)), None)


def opened(group: Group, pid: int) -> Process | None:
    """One of the group's, by pidfd; None if it has ended.

    Its number may be another process' by the time that is opened, which then is not in the group.
    """
    try:
        found = Process(pid)
    except ProcessLookupError:
        return None
    if pid in group.pids():
        return found
    found.close()
    return None


def main(group: Group) -> Process | None:
    """The server (`main_pid`), by pidfd."""
    pid = main_pid(group)
    return None if pid is None else opened(group, pid)


class Stopped(Struct, frozen=True):
    """How an instance ended."""

    by_itself: bool  # the main process ended within the time it was given
    killed: int  # processes that had to be killed


def stop(group: Group, timeout: float, number: int = signal.SIGTERM) -> Stopped:
    """Ask the server to end, wait up to `timeout` seconds, kill whatever is left in the group.

    As systemd's KillMode=mixed: only the main process (and any other whose parent is outside the
    group) is asked, its children are its own business; everything still there after that, in
    sessions of their own or not, is killed. Returns when the group is empty; TimeoutError if it
    is not 10 s after the kill (a process stuck in the kernel), or soon if all were killed before.
    """
    stuck = _are_killed(group.pids())
    deadline = time.monotonic() + (0.0 if stuck else timeout)
    asked = [found for pid in roots(group) if (found := opened(group, pid)) is not None]
    try:
        for process in asked:
            process.send(number)
        ended = [process.wait(max(0.0, deadline - time.monotonic())) for process in asked]
    finally:
        for process in asked:
            process.close()
    left = len(group.pids())
    group.kill()
    if not group.wait_empty(0.5 if stuck else 10):
        raise TimeoutError(errno.ETIMEDOUT, "still there after SIGKILL", group.path)
    return Stopped(all(ended), left)


def _are_killed(pids: list[int]) -> bool:
    """Whether they are only to die, and do not: SIGKILL is pending for all of them (proc(5))."""
    return bool(pids) and all(map(_is_killed, pids))


def _is_killed(pid: int) -> bool:
    try:
        lines = knobs.read(f"/proc/{pid}/status").split("\n")
    except (FileNotFoundError, ProcessLookupError):
        return True
    masks = [line.split()[1] for line in lines if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(int(mask, 16) >> (signal.SIGKILL - 1) & 1 for mask in masks)


def spawn(
    argv: tuple[str, ...],
    environment: Mapping[str, str],
    set_up: Callable[[Step], None],
    foreground: bool,
    timeout: float | None = None,
    needed: Collection[int] | None = None,
) -> int:
    """Fork, `set_up` in the child, exec. How that went comes back by a pipe that exec closes: the
    pid, "ready" just before the exec, and if anything fails "failed", errno, text and object.
    If nobody is there to read it any more, the child ends as well. One in the foreground that has
    not got so far after `timeout` seconds (a frozen control group) is killed. needed: of the
    caller's descriptors by `set_up`; None: all are there until the exec, its lock among them."""
    reader, writer = os.pipe()
    forked = os.fork()
    if forked == 0:
        os.close(reader)
        try:
            if foreground or os.fork() == 0:
                _child(argv, environment, set_up, writer, needed)
        finally:
            os._exit(127 if foreground else 0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        if not foreground:
            os.waitpid(forked, 0)
        elif timeout is not None and not _closed(reader, timeout):
            os.kill(forked, signal.SIGKILL)
        said = pipe.read().decode(errors="replace").split("\0")
    if "ready" in said and "failed" not in said:
        return int(said[0])
    if foreground:
        os.waitpid(forked, 0)
    if "failed" in said:
        number, text, name = said[said.index("failed") + 1 :][:3]
        raise LaunchError(int(number), text, name or None)
    raise LaunchError(errno.ECHILD, "killed while it was set up (too small a limit?)", argv[0])


def _closed(reader: int, timeout: float) -> bool:
    """Whether everybody who could write to the pipe has closed it within that time."""
    poll = select.poll()
    poll.register(reader, 0)  # tells of a hang-up alone
    return bool(poll.poll(timeout * 1000))


def _child(
    argv: tuple[str, ...],
    environment: Mapping[str, str],
    set_up: Callable[[Step], None],
    writer: int,
    needed: Collection[int] | None,
) -> None:
    at = ("start", "")

    def step(what: str, name: str) -> None:
        nonlocal at
        at = what, name

    try:
        # What is told to this process is not for the event loop of the one it was forked from.
        signal.set_wakeup_fd(-1)
        # Python ignores SIGPIPE and SIGXFSZ, nohup SIGHUP; all that would survive the exec.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.write(writer, f"{os.getpid()}\0".encode())
        most = os.sysconf("SC_OPEN_MAX")  # before set_up lowers it
        if needed is not None:
            _close_but({writer, *needed}, most)
        set_up(step)
        step("execute", argv[0])
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # Before the caller's descriptors go, its lock among them: a child that ends here because
        # the caller was killed is not to be seen by the next command as a server that runs.
        os.write(writer, b"ready\0")
        os.dup2(writer, 3, inheritable=False)
        writer = 3
        os.closerange(4, most)
        _execute(argv, environment)
    except Exception as error:  # whatever it is, the parent is the one to raise it
        code, text, name = errno.EINVAL, str(error), at[1]
        if isinstance(error, OSError) and error.errno is not None:
            code, text = error.errno, error.strerror or ""
            if at[0] == "execute" and error.filename:
                name = error.filename
        os.write(writer, f"failed\0{code}\0{at[0]}: {text}\0{name}\0".encode())


def _close_but(kept: set[int], most: int) -> None:
    first = 3
    for fd in (*sorted(kept), most):
        os.closerange(first, fd)
        first = fd + 1


def _execute(argv: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """execve(2), along the *new* environment's PATH if there is no slash in the name."""
    name = argv[0]
    where = [name]
    if "/" not in name:
        where = [f"{d or '.'}/{name}" for d in environment.get("PATH", PATH).split(":")]
    failed = OSError(errno.ENOENT, "not found along PATH", name)
    for path in where:
        try:
            os.execve(path, argv, environment)
        except OSError as error:
            if error.errno == errno.ENOENT and os.path.exists(path):
                failed = OSError(errno.ENOENT, "its interpreter or loader is missing", path)
            elif error.errno != errno.ENOENT or len(where) == 1:
                failed = OSError(error.errno, os.strerror(error.errno or 0), path)
    raise failed
