"""Control groups: how an instance is limited, found again, and ended.

A `Group` is one path ("viscum/web/2.0") in every hierarchy that matters: the unified one, and on
hybrid boxes the v1 hierarchies of cpu, memory and pids. It is relative to a hierarchy's root and
never lies below the caller's own group: a service must not die with a login. The unified
hierarchy (or, on a box that has none, a v1 one) is its *home*, where it is found and killed.

Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the kernel. All errors are
OSError with the control file as `filename`.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time

from msgspec import Struct

from viscum.kernel import cgroupfs as fs
from viscum.kernel import knobs

CPU_PERIOD_USEC = 100_000
GONE = (errno.ENOENT, errno.ENODEV)  # no such group, or it was removed meanwhile
CPU_MIN = 0.01  # of a processor: the kernel's shortest quota is 1 ms per period


def available() -> frozenset[str]:
    """Which of `cpu`, `memory` and `processes`' controllers ("cpu", "memory", "pids") are there."""
    return fs.hierarchies().available()


class Usage(Struct, frozen=True):
    """What a group has used; None where the kernel does not say."""

    cpu_usec: int | None = None
    throttled_usec: int | None = None
    memory: int | None = None  # bytes
    memory_peak: int | None = None  # bytes
    oom_kills: int | None = None
    processes: int | None = None  # threads, as the pids controller counts


class Group(Struct, frozen=True):
    """One path in all hierarchies. Cheap to make; nothing is touched until a method is called."""

    path: str

    def __post_init__(self) -> None:
        if not self.path or {"", ".", ".."} & set(self.path.split("/")):
            raise ValueError(f"not a control group: {self.path!r}")

    def _home(self) -> str:
        roots = fs.hierarchies().roots
        if not roots:
            raise OSError(errno.ENOTSUP, "no control groups are mounted", "/sys/fs/cgroup")
        return f"{roots[0]}/{self.path}"

    def directory(self, controller: str) -> str | None:
        """The group's directory in the hierarchy that has `controller`."""
        here = fs.hierarchies()
        for name, root in here.v1:
            if name == controller:
                return f"{root}/{self.path}"
        if here.unified and controller in here.available():
            return f"{here.unified}/{self.path}"
        return None

    def exists(self) -> bool:
        return any(os.path.isdir(f"{root}/{self.path}") for root in fs.hierarchies().roots)

    def create(self) -> tuple[str, ...]:
        """Make the group everywhere, with the limits' controllers switched on down to it.

        Returns the controllers that had to be switched on in the unified hierarchy's *root*,
        which is the box's and stays so: something to tell the user (empty on most boxes, since
        systemd and container engines do the same).
        """
        self._home()
        here = fs.hierarchies()
        for root in here.roots:
            if root != here.unified:
                os.makedirs(f"{root}/{self.path}", exist_ok=True)
        if here.unified is None:
            return ()
        wanted = set(fs.CONTROLLERS) & set(knobs.read(f"{here.unified}/cgroup.controllers").split())
        at_root: tuple[str, ...] = ()
        parent = here.unified
        for step in self.path.split("/"):
            on = set(knobs.read(f"{parent}/cgroup.subtree_control").split())
            missing = tuple(sorted(wanted - on))
            if missing:
                knobs.write(f"{parent}/cgroup.subtree_control", " ".join(f"+{c}" for c in missing))
                at_root = at_root or (missing if parent == here.unified else ())
            parent = f"{parent}/{step}"
            try:
                os.mkdir(parent)
            except FileExistsError:
                pass
        return at_root

    def set_limits(
        self, *, cpu: float | None = None, memory: int | None = None, processes: int | None = None
    ) -> None:
        """Processors (0.5: half of one), bytes, and threads at most; None: unlimited.

        In place, also for running processes. EBUSY: more memory is in use (v1 only) and can't
        be reclaimed; ENOTSUP: the box has no such controller.
        """
        quota = None if cpu is None else _quota(cpu)
        if path := self._limited("cpu", cpu):
            if os.path.exists(f"{path}/cpu.max"):
                knobs.write(
                    f"{path}/cpu.max", f"{'max' if quota is None else quota} {CPU_PERIOD_USEC}"
                )
            else:
                knobs.write(f"{path}/cpu.cfs_period_us", str(CPU_PERIOD_USEC))
                knobs.write(f"{path}/cpu.cfs_quota_us", str(-1 if quota is None else quota))
        if path := self._limited("memory", memory):
            if os.path.exists(f"{path}/memory.max"):
                knobs.write(f"{path}/memory.max", "max" if memory is None else str(memory))
            else:
                knobs.write(f"{path}/memory.limit_in_bytes", str(-1 if memory is None else memory))
        if path := self._limited("pids", processes):
            knobs.write(f"{path}/pids.max", "max" if processes is None else str(processes))

    def _limited(self, controller: str, value: float | None) -> str | None:
        path = self.directory(controller)
        if path is None and value is not None:
            raise OSError(errno.ENOTSUP, f"no {controller} controller on this box", self.path)
        return path

    def limits(self) -> tuple[float | None, int | None, int | None]:
        """(processors, bytes, threads) as the kernel has them, None: unlimited: what `rounded`
        makes of the arguments of `set_limits`."""
        cpu: float | None = None
        if path := self.directory("cpu"):
            quota, period = fs.words(f"{path}/cpu.max") or (
                fs.number(f"{path}/cpu.cfs_quota_us"),
                fs.number(f"{path}/cpu.cfs_period_us"),
            )
            if quota is not None and period and quota > 0:
                cpu = quota / period
        memory = processes = None
        if path := self.directory("memory"):
            memory = fs.number(f"{path}/memory.max")
            if memory is None:
                memory = fs.number(f"{path}/memory.limit_in_bytes")
            if memory is not None and memory >= fs.V1_UNLIMITED:
                memory = None
        if path := self.directory("pids"):
            processes = fs.number(f"{path}/pids.max")
        return cpu, memory, processes

    def join(self, pid: int = 0) -> None:
        """Move a process (0: the caller) here; the home first, so that it can be found at once."""
        for root in fs.hierarchies().roots:
            knobs.write(f"{root}/{self.path}/cgroup.procs", str(pid))

    def pids(self) -> list[int]:
        """Processes in the group and below it; none if it does not exist."""
        found: set[int] = set()
        for path in fs.walk(self._home()):
            try:
                found.update(int(pid) for pid in knobs.read(f"{path}/cgroup.procs").split())
            except OSError as error:
                if error.errno not in GONE:
                    raise
        return sorted(found)

    def wait_empty(self, timeout: float | None) -> bool:
        """Whether the last process has gone within `timeout` seconds (None: for ever)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            fd = os.open(f"{self._home()}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._wait_each(deadline)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            while b"populated 1" in os.pread(fd, 4096, 0):
                if not poll.poll(_left_ms(deadline)):
                    return False
            return True
        except OSError as error:
            if error.errno != errno.ENODEV:  # the group was removed
                raise
            return True
        finally:
            os.close(fd)

    def _wait_each(self, deadline: float | None) -> bool:
        """v1 has no cgroup.events: wait for one process after the other."""
        while pids := self.pids():
            try:
                fd = os.pidfd_open(pids[0])
            except ProcessLookupError:
                continue
            try:
                if not select.select([fd], [], [], _left(deadline))[0]:
                    return False
            finally:
                os.close(fd)
        return True

    def populated(self) -> bool:
        return not self.wait_empty(0)

    def freeze(self, frozen: bool = True) -> None:
        """Stop every process where it is, or let all go on (v2 only)."""
        knobs.write(f"{self._home()}/cgroup.freeze", "1" if frozen else "0")

    def kill(self) -> None:
        """SIGKILL to every process in the group and below, also those that are just forking."""
        try:
            knobs.write(f"{self._home()}/cgroup.kill", "1")
            return
        except OSError as error:
            if error.errno not in GONE:  # also before Linux 5.14, and v1
                raise
        try:
            self.freeze()
        except OSError as error:
            if error.errno not in GONE:
                raise
        end = time.monotonic() + 5  # for a process that is stuck in the kernel
        while (pids := self.pids()) and time.monotonic() < end:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self._wait_each(time.monotonic() + 1)

    def remove(self) -> None:
        """Remove the group, those below it, and parents left empty. EBUSY: it has processes."""
        for root in reversed(fs.hierarchies().roots):  # the home last: it is how the rest is found
            path = f"{root}/{self.path}"
            for below in reversed(list(fs.walk(path))):
                fs.rmdir(below)
            parent = os.path.dirname(path)
            while parent != root:
                try:
                    os.rmdir(parent)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY):
                        raise
                parent = os.path.dirname(parent)

    def usage(self) -> Usage:
        home = self._home()
        cpu, memory, pids = (self.directory(name) for name in fs.CONTROLLERS)
        v1_memory = fs.number(f"{memory}/memory.usage_in_bytes")
        time_ns = fs.field(f"{cpu}/cpu.stat", "throttled_time")
        oom_kills = fs.field(f"{memory}/memory.events", "oom_kill")
        return Usage(
            cpu_usec=fs.field(f"{home}/cpu.stat", "usage_usec"),
            throttled_usec=fs.field(f"{cpu}/cpu.stat", "throttled_usec")
            if time_ns is None
            else time_ns // 1000,
            memory=fs.number(f"{memory}/memory.current") if v1_memory is None else v1_memory,
            memory_peak=fs.number(
                f"{memory}/memory.{'peak' if v1_memory is None else 'max_usage_in_bytes'}"
            ),
            oom_kills=fs.field(f"{memory}/memory.oom_control", "oom_kill")
            if oom_kills is None
            else oom_kills,
            processes=fs.number(f"{pids}/pids.current"),
        )


def rounded(
    cpu: float | None, memory: int | None, processes: int | None
) -> tuple[float | None, int | None, int | None]:
    """What `Group.limits` reads after `Group.set_limits`: whole microseconds, whole pages."""
    page = os.sysconf("SC_PAGE_SIZE")
    return (
        None if cpu is None else _quota(cpu) / CPU_PERIOD_USEC,
        None if memory is None else memory // page * page,
        processes,
    )


def _quota(cpu: float) -> int:
    return max(round(cpu * CPU_PERIOD_USEC), round(CPU_MIN * CPU_PERIOD_USEC))


def groups(prefix: str, depth: int = 2) -> list[str]:
    """Paths `depth` below `prefix` in any hierarchy, and childless ones nearer to it.

    The latter are what a command killed half-way through `create` or `remove` leaves behind.
    """
    found: set[str] = set()
    for root in fs.hierarchies().roots:
        for path in fs.walk(f"{root}/{prefix}"):
            name = path[len(root) + 1 :]
            level = name.count("/") - prefix.count("/")
            if level == depth or (level < depth and not any(fs.children(path))):
                found.add(name)
    return sorted(name for name in found if not any(n.startswith(f"{name}/") for n in found))


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _left_ms(deadline: float | None) -> float | None:
    left = _left(deadline)
    return None if left is None else left * 1000
