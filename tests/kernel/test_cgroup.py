"""Control groups on the real kernel: limits hold, trees end, nothing is left."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from support import need_kernel
from viscum.kernel import cgroup, cgroupfs
from viscum.kernel.cgroup import Group
from viscum.kernel.process import Process

PREFIX = f"viscum-t{os.getpid()}"
NUMBERS = count()
MIB = 1 << 20
Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(params=["all hierarchies", "v1 alone"])
def group(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    """A group with controllers, in every hierarchy there is, and as on a box without v2."""
    if request.param == "v1 alone":
        here = cgroupfs.hierarchies()
        if not here.v1:
            pytest.skip("this kernel lacks v1 control groups (mounted): all is v2")
        alone = cgroupfs.Hierarchies(None, here.v1)
        monkeypatch.setattr(cgroupfs, "hierarchies", lambda: alone)
    made = Group(f"{PREFIX}/web/{next(NUMBERS)}.0")
    made.create()
    yield made
    made.kill()
    assert made.wait_empty(10)
    made.remove()
    assert not made.exists()


@pytest.fixture
def run(group: Group) -> Iterator[Run]:
    """Start a program that joined the group before its first instruction."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=group.join,
        )
        started.append(process)
        return process

    yield start
    group.kill()
    for process in started:
        process.communicate()


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-S", "-c", code


PURE = "25 30 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
DEBIAN_V1 = """\
30 24 0:26 / /sys/fs/cgroup/systemd rw shared:7 - cgroup cgroup rw,xattr,name=systemd
31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
32 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 24 0:29 /docker/1 /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids
"""
HYBRID = DEBIAN_V1 + "34 24 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


@pytest.mark.req("N17")
@pytest.mark.parametrize(
    ("text", "roots"),
    [
        (PURE, ("/sys/fs/cgroup",)),
        (DEBIAN_V1, ("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory")),
        (
            HYBRID,
            ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory"),
        ),
        ("21 1 8:1 / / rw - ext4 /dev/sda1 rw\n", ()),
    ],
)
def test_hierarchies_are_told_apart(text: str, roots: tuple[str, ...]) -> None:
    """The home comes first; a hierarchy that is only partly visible (a container's) is none."""
    assert cgroupfs.parse_mountinfo(text).roots == roots


@pytest.mark.req("N17", "N16")
def test_made_at_the_top_and_removed_idempotently(group: Group) -> None:
    for root in cgroupfs.hierarchies().roots:
        assert Path(root, group.path).is_dir()  # not below our own group
    assert group.create() == ()
    assert cgroup.groups(PREFIX) == [group.path]
    group.remove()
    group.remove()
    assert cgroup.groups(PREFIX) == []
    for root in cgroupfs.hierarchies().roots:
        assert not Path(root, PREFIX).exists()
    assert group.pids() == []
    assert not group.populated()


@pytest.mark.req("N16")
def test_what_a_killed_command_left_is_found_and_removed() -> None:
    """Killed between two mkdirs: the group is there in one hierarchy only, or only its parent."""
    roots = cgroupfs.hierarchies().roots
    Path(roots[-1], PREFIX, "half").mkdir(parents=True)
    Path(roots[0], PREFIX, "web/7.0").mkdir(parents=True)
    left = cgroup.groups(PREFIX)
    assert left == [f"{PREFIX}/half", f"{PREFIX}/web/7.0"]
    for path in left:
        Group(path).remove()
    assert cgroup.groups(PREFIX) == []


@pytest.mark.req("N17")
@pytest.mark.parametrize("path", ["", "/web", "web/../..", "web//1", "web/"])
def test_a_path_stays_in_the_subtree(path: str) -> None:
    with pytest.raises(ValueError, match="not a control group"):
        Group(path)


@pytest.mark.req("N17")
def test_a_group_with_processes_is_not_removed(group: Group, run: Run) -> None:
    server = run("sleep", "1000")
    with pytest.raises(OSError, match="busy") as caught:
        group.remove()
    assert caught.value.errno == errno.EBUSY
    assert server.poll() is None


@pytest.mark.req("N17")
def test_memory_limit_kills_the_one_that_exceeds_it(group: Group, run: Run) -> None:
    group.set_limits(memory=48 * MIB)
    modest = run("sleep", "1000")
    greedy = run(*python("block = b'x' * (256 << 20)"))
    assert greedy.wait(60) == -signal.SIGKILL
    assert modest.poll() is None
    usage = group.usage()
    assert usage.oom_kills is not None
    assert usage.oom_kills >= 1
    assert usage.memory_peak is not None
    assert 40 * MIB < usage.memory_peak <= 48 * MIB


@pytest.mark.req("N17", "N8")
def test_limits_change_in_place_and_are_read_back(group: Group, run: Run) -> None:
    """The same running process: too little, then enough."""
    code = "import sys; sys.stdin.readline(); b = b'x' * (64 << 20); print('ok', flush=True)"
    group.set_limits(cpu=1 / 3, memory=32 * MIB + 1, processes=10)
    assert group.limits() == cgroup.rounded(1 / 3, 32 * MIB + 1, 10)
    assert group.limits() != (1 / 3, 32 * MIB + 1, 10)  # what `rounded` is for
    server = run(*python(code))
    group.set_limits(memory=256 * MIB)
    assert group.limits() == (None, 256 * MIB, None)
    assert server.communicate(b"go\n", timeout=60)[0] == b"ok\n"
    assert server.returncode == 0
    group.set_limits()
    assert group.limits() == (None, None, None)


@pytest.mark.req("N17")
def test_a_fork_bomb_is_bounded(group: Group, run: Run) -> None:
    code = (
        "import os\n"
        "made = 0\n"
        "try:\n"
        "    for _ in range(200):\n"
        "        if os.fork() == 0: os.execlp('sleep', 'sleep', '1000')\n"
        "        made += 1\n"
        "except BlockingIOError: print(made, flush=True)\n"
        "input()"
    )
    group.set_limits(processes=16)
    bomb = run(*python(code))
    assert bomb.stdout is not None
    assert int(bomb.stdout.readline()) == 15
    assert len(group.pids()) == 16
    assert group.usage().processes == 16


@pytest.mark.req("N17")
def test_cpu_limit_throttles(group: Group, run: Run) -> None:
    """Half a second of processor time at a fifth of a processor: ~25 periods, nearly all cut."""
    group.set_limits(cpu=0.2)
    assert run(*python("import time\nwhile time.process_time() < 0.5: pass")).wait(100) == 0
    usage = group.usage()
    assert usage.throttled_usec is not None
    assert usage.throttled_usec > 500_000
    if cgroupfs.hierarchies().unified:
        assert usage.cpu_usec is not None
        assert usage.cpu_usec >= 500_000


@pytest.mark.req("N17")
def test_a_limit_without_its_controller_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    here = cgroupfs.hierarchies()
    need_kernel("v1 control groups (mounted): all is v2", bool(here.v1))
    without = tuple((name, root) for name, root in here.v1 if name != "memory")
    monkeypatch.setattr(cgroupfs, "hierarchies", lambda: cgroupfs.Hierarchies(None, without))
    assert "memory" not in cgroup.available()
    group = Group(f"{PREFIX}/none/1.0")
    group.create()
    try:
        group.set_limits()
        with pytest.raises(OSError, match="no memory controller") as caught:
            group.set_limits(memory=MIB)
        assert caught.value.errno == errno.ENOTSUP
    finally:
        group.remove()


@pytest.mark.req("N17")
def test_a_tree_in_sessions_of_its_own_is_killed(group: Group, run: Run) -> None:
    """Daemonised twice: no parent, no session, no process group leads to it; its group does."""
    tree = run("sh", "-c", "setsid sh -c 'setsid sleep 1000 & echo; exec sleep 1000' & wait")
    assert tree.stdout is not None
    tree.stdout.readline()
    members = [Process(pid) for pid in group.pids()]
    assert len(members) == 3
    group.kill()
    assert group.wait_empty(10)
    for member in members:
        assert member.wait(10)
        member.close()


@pytest.mark.req("N17")
def test_a_storm_of_forks_is_killed(group: Group, run: Run) -> None:
    """Each process forks and exits: no list of process ids is ever up to date."""
    code = (
        "import os\n"
        "for _ in range(4): os.fork()\n"
        "print(flush=True)\n"
        "while True:\n"
        "    if os.fork(): os._exit(0)"
    )
    storm = run(*python(code))
    assert storm.stdout is not None
    storm.stdout.readline()
    storm.wait(10)
    group.kill()
    assert group.wait_empty(10)
    assert group.pids() == []


@pytest.mark.req("N17")
def test_empty_is_waited_for_by_event(group: Group, run: Run) -> None:
    servers = [run("sleep", "1000"), run("sleep", "1000")]
    assert group.populated()
    assert not group.wait_empty(0.05)
    for server in servers:
        server.kill()
    assert group.wait_empty(None)
    assert not group.populated()


@pytest.mark.req("N17")
def test_frozen_processes_stand_still_and_can_be_killed(group: Group, run: Run) -> None:
    if cgroupfs.hierarchies().unified is None:
        with pytest.raises(FileNotFoundError):
            group.freeze()
        return
    server = run("cat")
    group.freeze()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(b"x")
    server.stdin.flush()
    os.set_blocking(server.stdout.fileno(), False)
    assert server.stdout.read() is None
    group.freeze(False)
    os.set_blocking(server.stdout.fileno(), True)
    assert server.stdout.read(1) == b"x"
    group.freeze()
    group.kill()
    assert group.wait_empty(10)


@pytest.mark.req("N17", "C1")
def test_one_that_is_removed_meanwhile_needs_no_killing(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a command, while a controller ends what does not listen in time."""
    write = os.write

    def removed_by_then(fd: int, data: bytes) -> int:
        group.remove()
        return write(fd, data)

    group.create()
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", removed_by_then)
        group.kill()
    group.kill()
