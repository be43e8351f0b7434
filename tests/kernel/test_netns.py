"""Named namespaces as ip-netns(8) makes them, and what `ip netns exec` hides."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.conftest import Space
from support import need_program
from viscum.kernel import netns
from viscum.kernel.rtnl import Rtnl
from viscum.kernel.syscalls import in_netns

MOUNTS = Path("/proc/self/mountinfo")


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nothing has, taken away afterwards."""
    chosen = f"vt-{os.getpid()}-named"
    yield chosen
    netns.delete(chosen)


def _listed() -> list[str]:
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in done.stdout.splitlines()]


def test_a_namespace_comes_and_goes(name: str) -> None:
    assert not netns.exists(name)
    with pytest.raises(FileNotFoundError):
        netns.open(name)
    own = os.stat("/proc/self/ns/net").st_ino
    fd = netns.create(name)
    try:
        assert os.fstat(fd).st_ino != own
        assert os.stat("/proc/self/ns/net").st_ino == own
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert netns.exists(name)
        assert name in netns.names()
        assert name in _listed()
        with Rtnl(fd) as r:
            assert [link.name for link in r.links()] == ["lo"]
    finally:
        os.close(fd)
    netns.delete(name)
    assert not netns.exists(name)
    assert name not in netns.names()
    assert name not in MOUNTS.read_text()


@pytest.mark.req("N16")
def test_making_and_deleting_twice_is_doing_it_once(name: str) -> None:
    first, second = netns.create(name), netns.create(name)
    try:
        assert os.fstat(first).st_ino == os.fstat(second).st_ino
        assert MOUNTS.read_text().count(f"/run/netns/{name} ") == 1
    finally:
        os.close(first)
        os.close(second)
    netns.delete(name)
    netns.delete(name)
    assert name not in netns.names()


@pytest.mark.req("N16")
def test_a_file_left_without_its_mount_is_completed(name: str) -> None:
    path = Path(netns.path(name))
    path.touch(mode=0)
    assert not netns.exists(name)
    assert name in netns.names()
    with pytest.raises(FileNotFoundError):
        netns.open(name)
    os.close(netns.create(name))
    assert netns.exists(name)


@pytest.mark.req("N16")
def test_a_file_left_without_its_mount_is_deleted(name: str) -> None:
    Path(netns.path(name)).touch(mode=0)
    netns.delete(name)
    assert name not in netns.names()


def test_one_mounted_twice_is_deleted_whole(name: str) -> None:
    """Two who make the same one at once may both find the file and no mount."""
    path = netns.path(name)
    os.close(netns.create(name))
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", path], check=True)
    netns.delete(name)
    assert path not in MOUNTS.read_text()
    assert name not in netns.names()


def test_the_directory_is_a_shared_mount_once(name: str) -> None:
    os.close(netns.create(name))
    (line,) = (x for x in MOUNTS.read_text().splitlines() if x.split()[4] == "/run/netns")
    assert " shared:" in line


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "a/b", "../etc", "-x", "a b", "a\n", "é", "x" * 256]
)
def test_a_bad_name_is_refused(bad: str) -> None:
    for function in (netns.create, netns.open, netns.exists, netns.delete):
        with pytest.raises(ValueError, match="not a namespace name"):
            function(bad)


def test_a_thread_in_a_namespace_hands_back_what_happens(space: Space) -> None:
    def inside(fail: bool) -> int:
        if fail:
            raise KeyError("from inside")
        assert threading.current_thread() is not threading.main_thread()
        return os.stat("/proc/thread-self/ns/net").st_ino

    own = os.stat("/proc/self/ns/net").st_ino
    assert in_netns(space.fd, inside, False) == os.fstat(space.fd).st_ino != own
    with pytest.raises(KeyError, match="from inside"):
        in_netns(space.fd, inside, True)
    with Path("/dev/null").open() as null, pytest.raises(OSError, match="setns"):
        in_netns(null.fileno(), inside, False)
    assert os.stat("/proc/self/ns/net").st_ino == own


# ---- private mount namespaces ------------------------------------------------------------------


def _is_private(*wrapper: str) -> bool:
    code = "from viscum.kernel import netns; print(netns.is_private_mount_namespace())"
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    return {"True\n": True, "False\n": False}[done.stdout]


@pytest.mark.req("N3")
def test_ip_netns_exec_is_recognised(space: Space) -> None:
    assert _is_private("ip", "netns", "exec", space.name)


@pytest.mark.req("N3")
def test_nsenter_into_the_network_namespace_is_not_private(space: Space) -> None:
    need_program("nsenter")
    assert not _is_private("nsenter", f"--net={netns.path(space.name)}")
    assert not _is_private()


@pytest.mark.req("N3")
@pytest.mark.parametrize("propagation", ["private", "slave", "shared"])
def test_a_detached_mount_namespace_is_private(space: Space, propagation: str) -> None:
    """As systemd's PrivateTmp= and containers have it: slave, then shared among itself."""
    need_program("unshare")
    assert _is_private("unshare", "--mount", "--propagation", propagation) == (
        propagation != "shared"  # "shared" leaves a shared mount in its peer group
    )


@pytest.mark.req("N3")
def test_what_the_verdict_says_is_what_happens(space: Space, name: str) -> None:
    """A name made where the verdict is "private" is not seen out here; elsewhere it is."""
    code = f"""
import os
from viscum.kernel import netns
print(netns.is_private_mount_namespace())
os.close(netns.create({name!r}))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    wrappers = (
        ("ip", "netns", "exec", space.name),
        ("nsenter", f"--net={netns.path(space.name)}"),
        ("unshare", "--mount", "--propagation", "private"),
        ("unshare", "--mount", "--propagation", "unchanged"),
    )
    verdicts = []
    for wrapper in wrappers:
        done = subprocess.run(
            [*wrapper, sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        verdicts.append(done.stdout == "True\n")
        assert netns.exists(name) != verdicts[-1], wrapper
        netns.delete(name)
    assert verdicts == [True, False, True, False]
