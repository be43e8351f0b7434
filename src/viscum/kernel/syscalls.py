"""System calls the standard library lacks, typed, raising OSError that says what was attempted.

ctypes and libc are loaded with the first call, not with the import: a command that only asks
netlink never pays for them. Numbers are from the kernel's uapi headers named beside them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    import ctypes

P = ParamSpec("P")
T = TypeVar("T")

# linux/sched.h
CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

# linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2  # linux/fs.h
UMOUNT_NOFOLLOW = 8

# linux/mount.h, linux/fcntl.h: mount_setattr(2), since Linux 5.12; the same number everywhere
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
_NR_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

# linux/capability.h
_CAPABILITY_VERSION_3 = 0x2008_0522

# linux/falloc.h
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2


# linux/pidfd.h
_PIDFD_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11  # _IOWR(0xFF, 11, struct pidfd_info)
_PIDFD_INFO_EXIT = 1 << 3


@cache
def _libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


@cache
def _function(name: str, *types: str) -> Any:
    import ctypes

    fn = getattr(_libc(), name)
    fn.argtypes = [getattr(ctypes, t) for t in types]
    fn.restype = ctypes.c_int
    return fn


def _call(what: str, name: str, types: tuple[str, ...], *args: object) -> int:
    """Calls libc's `name`; a negative result raises OSError(errno, text, what)."""
    result: int = _function(name, *types)(*args)
    if result < 0:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", what)
    return result


def _path(path: str | os.PathLike[str] | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def setns(fd: int, nstype: int = 0) -> None:
    """Moves the calling *thread* into the namespace `fd` refers to, setns(2)."""
    _call(f"namespace of fd {fd}", "setns", ("c_int", "c_int"), fd, nstype)


def unshare(flags: int) -> None:
    """Gives the calling *thread* new namespaces, unshare(2)."""
    _call(f"flags {flags:#x}", "unshare", ("c_int",), flags)


def mount(
    source: str | os.PathLike[str] | None,
    target: str | os.PathLike[str],
    fstype: str | None = None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    """mount(2)."""
    types = ("c_char_p", "c_char_p", "c_char_p", "c_ulong", "c_char_p")
    raw = (_path(source), _path(target), _path(fstype), flags, _path(data))
    _call(os.fspath(target), "mount", types, *raw)


def mount_setattr(
    target: str | os.PathLike[str], on: int = 0, off: int = 0, *, recursive: bool = False
) -> None:
    """Switches MOUNT_ATTR_… of a mount (and all below it) on and off; OSError ENOSYS before
    Linux 5.12."""
    import ctypes

    attributes = (ctypes.c_uint64 * 4)(on, off, 0, 0)  # struct mount_attr
    types = ("c_long", "c_int", "c_char_p", "c_uint", "c_void_p", "c_size_t")
    flags = _AT_RECURSIVE if recursive else 0
    raw = (_NR_MOUNT_SETATTR, _AT_FDCWD, _path(target), flags, attributes, 32)
    _call(f"mount_setattr of {os.fspath(target)}", "syscall", types, *raw)


def umount2(target: str | os.PathLike[str], flags: int = 0) -> None:
    """umount2(2)."""
    _call(os.fspath(target), "umount2", ("c_char_p", "c_int"), _path(target), flags)


def pivot_root(new_root: str | os.PathLike[str], put_old: str | os.PathLike[str]) -> None:
    """pivot_root(2)."""
    types = ("c_char_p", "c_char_p")
    _call(os.fspath(new_root), "pivot_root", types, _path(new_root), _path(put_old))


def pidfd_open(pid: int) -> int:
    """A close-on-exec pidfd, pidfd_open(2); ProcessLookupError if there is no such process."""
    try:
        return os.pidfd_open(pid)
    except OSError as e:
        raise OSError(e.errno, f"pidfd_open: {os.strerror(e.errno or 0)}", f"pid {pid}") from None


def pidfd_send_signal(pidfd: int, number: int) -> bool:
    """Sends a signal; False if the process is gone."""
    import signal

    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2)."""
    types = ("c_int", "c_ulong", "c_ulong", "c_ulong", "c_ulong")
    return _call(f"option {option}", "prctl", types, option, arg2, arg3, arg4, arg5)


def capget() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) capabilities of the calling thread, as bit masks."""
    import ctypes

    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _call("own capabilities", "capget", ("c_void_p", "c_void_p"), header, data)
    return data[0] | data[3] << 32, data[1] | data[4] << 32, data[2] | data[5] << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Sets the capabilities of the calling thread, capset(2)."""
    import ctypes

    sets = (effective, permitted, inheritable)
    low, high = (s & 0xFFFF_FFFF for s in sets), (s >> 32 for s in sets)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(*low, *high)
    _call("own capabilities", "capset", ("c_void_p", "c_void_p"), header, data)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with a mode (bytes); os.posix_fallocate has none."""
    types = ("c_int", "c_int", "c_int64", "c_int64")
    name = "fallocate64" if hasattr(_libc(), "fallocate64") else "fallocate"
    _call(f"fd {fd}", name, types, fd, mode, offset, length)


def in_thread(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls `fn` in a new thread, whose namespaces it may change; returns or raises as it does."""
    import threading

    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(fn(*args, **kwargs))
        except BaseException as e:  # handed to the caller, whatever it is
            errors.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def in_netns(netns_fd: int, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls `fn` in a new thread that has joined the network namespace; returns what it returns.

    Whatever `fn` raises is raised here. The main thread never changes its namespace, so that
    nothing can be left in the wrong one; sockets and children made by `fn` belong to `netns_fd`.
    """

    def inside() -> T:
        setns(netns_fd, CLONE_NEWNET)
        return fn(*args, **kwargs)

    return in_thread(inside)


def pidfd_exit_code(fd: int) -> int | None:
    """The wait(2) status of an ended process, whoever's child it was, PIDFD_GET_INFO. None while it
    has not been collected, and where the kernel does not tell (PIDFD_INFO_EXIT: Linux 6.15)."""
    import fcntl
    import struct

    form = "=QQ11Ii"  # mask, cgroup id, pids and ids, exit code
    info = bytearray(struct.pack(form, _PIDFD_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(fd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask, *_, code = struct.unpack(form, info)
    return int(code) if mask & _PIDFD_INFO_EXIT else None


def boottime_ns() -> int:
    """CLOCK_BOOTTIME, the clock bpf_ktime_get_boot_ns() reads (ns)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
