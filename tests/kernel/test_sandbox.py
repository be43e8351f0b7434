"""What `sandbox = "strict"` makes of an instance: who it is, what it sees and where it may write.

That what is refused stays refused against an attacker is shown by tests/e2e/test_attacks.py.
"""

from __future__ import annotations

import errno
import grp
import itertools
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.conftest import Space
from kernel.instance import Instance, instance
from support import need_program
from viscum import ops
from viscum.kernel import identity, mounts, process, sandbox, service
from viscum.kernel import syscalls as sys
from viscum.kernel.cgroup import Group
from viscum.names import UIDS, HostNames
from viscum.spec import Limits, Run

pytestmark = pytest.mark.req("C6")

FILES = {"/etc/resolv.conf": "nameserver 192.0.2.53\n", "/etc/hosts": "192.0.2.1 origin\n"}


_NUMBERS = itertools.count(UIDS | (os.getpid() & 0xFFF) << 12)


@pytest.fixture
def uid() -> int:
    """Nobody else's, not even a process's that has ended and is not collected yet."""
    return next(_NUMBERS)


@pytest.fixture
def web(space: Space) -> Iterator[Instance]:
    with instance(space.fd) as made:
        yield made


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_who_it_is(web: Instance, uid: int) -> None:
    pid = web.start("sleep", "1000", sandbox=uid)
    found = status(pid)
    assert found["Uid"].split() == found["Gid"].split() == [str(uid)] * 4
    assert found["Groups"].split() == []
    assert {found[f"Cap{n}"] for n in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (found["NoNewPrivs"], found["Seccomp"], found["Seccomp_filters"]) == ("1", "2", "1")
    for kind in ("net", "mnt", "ipc", "cgroup"):
        assert namespace(pid, kind) != namespace("self", kind)
    assert namespace(pid, "pid") == namespace("self", "pid")  # decision 19
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    has = {line[:26].strip(): line[26:].split()[:2] for line in limits}
    most = {
        "Max core file size": (0, 0),
        "Max open files": (1024, 16384),
        "Max locked memory": (65536, 65536),
        "Max nice priority": (0, 0),
        "Max realtime priority": (0, 0),
    }
    for name, (soft, hard) in most.items():  # or less, where the caller has less
        assert int(has[name][0]) <= soft, name
        assert int(has[name][1]) <= hard, name


def test_it_sees_no_process_but_its_own(web: Instance, uid: int) -> None:
    code = "echo $$; cd /proc; echo [0-9]*; cat /proc/1/comm; cat /proc/self/cgroup"
    own, processes, *rest = web.run("sh", "-c", code, sandbox=uid)
    assert processes.split() == [own]
    assert rest[0] == "cat: /proc/1/comm: No such file or directory"
    assert {line.rpartition(":")[2] for line in rest[1:]} == {"/"}  # nothing of other groups
    other = web.start("sleep", "1000", sandbox=uid + (1 << 12))  # in the same group, as another uid
    listed = web.run("sh", "-c", "cd /proc; echo [0-9]*", sandbox=uid)[0].split()
    assert str(other) not in listed
    assert len(listed) == 1


def test_the_box_shows_its_processes_as_before(web: Instance, uid: int) -> None:
    """hidepid is of the new mount only."""
    web.start("sleep", "1000", sandbox=uid)
    options = [o for line in Path("/proc/self/mountinfo").read_text().splitlines()
               if line.split()[4] == "/proc" for o in line.split()[-1].split(",")]  # fmt: skip
    assert not any(option.startswith("hidepid") for option in options)


WRITE = """
for d in / /usr /etc /var /var/lib /sys /proc /dev /boot /home /opt "$1"; do
  touch $d/x 2>/dev/null && echo wrote $d
done
for d in /tmp /var/tmp /run /dev/shm; do echo y >$d/x && echo may $d; done
echo data >/dev/null && head -c 4 /dev/urandom | wc -c
ls -A /var/tmp
"""


@pytest.mark.parametrize("how", ["mount_setattr", "mount by mount"])
def test_where_it_may_write(
    web: Instance, uid: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as before Linux 5.12, which has no call for a whole tree."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    if how == "mount by mount":
        monkeypatch.setattr(sandbox.lock, "__defaults__", (refused,))
    web.directory.chmod(0o777)
    there = Path("/srv") / f"vt-{os.getpid()}"  # /var/tmp is covered
    there.mkdir()
    there.chmod(0o777)
    try:
        lines = web.run("sh", "-c", WRITE, "sh", str(there), sandbox=uid, files=FILES)
        assert lines == [*(f"may {d}" for d in ("/tmp", "/var/tmp", "/run", "/dev/shm")), "4", "x"]
        assert list(there.iterdir()) == []
        mounted = web.run("cat", "/proc/self/mountinfo", sandbox=uid)
    finally:
        there.rmdir()
    options = {line.split()[4]: set(line.split()[5].split(",")) for line in mounted}
    writable = {path for path, words in options.items() if "rw" in words}
    assert writable <= {*sandbox.WRITABLE, "/dev/pts"}
    assert all("nosuid" in words for words in options.values())
    with_devices = {path for path, words in options.items() if "nodev" not in words}
    assert with_devices == {"/dev/pts", *(f"/dev/{name}" for name in mounts.DEVICES)}
    assert not any("/viscum" in path or "/netns" in path for path in options)


def test_what_is_the_boxes_own_is_hidden(web: Instance, uid: int) -> None:
    state = Path("/srv") / f"vt-{os.getpid()}"
    state.mkdir()
    (state / "secret").write_text("x")
    try:
        code = f"ls -A {state} {' '.join(sandbox.HIDDEN)} 2>/dev/null; ls /dev; cat /etc/shadow"
        lines = web.run("sh", "-c", f"{code}; true", sandbox=uid, hide=(str(state),))
    finally:
        shutil.rmtree(state)
    shown = lines[: lines.index("fd")]
    assert [line for line in shown if line and not line.endswith(":")] == []
    assert set(lines[lines.index("fd") : -1]) == {
        *mounts.DEVICES, "pts", "shm", "ptmx", "fd", "stdin", "stdout", "stderr"
    }  # fmt: skip
    assert lines[-1] == "cat: /etc/shadow: Permission denied"


def test_resolver_and_hosts_are_as_for_anybody(web: Instance, uid: int) -> None:
    assert web.run("cat", *FILES, files=FILES, sandbox=uid) == [
        "nameserver 192.0.2.53", "192.0.2.1 origin"
    ]  # fmt: skip
    assert web.run("getent", "hosts", "origin", files=FILES, sandbox=uid)[0].split()[0] == (
        "192.0.2.1"
    )


def test_in_a_root_of_its_own(web: Instance, uid: int) -> None:
    """Which need not be readable for others on the box: only what is in it."""
    need_program("busybox")
    root = web.directory / "root"
    for name in ("bin", "etc", "var/tmp", "www"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    for name in ("sh", "ls", "cat", "touch", "id", "httpd"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "www").chmod(0o777)
    (root / "www/index.html").write_text("from the image")
    web.directory.chmod(0o700)
    code = "id -u; ls /; touch /www/x; touch /x; touch /tmp/x && touch /var/tmp/y && ls /tmp"
    lines = web.run("sh", "-c", code, root=str(root), sandbox=uid, files=FILES)
    assert lines[0] == str(uid)
    assert "etc" in lines
    assert lines[-4:] == [
        "touch: /www/x: Read-only file system", "touch: /x: Read-only file system", "x", "y"
    ]  # fmt: skip
    web.start("httpd", "-f", "-p", "8080", "-h", "/www", root=str(root), sandbox=uid)
    assert "from the image" in web.wait_for_answer(8080)


def test_the_last_step_is_named_when_it_fails(
    web: Instance, uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox that can't be had whole is not had: the server is not started."""

    def refused(*_: object) -> None:
        raise OSError(errno.EINVAL, "no filter")

    monkeypatch.setattr("viscum.kernel.seccomp.Filter.install", refused)
    with pytest.raises(process.LaunchError, match="confine: no filter"):
        web.start("sleep", "1000", sandbox=uid)
    assert web.group.wait_empty(10)


def test_a_kernel_without_a_hidepid_by_mount_is_refused(
    web: Instance, uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = sys.mount

    def old(source: object, target: object, kind: object = None, *rest: object) -> None:
        if kind == "proc":
            raise OSError(errno.EINVAL, "bad option")
        mount(source, target, kind, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sys, "mount", old)
    with pytest.raises(process.LaunchError, match=r"can't hide processes .* Linux 5\.8"):
        web.start("sleep", "1000", sandbox=uid)
    assert web.group.wait_empty(10)


# ---- the uid ------------------------------------------------------------------------------------


def test_every_slot_of_every_host_has_a_uid_of_its_own() -> None:
    first, other = HostNames(), HostNames("/srv/other")
    assert first.uid(7) == 0x7665_3007
    uids = {host.uid(slot) for host in (first, other) for slot in range(4096)}
    assert len(uids) == 2 * 4096
    assert all(UIDS <= uid < UIDS + (1 << 24) < 1 << 31 for uid in uids)


def user_of(uid: int) -> bool:
    return any(user.pw_uid == uid for user in pwd.getpwall())


def test_a_uid_that_somebody_has_is_not_taken(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity.holder(33) == "user www-data"
    only_group = next(g.gr_gid for g in grp.getgrall() if not user_of(g.gr_gid))
    assert identity.holder(only_group) == f"group {grp.getgrgid(only_group).gr_name}"
    assert identity.holder(uid) == ""
    monkeypatch.setattr(identity, "_ranges", lambda path: [("jo", uid - 10, 11)])
    assert identity.holder(uid) == "jo in /etc/subuid"
    assert identity.holder(uid + 1) == ""


def strict_op(uid: int) -> ops.StartProcess:
    return ops.StartProcess(
        service="web", label="1.0", netns="nowhere", cgroup="viscum-nowhere/web/1.0",
        command=("true",), run=Run(sandbox="strict"), limits=Limits(), log="/nowhere/log", hide=(),
        uid=uid,
    )  # fmt: skip


def test_a_taken_uid_starts_nothing(uid: int) -> None:
    with pytest.raises(OSError, match="belongs to user www-data already: 'uid 33'"):
        service.start(strict_op(33))
    assert not Group("viscum-nowhere").exists()


def test_as_commands_there_is_no_sandbox_and_no_server(uid: int) -> None:
    """Half a sandbox would be none: the script ends and says why."""
    script = "\n".join(strict_op(uid).shell())
    done = subprocess.run(["sh", "-e", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "web runs in a sandbox, which only viscum makes" in done.stderr
