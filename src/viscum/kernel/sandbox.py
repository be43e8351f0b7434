"""`sandbox = "strict"`: what is taken from a server beyond what every instance lacks.

Its own uid without a group or a capability (identity), a list of system calls (seccomp), limits
that nothing raises again, IPC and control group namespaces, and a file system in which it may write
to a few tmpfs of bounded size only, sees no process but its own and nothing private to the box.

Used between fork and exec: a `Sandbox` is made before the fork and imports all it needs.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable

from viscum.kernel import mounts, seccomp
from viscum.kernel import syscalls as sys
from viscum.kernel.mounts import Step

NAMESPACES = sys.CLONE_NEWIPC | sys.CLONE_NEWCGROUP

# Empty for a server without a root file system of its own: people's and daemons' data that the
# box may keep readable for everybody. /overlay is below OpenWrt's root, /etc/config its settings.
HIDDEN = (
    "/boot",
    "/etc/config",
    "/home",
    "/media",
    "/mnt",
    "/overlay",
    "/root",
    "/var/backups",
    "/var/lib/misc",
    "/var/log",
    "/var/mail",
    "/var/spool",
)
WRITABLE = ("/tmp", "/run", "/var/tmp", "/dev/shm")

# (soft, hard). Files: what select(2) can name, and what a server may ask for; the kernel's memory
# for them counts as the service's. Core dumps would be written, or handed to a program, by root.
LIMITS = {
    resource.RLIMIT_CORE: (0, 0),
    resource.RLIMIT_NOFILE: (1024, 16384),
    resource.RLIMIT_MEMLOCK: (65536, 65536),
    resource.RLIMIT_MSGQUEUE: (819200, 819200),
    resource.RLIMIT_NICE: (0, 0),
    resource.RLIMIT_RTPRIO: (0, 0),
}

_ATTRIBUTES = sys.MOUNT_ATTR_RDONLY | sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV
_DEV = "/run/.viscum-dev"
_INERT = sys.MS_NOSUID | sys.MS_NODEV | sys.MS_NOEXEC


class Sandbox:
    """Everything that has to be there before the fork. OSError ENOTSUP: not on this machine."""

    namespaces = NAMESPACES

    def __init__(self) -> None:
        self._filter = seccomp.Filter()

    def view(self, root: str | None) -> list[Step]:
        """See `view` below."""
        return view(root)

    def confine(self) -> None:
        """The last thing before the exec, as the user it runs as: without a way back."""
        for limit, (soft, hard) in LIMITS.items():
            most = resource.getrlimit(limit)[1]
            if most != resource.RLIM_INFINITY:
                soft, hard = min(soft, most), min(hard, most)
            resource.setrlimit(limit, (soft, hard))
        self._filter.install()


def is_hidden(path: str) -> bool:
    """Whether a path of the box is not there for a server without a root file system of its own."""
    real = os.path.realpath(path)
    return any(f"{real}/".startswith(f"{os.path.realpath(h)}/") for h in (*HIDDEN, *WRITABLE))


def view(root: str | None) -> list[Step]:
    """The operations that follow those of mounts.view."""
    steps = []
    if root is None:
        steps = [Step("hide", path, mounts.hide(path)) for path in HIDDEN]
        steps.append(Step("populate", "/dev", _devices))
    return [
        *steps,
        Step("mount proc, with hidepid, on", "/proc", _proc),
        Step("mount /tmp on", "/var/tmp", _var_tmp),
        # For pid files and sockets; sticky, for what is root's in there stays where it is.
        Step("open", "/run", lambda: os.chmod("/run", 0o1777)),
        Step("make read-only", "/", lock),
    ]


def _devices() -> None:
    """A minimal /dev in place of the box's, from whose nodes it is made."""
    os.mkdir(_DEV)
    mounts.devices(_DEV)
    mounts.detach("/dev")
    sys.mount(_DEV, "/dev", None, sys.MS_MOVE)
    os.rmdir(_DEV)


def _proc() -> None:
    """An instance of its own, which shows a user only the processes of that user: proc(5). By the
    option's name, which only kernels know whose option does not change all instances (5.8)."""
    mounts.detach("/proc")
    try:
        sys.mount("proc", "/proc", "proc", _INERT | sys.MS_RDONLY, "hidepid=invisible")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        text = "this kernel can't hide processes for one service (hidepid by mount: Linux 5.8)"
        raise OSError(errno.ENOTSUP, text, "/proc") from None


def _var_tmp() -> None:
    """The same bounded tmpfs as /tmp."""
    if os.path.isdir("/var/tmp"):
        sys.mount("/tmp", "/var/tmp", None, sys.MS_BIND)


def lock(change: Callable[..., None] = sys.mount_setattr) -> None:
    """Every mount read-only, without set-user-id programs and devices; then the few exceptions."""
    try:
        change("/", on=_ATTRIBUTES, recursive=True)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        _lock_each()
        return
    for path, off in _exceptions().items():
        if os.path.ismount(path):
            change(path, off=off)


def _exceptions() -> dict[str, int]:
    """Path of a mount → attributes it is not to have."""
    found = {os.path.realpath(path): sys.MOUNT_ATTR_RDONLY for path in WRITABLE}
    found |= {f"/dev/{name}": sys.MOUNT_ATTR_NODEV for name in mounts.DEVICES}
    return found | {"/dev/pts": sys.MOUNT_ATTR_NODEV | sys.MOUNT_ATTR_RDONLY}


# linux/mount.h: MS_RDONLY, MS_NOSUID and MS_NODEV are the MOUNT_ATTR_ of the same names
_WORDS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8}


def _lock_each() -> None:
    """The same before Linux 5.12, mount by mount."""
    exceptions = _exceptions()
    for path, options in mounts.mount_points():
        flags = sum(_WORDS.get(word, 0) for word in options)
        flags = (flags | _ATTRIBUTES) & ~exceptions.get(path, 0)
        try:
            sys.mount(None, path, None, sys.MS_BIND | sys.MS_REMOUNT | flags)
        except OSError as error:
            # Covered by another mount, so that the path leads to what can be reached, or nowhere.
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
