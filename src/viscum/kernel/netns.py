"""Named network namespaces: bind mounts in /run/netns, as ip-netns(8) makes them."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from viscum.kernel import knobs, syscalls
from viscum.names import NETNS_DIR

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_OWN = "/proc/thread-self/ns/net"


def path(name: str) -> str:
    """Where the namespace's name is; ValueError if it is no name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a namespace name: {name!r}")
    return f"{NETNS_DIR}/{name}"


def create(name: str) -> int:
    """Makes the namespace (loopback down) and returns an open descriptor.

    One that is there already is opened; a plain file that a killed process left is completed.
    """
    where = path(name)
    _make_directory()
    if (fd := _open(where)) is not None:
        return fd
    with suppress(FileExistsError):
        os.close(os.open(where, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))

    def mount_new() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        syscalls.mount(_OWN, where, "none", syscalls.MS_BIND)

    syscalls.in_thread(mount_new)
    return open(name)


def attach(name: str, fd: int) -> None:
    """Gives a namespace that is open as `fd` a name, if nothing has that name."""
    where = path(name)
    _make_directory()
    if exists(name):
        return
    with suppress(FileExistsError):
        os.close(os.open(where, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    syscalls.mount(f"/proc/self/fd/{fd}", where, "none", syscalls.MS_BIND)


def open(name: str) -> int:  # noqa: A001 (netns.open reads best)
    """A close-on-exec descriptor; FileNotFoundError if there is no such namespace."""
    fd = _open(path(name))
    if fd is None:
        raise FileNotFoundError(errno.ENOENT, "no such network namespace", name)
    return fd


@contextmanager
def opened(name: str) -> Iterator[int]:
    """`open`, closed at the end of the block."""
    fd = open(name)
    try:
        yield fd
    finally:
        os.close(fd)


def own() -> int:
    """A descriptor of the namespace the calling thread is in."""
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def exists(name: str) -> bool:
    """Really a namespace, not a file left without its mount."""
    fd = _open(path(name))
    if fd is None:
        return False
    os.close(fd)
    return True


def delete(name: str) -> None:
    """Takes the name away (nothing if there is none). The namespace ends with its last process."""
    where = path(name)
    try:
        while True:  # two who made it at once have mounted it twice
            syscalls.umount2(where, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOENT):  # no mount (any more), no file
            raise
    with suppress(FileNotFoundError):
        os.unlink(where)


def names() -> list[str]:
    """Every name in the directory, also those of files without their mount."""
    try:
        return sorted(os.listdir(NETNS_DIR))
    except FileNotFoundError:
        return []


def _open(where: str) -> int | None:
    """A descriptor if a network namespace is mounted there."""
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if fcntl.ioctl(fd, _NS_GET_NSTYPE) == syscalls.CLONE_NEWNET:
            return fd
    except OSError as e:
        if e.errno not in (errno.ENOTTY, errno.EINVAL):
            os.close(fd)
            raise
    os.close(fd)
    return None


def _make_directory() -> None:
    """/run/netns as a shared mount, so that names made or deleted here are so in every mount
    namespace; locked as iproute2 does it, or two at once would mount it on itself twice."""
    os.makedirs(NETNS_DIR, 0o755, exist_ok=True)
    lock = os.open(NETNS_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        flags = syscalls.MS_SHARED | syscalls.MS_REC
        try:
            syscalls.mount("", NETNS_DIR, "none", flags)
        except OSError as e:
            if e.errno != errno.EINVAL:  # not a mount point yet
                raise
            syscalls.mount(NETNS_DIR, NETNS_DIR, "none", syscalls.MS_BIND | syscalls.MS_REC)
            syscalls.mount("", NETNS_DIR, "none", flags)
    finally:
        os.close(lock)


# ---- private mount namespaces ----------------------------------------------------------------


class _Mount(NamedTuple):
    id: int
    peer_group: str  # "shared:N", or "" if mounts are not passed on to anyone
    slave: bool


def is_private_mount_namespace() -> bool:
    """Would a mount on /run/netns made here stay unseen by the rest of the machine?

    The test is what matters, not a sign of it: the mount that holds /run/netns must be the very
    one pid 1 has there (mount ids are unique on the machine, so this is pid 1's mount namespace),
    or a member of the same peer group (mounts are passed on to each other). `ip netns exec` makes
    every mount a slave, `unshare -m` and systemd's PrivateTmp= and the like detach it: private.
    `nsenter --net=` changes nothing: not private. /proc/1/ns/mnt says less and needs more rights.
    If pid 1's mounts can't be read, a slave mount counts as private and anything else does not.
    See Documentation/filesystems/sharedsubtree.rst, proc_pid_mountinfo(5).
    """
    here = _holding("/proc/thread-self/mountinfo", NETNS_DIR)
    if here is None:
        return False
    try:
        outside = _holding("/proc/1/mountinfo", NETNS_DIR)
    except OSError:  # hidden (hidepid=)
        outside = None
    if outside is None:
        return here.slave
    if here.id == outside.id:
        return False
    return not here.peer_group or here.peer_group != outside.peer_group


def _holding(mountinfo: str, where: str) -> _Mount | None:
    """The mount that `where` lies on: of the longest mount points the last mounted."""
    best, best_length = None, -1
    for line in filter(None, knobs.read(mountinfo).split("\n")):
        fields = line.split(" ")
        point = fields[4].rstrip("/")
        if (where == point or where.startswith(point + "/")) and len(point) >= best_length:
            tags = fields[6 : fields.index("-")]
            group = next((t for t in tags if t.startswith("shared:")), "")
            slave = any(t.startswith("master:") for t in tags)
            best, best_length = _Mount(int(fields[0]), group, slave), len(point)
    return best
