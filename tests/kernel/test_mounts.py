"""What an instance sees of the file system, and what nobody else sees of it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.conftest import NewSpace, Space
from kernel.instance import Instance, instance
from support import need_program
from viscum.kernel import mounts, process

FILES = {"/etc/resolv.conf": "nameserver 192.0.2.53\n", "/etc/hosts": "192.0.2.1 origin\n"}


@pytest.fixture
def web(space: Space) -> Iterator[Instance]:
    with instance(space.fd) as made:
        yield made


def seen(pid: int) -> Path:
    """The root directory as a process sees it."""
    return Path(f"/proc/{pid}/root")


def mount_points() -> list[str]:
    """Of this machine, but for namespaces and labs, which other tests make meanwhile."""
    with open("/proc/self/mountinfo") as file:
        points = [line.split()[4] for line in file]
    return [p for p in points if not p.startswith(("/run/netns/", "/run/viscum-lab/"))]


@pytest.mark.req("N17", "N18")
def test_tmp_and_run_are_private(web: Instance, tmp_path: Path) -> None:
    before = mount_points()
    ours, run = tmp_path / "ours", Path(f"/run/vt-{os.getpid()}")
    ours.write_text("x")
    run.write_text("x")
    try:
        code = "ls -A /tmp /run; umask 0; touch /tmp/theirs /run/theirs; stat -c %a /tmp /run"
        assert web.run("sh", "-c", code) == ["/run:", "", "/tmp:", "1777", "755"]
    finally:
        run.unlink()
    for directory in ("/tmp", "/run"):
        assert not Path(directory, "theirs").exists()
    assert mount_points() == before
    options = web.run("cat", "/proc/self/mountinfo")
    for line in options:
        if line.split()[4] in ("/tmp", "/run"):
            assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))
            assert "size=" in line


@pytest.mark.req("N17")
def test_tmp_is_limited(web: Instance) -> None:
    assert web.run("sh", "-c", "head -c 33554432 /dev/zero >/tmp/big || echo full")[-1] == "full"


@pytest.mark.req("N17")
def test_what_is_private_is_known_beforehand() -> None:
    """Validation can say that a command or directory there is not going to be found."""
    for path in ("/tmp", "/tmp/x/server", "/run/user/0", "/var/run/x"):
        assert mounts.is_private(path), path
    for path in ("/", "/var/tmp/x", "/tmpfs", "/usr/bin/env", "/runner"):
        assert not mounts.is_private(path), path


@pytest.mark.req("N17")
def test_resolver_and_hosts_are_its_own(web: Instance) -> None:
    before = {path: Path(path).read_bytes() for path in FILES}
    assert web.run("cat", *FILES, files=FILES) == ["nameserver 192.0.2.53", "192.0.2.1 origin"]
    assert web.run("getent", "hosts", "origin", files=FILES)[0].split()[0] == "192.0.2.1"
    assert {path: Path(path).read_bytes() for path in FILES} == before
    # The scratch file they were bound from is gone; the user may read but not write them.
    assert web.run("ls", "-A", "/run", files=FILES) == []
    code = "echo x >/etc/hosts || echo refused"
    assert web.run("sh", "-c", code, files=FILES, user="www-data")[-1] == "refused"


@pytest.mark.req("N17", "N18")
def test_a_link_into_run_or_a_missing_file_is_no_obstacle(web: Instance) -> None:
    """resolv.conf is a link into /run with systemd-resolved, into /tmp on OpenWrt."""
    link, missing = web.directory / "link", web.directory / "missing"
    link.symlink_to("/run/some/where/stub.conf")
    (web.directory / "other").write_text("other")
    files = {str(link): "one\n", str(missing): "two\n", **FILES}
    names = [str(link), str(missing), str(web.directory / "other"), *FILES]
    lines = ["one", "two", "othernameserver 192.0.2.53", "192.0.2.1 origin"]
    assert web.run("cat", *names, files=files) == lines
    assert not missing.exists()
    assert os.readlink(link) == "/run/some/where/stub.conf"
    assert not Path("/run/some").exists()


@pytest.mark.req("N17")
def test_the_state_directory_is_hidden(web: Instance) -> None:
    state = web.directory / "state"
    state.mkdir()
    (state / "secret").write_text("x")
    code = f"ls -A {state}; touch {state}/x || echo refused"
    lines = web.run("sh", "-c", code, hide=(str(state), "/tmp/nowhere", "/nowhere"))
    assert lines[-1] == "refused"
    assert "secret" not in lines


@pytest.mark.req("N17")
def test_the_settings_stay_hidden_where_etc_lacks_a_file(web: Instance) -> None:
    """An overlay on /etc makes room for it, and shows what is mounted below /etc no more."""
    etc = web.directory / "etc"
    (etc / "viscum").mkdir(parents=True)
    (etc / "viscum" / "secret").write_text("x")
    missing = str(etc / "resolv.conf")
    lines = web.run(
        "sh", "-c", f"cat {missing}; ls -A {etc}/viscum", files={missing: "here\n"},
        hide=(str(etc / "viscum"),),
    )  # fmt: skip
    assert lines == ["here"]


@pytest.mark.req("N17")
def test_sysfs_is_that_of_the_namespace_and_nothing_is_below_it(web: Instance) -> None:
    lines = web.run("sh", "-c", "ls /sys/class/net; echo; ls -A /sys/fs/cgroup /sys/fs/bpf")
    assert lines[: lines.index("")] == ["lo"]
    assert not any("cgroup.procs" in line or "memory" in line for line in lines)
    assert web.run("sh", "-c", "echo x >/sys/kernel/uevent_seqnum || echo refused")[-1] == "refused"


@pytest.mark.req("N17", "N18")
def test_root_without_capabilities_can_not_change_the_kernel(web: Instance) -> None:
    """User 0 owns /proc/sys/kernel/core_pattern, which names a program that real root runs."""
    setting = "/proc/sys/kernel/core_pattern"
    code = f"read -r old <{setting}; echo $old >{setting} || echo refused"
    assert web.run("sh", "-c", code, capabilities=())[-1:] == ["refused"]


@pytest.mark.req("N17")
def test_an_instance_pins_no_other_namespace(new_space: NewSpace) -> None:
    """Its mount namespace is a copy of the box's, with a bind mount of every named one in it."""
    other, own = new_space(), new_space()
    inode = os.fstat(other.fd).st_ino
    with instance(own.fd) as web:
        pid = web.start("sleep", "1000")
        mounted = Path(f"/proc/{pid}/mountinfo").read_text()
    assert f"net:[{inode}]" not in mounted
    assert "/run/netns" not in mounted


@pytest.mark.req("N17", "N18")
def test_what_is_mounted_inside_stays_inside(web: Instance) -> None:
    before = mount_points()
    code = "mount -t tmpfs none /mnt && touch /mnt/theirs && ls /mnt"
    lines = web.run("sh", "-c", code, capabilities=("sys-admin",))
    assert lines == ["theirs"]
    assert mount_points() == before


# ---- a root file system of its own --------------------------------------------------------------


@pytest.fixture
def root(web: Instance) -> Path:
    """As unpacked from an image: busybox, a user, nothing to mount on but /etc."""
    need_program("busybox")
    made = web.directory / "root"
    for name in ("bin", "etc", "www"):
        (made / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", made / "bin")
    for name in ("sh", "ls", "cat", "httpd", "id", "stat", "touch", "readlink", "sleep", "tty"):
        (made / "bin" / name).symlink_to("busybox")
    (made / "etc/passwd").write_text("root:x:0:0:::\nweb:x:777:778:Web:/www:/bin/sh\nbroken\n")
    (made / "etc/group").write_text("web:x:778:\nmore:x:779:other,web\n")
    (made / "www/index.html").write_text("from the image")
    return made


@pytest.mark.req("N17")
def test_a_server_in_a_root_of_its_own(web: Instance, root: Path) -> None:
    pid = web.start("httpd", "-f", "-p", "80", "-h", "/www", root=str(root), files=FILES)
    assert "from the image" in web.wait_for_answer()
    assert {p.name for p in seen(pid).iterdir()} == {
        *("bin", "dev", "etc", "proc", "run", "sys", "tmp", "www")
    }
    assert (seen(pid) / "etc/hosts").read_text() == FILES["/etc/hosts"]
    assert (root / "etc/hosts").read_text() == ""  # what it was mounted on
    mounted = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    assert {line.split()[4] for line in mounted} >= {"/", "/proc", "/sys", "/dev", "/tmp", "/run"}
    assert not any(line.split()[4].startswith(("/var", "/home", "/usr")) for line in mounted)
    assert process.exec_in(web.group, ["cat", "/www/index.html"]) == 0
    assert process.stop(web.group, 20).by_itself


@pytest.mark.req("N17")
def test_devices_of_a_root_of_its_own(web: Instance, root: Path) -> None:
    pid = web.start("sleep", "1000", root=str(root))
    dev = seen(pid) / "dev"
    names = {p.name for p in dev.iterdir()}
    links = {"fd", "stdin", "stdout", "stderr", "ptmx"}
    assert names == {*mounts.DEVICES, "pts", "shm", *links}
    assert all(stat.S_ISCHR((dev / name).stat().st_mode) for name in mounts.DEVICES)
    assert web.run("sh", "-c", "echo x >/dev/null; ls /dev/pts", root=str(root)) == ["ptmx"]
    assert web.run("sh", "-c", "echo to >/dev/stderr", root=str(root)) == ["to"]


@pytest.mark.req("N17")
def test_users_are_those_of_the_root(web: Instance, root: Path) -> None:
    code = "id; echo $HOME; echo $USER; touch /www/x || echo refused; touch /tmp/x && echo ok"
    lines = web.run("sh", "-c", code, root=str(root), user="web")
    assert lines[0] == "uid=777(web) gid=778(web) groups=778(web),779(more)"
    assert lines[1:3] == ["/www", "web"]
    assert lines[-2:] == ["refused", "ok"]
    assert web.run("id", "-u", root=str(root), user="777") == ["777"]
    assert web.run("id", "-g", root=str(root), user="web:more") == ["779"]
    with pytest.raises(OSError, match="no such user: 'www-data'"):
        web.start("true", root=str(root), user="www-data")


@pytest.mark.req("N17", "N18")
def test_links_in_a_root_do_not_lead_out_of_it(web: Instance, root: Path) -> None:
    """An image whose resolv.conf is an absolute link: to its own /run, or to a file of the box."""
    victim = web.directory / "victim"
    victim.write_text("untouched")
    (root / "etc/resolv.conf").symlink_to(victim)
    (root / "etc/hosts").symlink_to("../run/hosts")
    lines = web.run("cat", *FILES, root=str(root), files=FILES)
    assert lines == ["nameserver 192.0.2.53", "192.0.2.1 origin"]
    assert victim.read_text() == "untouched"
    assert not Path("/run/hosts").exists()
    with pytest.raises(process.LaunchError, match="execute: No such file"):
        web.start("/usr/bin/env", root=str(root))


STICK = r"""
import os, subprocess, tempfile
from viscum.kernel import cgroupfs, mounts, netns
where = os.path.join(tempfile.mkdtemp().encode(), b"Fotos \xfc\xc2\xa0\x0c1")
os.mkdir(where)
before = cgroupfs.hierarchies(), netns.is_private_mount_namespace()
cgroupfs.hierarchies.cache_clear()
subprocess.run(["mount", "-t", "tmpfs", "none", where], check=True)
assert (cgroupfs.hierarchies(), netns.is_private_mount_namespace()) == before
assert os.fsdecode(where) in [point for point, _ in mounts.mount_points()]
mounts.clear(os.fsdecode(os.path.dirname(where)))
assert not os.path.ismount(where)
"""


@pytest.mark.req("N17")
def test_a_mount_may_be_called_anything(tmp_path: Path) -> None:
    """A stick somebody has put in, whose label is of another time."""
    command = ["unshare", "-m", sys.executable, "-c", STICK]
    done = subprocess.run(
        command, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
