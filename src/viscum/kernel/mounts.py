"""What an instance sees of the file system, as a list of operations applied in its own mount
namespace between fork and exec.

Without a root file system of its own it sees the box's, but with a private /tmp and /run, its own
resolv.conf and hosts, a sysfs of its own network namespace and /proc/sys read-only. With one
(`root`), it sees that, with the same things mounted into it and a minimal /dev.

Everything is a slave of the box's mounts: what the operator unmounts goes away here too, and
nothing done here is seen outside. The namespace, and all of this, ends with its last process.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from viscum.kernel import knobs
from viscum.kernel.syscalls import (
    MNT_DETACH,
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SLAVE,
    mount,
    pivot_root,
    umount2,
)

PRIVATE = ("/tmp", "/run")
# The kernel frees nothing in a tmpfs by itself, and memory is what a router has least of.
TMP_SIZE = "size=16m"
RUN_SIZE = "size=4m"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_INERT = MS_NOSUID | MS_NODEV | MS_NOEXEC


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: `what` it does to which `path` (for the error), and the doing."""

    what: str
    path: str
    apply: Callable[[], None]


def view(root: str | None, files: Mapping[str, str], hidden: tuple[str, ...] = ()) -> list[Step]:
    """The operations, for a process alone in a new mount namespace (and its network namespace).

    files: path → text the instance finds there (/etc/resolv.conf, /etc/hosts). hidden: directories
    of the box covered by an empty one (those of state and settings). Each step may raise OSError.
    """
    steps = [_mount("detach from the box's mounts", None, "/", None, MS_REC | MS_SLAVE)]
    if root is not None:
        steps += _root(os.path.abspath(root))
    else:
        # As `ip netns exec` does it: the old one (and the cgroups and bpffs mounted below it) goes.
        steps.append(Step("unmount", "/sys", lambda: detach("/sys")))
        steps.append(_mount("mount sysfs", "sysfs", "/sys", "sysfs", _INERT | MS_RDONLY))
        # Covered only, it would pin every other service's network namespace (a bind mount in
        # /run/netns) for as long as this one lives, and name the others in /proc/self/mountinfo.
        steps.append(Step("unmount", "/run", lambda: clear("/run")))
    steps += [
        Step("mount a private", "/tmp", lambda: _tmpfs("/tmp", f"mode=1777,{TMP_SIZE}")),
        Step("mount a private", "/run", lambda: _tmpfs("/run", f"mode=0755,{RUN_SIZE}")),
        Step("make read-only", "/proc/sys", lambda: _read_only("/proc/sys")),
    ]
    steps.append(Step("make room in", "/etc", lambda: _make_room(files, on_box=root is None)))
    if root is None:  # not before: an overlay shows what was hidden below it
        steps += [Step("hide", path, hide(path)) for path in hidden if not is_private(path)]
    return steps + [Step("write", path, _write(path, text)) for path, text in files.items()]


def is_private(path: str) -> bool:
    """Whether a path of the box is one that an instance (without a root of its own) cannot see."""
    return _in_private(os.path.realpath(path))


def _mount(what: str, source: str | None, target: str, kind: str | None, flags: int) -> Step:
    return Step(what, target, lambda: mount(source, target, kind, flags))


def detach(*paths: str) -> None:
    """Unmount each with all below it, if it is a mount."""
    for path in paths:
        try:
            umount2(os.path.realpath(path), MNT_DETACH)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # not a mount point, not there
                raise


def mount_points() -> list[tuple[str, list[str]]]:
    """(path, options) of every mount of this namespace, in the order they were made: proc(5)."""
    lines = [line.split(" ") for line in knobs.read("/proc/self/mountinfo").split("\n") if line]
    octal = re.compile(r"\\(\d{3})")
    return [(octal.sub(lambda m: chr(int(m[1], 8)), f[4]), f[5].split(",")) for f in lines]


def clear(path: str) -> None:
    """Unmounts it and everything below it."""
    real = os.path.realpath(path)
    for point, _ in reversed(mount_points()):
        if f"{point}/".startswith(f"{real}/"):
            detach(point)


def _tmpfs(path: str, options: str) -> None:
    # realpath: on OpenWrt /run is a link to /var/run and that to /tmp/run, which is gone since
    # /tmp was mounted a step ago; and in a root file system it may just be missing.
    path = os.path.realpath(path)
    os.makedirs(path, exist_ok=True)
    mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options)


def hide(path: str) -> Callable[[], None]:
    """Covers a directory, if there is one, with an empty one."""

    def cover() -> None:
        if os.path.isdir(path):
            clear(path)
            mount("tmpfs", path, "tmpfs", _INERT | MS_RDONLY, "size=4k,mode=0555")

    return cover


def _read_only(path: str) -> None:
    """User 0 may write most of /proc/sys without any capability: core_pattern, for one."""
    mount(path, path, None, MS_BIND)
    mount(None, path, None, MS_BIND | MS_REMOUNT | MS_RDONLY | _INERT)


def _make_room(files: Mapping[str, str], on_box: bool) -> None:
    """Let there be something to mount each file on. In a root file system that is an empty file,
    as engines make it; on the box, where nothing may be left behind, an overlay on its directory
    (whose upper half is private, so what the server writes there goes with it)."""
    reals = [os.path.realpath(path) for path in files]
    missing = [real for real in reals if not os.path.lexists(real) and not _in_private(real)]
    if not on_box:
        for real in missing:
            os.makedirs(os.path.dirname(real), exist_ok=True)
            _create(real, "")
        return
    for number, directory in enumerate(sorted({os.path.dirname(real) for real in missing})):
        upper, work = (f"{_real_run()}/.viscum-{name}{number}" for name in ("upper", "work"))
        for path in (upper, work):
            os.mkdir(path)
        options = f"lowerdir={directory},upperdir={upper},workdir={work}"
        try:
            mount("overlay", directory, "overlay", 0, options)
        except OSError as error:
            text = f"{missing[0]} is missing and there is no overlayfs; make the file (touch)"
            raise OSError(error.errno, text, directory) from None


def _write(path: str, text: str) -> Callable[[], None]:
    def write() -> None:
        real = os.path.realpath(path)  # often a link into /run, which is private and empty by now
        if _in_private(real):
            os.makedirs(os.path.dirname(real), exist_ok=True)
        if not os.path.lexists(real):
            _create(real, text)
            return
        scratch = f"{_real_run()}/.viscum"
        _create(scratch, text)
        mount(scratch, real, None, MS_BIND)
        os.unlink(scratch)  # the mount keeps the file

    return write


def _real_run() -> str:
    return os.path.realpath("/run")


def _in_private(real: str) -> bool:
    return any(f"{real}/".startswith(f"{os.path.realpath(private)}/") for private in PRIVATE)


def _create(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _root(root: str) -> list[Step]:
    """Make `root` the root file system. Mount points it lacks are made in it, as engines do."""

    def directories() -> None:
        for name in ("proc", "sys", "dev", "tmp", "run"):
            if not os.path.lexists(f"{root}/{name}"):
                os.mkdir(f"{root}/{name}")

    return [
        _mount("bind", root, root, None, MS_BIND | MS_REC),
        Step("make mount points in", root, directories),
        _mount("mount proc", "proc", f"{root}/proc", "proc", _INERT),
        _mount("mount sysfs", "sysfs", f"{root}/sys", "sysfs", _INERT | MS_RDONLY),
        Step("populate", f"{root}/dev", lambda: devices(f"{root}/dev")),
        Step("change root to", root, lambda: _pivot(root)),
    ]


def devices(dev: str) -> None:
    """A minimal /dev on the directory `dev`, of the nodes in the box's."""
    mount("tmpfs", dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k")
    for name in DEVICES:  # bound, not made: device nodes can't be made in every container
        os.close(os.open(f"{dev}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        mount(f"/dev/{name}", f"{dev}/{name}", None, MS_BIND)
    for name in ("pts", "shm"):
        os.mkdir(f"{dev}/{name}")
    flags = MS_NOSUID | MS_NOEXEC
    mount("devpts", f"{dev}/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=0620")
    mount("tmpfs", f"{dev}/shm", "tmpfs", _INERT, f"mode=1777,{TMP_SIZE}")
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd"}
    links |= {name: f"/proc/self/fd/{n}" for n, name in enumerate(("stdin", "stdout", "stderr"))}
    for name, target in links.items():
        os.symlink(target, f"{dev}/{name}")


def _pivot(root: str) -> None:
    os.chdir(root)
    try:
        pivot_root(".", ".")  # the old root ends up on top of the new one (pivot_root(2), NOTES)
        umount2(".", MNT_DETACH)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # The box's root is an initial ramfs, which cannot be pivoted away from: switch_root's way.
        mount(".", "/", None, MS_MOVE)
        os.chroot(".")
    os.chdir("/")
