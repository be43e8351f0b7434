"""Who a server is: its user and groups, and what that user may do.

Names and numbers are those of the box, or of an unpacked root file system.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence

from msgspec import Struct

from viscum.kernel import syscalls as sys
from viscum.spec.values import CAPABILITIES

NUMBERS = {name: number for number, name in enumerate(CAPABILITIES)}

# What a server that starts as root and then drops to a user of its own (nginx, dnsmasq) needs.
# Left out, of what container engines keep: net-raw, mknod, sys-chroot, setfcap, setpcap, fsetid,
# audit-write. `kill` is in although instances share the box's process ids: user 0 may signal all
# of user 0's processes anyway, and without it a root master can't end its unprivileged workers.
# Who wants a server to be harmless gives it a `user`.
ROOT_CAPABILITIES = (
    "chown",
    "dac-override",
    "fowner",
    "kill",
    "net-bind-service",
    "setgid",
    "setuid",
)
USER_CAPABILITIES = ("net-bind-service",)


class User(Struct, frozen=True):
    uid: int
    gid: int
    groups: tuple[int, ...]  # the supplementary ones, gid among them
    name: str
    home: str


def look_up(spec: str | None, root: str | None = None) -> User:
    """`name`, `uid`, `name:group`, `uid:gid`; None is root. Without a group: all of the user's.

    A number needs no entry. With `root` its /etc/passwd and /etc/group are read directly: the
    resolver's plug-ins would come from the wrong file system. OSError ENOENT names what is not
    there.
    """
    name, _, group = (spec or "0").partition(":")
    user = _box_user(name) if root is None else _file_user(name, root)
    if user is None:
        if not name.isdecimal():
            raise OSError(errno.ENOENT, "no such user", name)
        home, label = ("/root", "root") if name == "0" else ("/", name)
        user = User(int(name), int(name), (int(name),), label, home)
    if not group:
        return user
    gid = _box_group(group) if root is None else _file_group(group, root)
    if gid is None:
        if not group.isdecimal():
            raise OSError(errno.ENOENT, "no such group", group)
        gid = int(group)
    return User(user.uid, gid, (gid,), user.name, user.home)


def sandboxed(uid: int) -> User:
    """A user of no group but its own, without a name or a home."""
    return User(uid, uid, (), str(uid), "/tmp")


def holder(uid: int) -> str:
    """Who has this uid or gid on the box already, in words: a user, a group, a range of
    subuid(5) or subgid(5); "" if nobody has."""
    if user := _box_user(str(uid)):
        return f"user {user.name}"
    import grp

    try:
        return f"group {grp.getgrgid(uid).gr_name}"
    except KeyError:
        pass
    for path in ("/etc/subuid", "/etc/subgid"):
        for owner, first, count in _ranges(path):
            if first <= uid < first + count:
                return f"{owner} in {path}"
    return ""


def _ranges(path: str) -> list[tuple[str, int, int]]:
    if not os.path.exists(path):
        return []
    with open(path, errors="replace") as file:
        lines = [line.strip().split(":") for line in file]
    return [
        (f[0], int(f[1]), int(f[2]))
        for f in lines
        if len(f) == 3 and f[1].isdecimal() and f[2].isdecimal()
    ]


def _box_user(name: str) -> User | None:
    import pwd

    try:
        found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        return None
    groups = os.getgrouplist(found.pw_name, found.pw_gid)
    return User(found.pw_uid, found.pw_gid, tuple(groups), found.pw_name, found.pw_dir)


def _box_group(name: str) -> int | None:
    import grp

    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _file_user(name: str, root: str) -> User | None:
    for login, _, uid, gid, _, home, _ in _lines(f"{root}/etc/passwd", 7):
        if name in (login, uid):
            more = (g[2] for g in _lines(f"{root}/etc/group", 4) if login in g[3].split(","))
            groups = tuple(sorted({int(gid), *map(int, more)}))
            return User(int(uid), int(gid), groups, login, home)
    return None


def _file_group(name: str, root: str) -> int | None:
    lines = _lines(f"{root}/etc/group", 4)
    return next((int(g[2]) for g in lines if name in (g[0], g[2])), None)


def _lines(path: str, fields: int) -> list[list[str]]:
    """Well-formed lines of a passwd-like file (passwd(5)); none if there is no such file."""
    if not os.path.exists(path):
        return []
    with open(path, errors="replace") as file:
        lines = [line.rstrip("\n").split(":") for line in file]
    return [f for f in lines if len(f) == fields and f[2].isdecimal()]


def mask(names: Iterable[str]) -> int:
    try:
        return sum({1 << NUMBERS[name] for name in names})
    except KeyError as error:
        raise OSError(errno.EINVAL, "no such capability", error.args[0]) from None


def capabilities(names: Sequence[str] | None, uid: int) -> int:
    """Bit mask of what a server keeps; None: the default of root or of any other user.

    The default is cut to what the caller has; what was asked for by name and can't be given is
    OSError EPERM, a name that is none EINVAL.
    """
    own = sys.capget()[1]
    if names is None:
        return mask(USER_CAPABILITIES if uid else ROOT_CAPABILITIES) & own
    for name in names:
        if not mask([name]) & own:
            raise OSError(errno.EPERM, "a capability that the caller lacks itself", name)
    return mask(names)


def become(user: User, keep: int, no_new_privileges: bool) -> None:
    """capabilities(7): the bounding set first, while that is still allowed; the ambient set last,
    which is what makes them survive the exec of a program that knows nothing of them."""
    for number in range(_last_capability() + 1):
        if not keep >> number & 1:
            sys.prctl(sys.PR_CAPBSET_DROP, number)
    sys.prctl(sys.PR_SET_KEEPCAPS, 1)
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    sys.capset(keep, keep, keep)
    sys.prctl(sys.PR_CAP_AMBIENT, sys.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(keep.bit_length()):
        if keep >> number & 1:
            sys.prctl(sys.PR_CAP_AMBIENT, sys.PR_CAP_AMBIENT_RAISE, number)
    if no_new_privileges:
        sys.prctl(sys.PR_SET_NO_NEW_PRIVS, 1)


def _last_capability() -> int:
    """The kernel's own number of capabilities, which may be more than this program knows."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())
