"""Starting, finding, entering and ending real servers."""

from __future__ import annotations

import asyncio
import errno
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.conftest import Space
from kernel.instance import Instance, instance
from support import my_children, need_program, unkillable, wait_until
from viscum.kernel import identity, prober, process
from viscum.kernel.process import LaunchError, Process
from viscum.kernel.syscalls import capget
from viscum.spec import Run

SLEEPER = ("sleep", f"4711.{os.getpid()}")  # known by its arguments, wherever it is
SRC = Path(__file__).parents[2] / "src"


@pytest.fixture
def web(space: Space) -> Iterator[Instance]:
    with instance(space.fd) as made:
        yield made


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def who(pid: int) -> list[str]:
    """Its real, effective, saved and file system's user."""
    return status(pid)["Uid"].split()


def parent(pid: int) -> int:
    return int(status(pid)["PPid"])


# ---- what is started --------------------------------------------------------------------------


@pytest.mark.req("N17")
def test_a_server_runs_alone_in_its_namespaces_and_group(web: Instance) -> None:
    (web.directory / "index.html").write_text("hello")
    before = my_children()
    pid = web.start("busybox", "httpd", "-f", "-p", "80", "-h", str(web.directory))
    assert "hello" in web.wait_for_answer()
    # Nothing of ours is left: no child here, nothing but the server in its group.
    assert my_children() <= before
    wait_until(lambda: web.group.pids() == [pid], "httpd's child, one per request, to go")
    assert process.roots(web.group) == [pid]
    assert process.main_pid(web.group) == pid
    assert parent(pid) not in (os.getpid(), 0)
    assert Path(f"/proc/{pid}/comm").read_text() == "busybox\n"
    # Its own namespaces, session and open files.
    assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.fstat(web.netns_fd).st_ino
    assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    assert os.getsid(pid) == pid
    files = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert files.pop("0") in ("/dev/null", "/")  # busybox httpd changes its own
    assert files.pop("1") == files.pop("2") == str(web.log)
    assert all(name.startswith("socket:") for name in files.values()), files
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == process.OOM_SCORE_ADJ


@pytest.mark.req("N17")
def test_signals_are_as_a_program_expects_them(web: Instance) -> None:
    """Python ignores SIGPIPE and nohup SIGHUP; a server that inherits that misbehaves."""
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        pid = web.start("sleep", "1000")
    finally:
        signal.signal(signal.SIGHUP, old)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    found = status(pid)
    # 32 and 33 are the C library's own: posix_spawn (make uses it) ignores them for its children,
    # and nobody can change that but the library, which sets them when it needs them.
    assert int(found["SigIgn"], 16) & ~(0b11 << 31) == 0
    assert int(found["SigBlk"], 16) == 0


@pytest.mark.req("N17")
def test_the_environment_is_its_own(web: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKED", "yes")
    lines = web.run("env", environment={"A": "1 2", "LANG": "de"}, user="www-data")
    assert sorted(lines) == [
        "A=1 2",
        "HOME=/var/www",
        "LANG=de",
        "LOGNAME=www-data",
        f"PATH={process.PATH}",
        "USER=www-data",
    ]


@pytest.mark.req("N17")
def test_arguments_are_passed_as_they_are(web: Instance) -> None:
    strange = ("$HOME", "a b", "*", ";true", "'\"", "", "ä")
    assert web.run("printf", "<%s>\\n", *strange) == [f"<{a}>" for a in strange]


@pytest.mark.req("N17")
def test_working_directory_umask_and_open_files(web: Instance) -> None:
    code = "pwd; umask; ulimit -n"
    where = str(web.directory)
    options = {"working_directory": where, "open_files": 123}
    assert web.run("sh", "-c", code, **options) == [where, "0022", "123"]


# ---- who it is and what it may do ---------------------------------------------------------------


def masks(pid: int) -> dict[str, int]:
    found = status(pid)
    return {n: int(found[f"Cap{n}"], 16) for n in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


@pytest.mark.req("N17")
@pytest.mark.parametrize(
    ("user", "asked", "kept"),
    [
        (None, None, identity.ROOT_CAPABILITIES),
        ("www-data", None, ("net-bind-service",)),
        ("12345:54321", None, ("net-bind-service",)),
        ("www-data", ("net-raw", "sys-nice"), ("net-raw", "sys-nice")),
        ("www-data", (), ()),
        (None, (), ()),
    ],
)
def test_capabilities_are_what_was_promised(
    web: Instance, user: str | None, asked: tuple[str, ...] | None, kept: tuple[str, ...]
) -> None:
    pid = web.start("sleep", "1000", user=user, capabilities=asked)
    want = sum(1 << identity.NUMBERS[name] for name in kept)
    assert masks(pid) == dict.fromkeys(("Inh", "Prm", "Eff", "Bnd", "Amb"), want)
    assert status(pid)["NoNewPrivs"] == "1"
    assert capget()[1] & ~want  # we ourselves have more: it was given up


@pytest.mark.req("N17")
def test_no_way_back_to_root(web: Instance) -> None:
    """A set-user-id program gives a service nothing, nor can one that is root gain anything."""
    tool = web.directory / "id"
    tool.write_bytes(Path("/usr/bin/id").read_bytes())
    tool.chmod(0o4755)
    assert web.run(str(tool), "-u", user="www-data") == ["33"]
    web.start("sh", "-c", "mount -t tmpfs none /mnt || echo refused; umount /sys || echo refused")
    wait_until(lambda: web.lines().count("refused") == 2, "both to be refused")


@pytest.mark.req("N17")
def test_user_and_groups(web: Instance) -> None:
    assert web.run("id", "-u", "-n", user="www-data") == ["www-data"]
    assert web.run("id", "-G", user="www-data:nogroup") == ["65534"]
    assert web.run("id", user="4711") == ["uid=4711 gid=4711 groups=4711"]
    assert web.run("id", user="4711:12") == ["uid=4711 gid=12(man) groups=12(man)"]
    assert identity.look_up("root").groups == tuple(os.getgrouplist("root", 0))


@pytest.mark.req("N17")
def test_a_low_port_needs_no_root(web: Instance) -> None:
    need_program("busybox")
    (web.directory / "index.html").write_text("unprivileged")
    pid = web.start(
        *("busybox", "httpd", "-f", "-p", "80", "-h", str(web.directory)), user="www-data"
    )
    assert "unprivileged" in web.wait_for_answer()
    assert status(pid)["Uid"].split() == ["33"] * 4


@pytest.mark.req("N17")
def test_nginx_as_root_drops_to_its_user(web: Instance) -> None:
    """As packaged: a root master, workers as www-data, its pid file in /run; and it ends."""
    need_program("nginx")
    conf = web.directory / "nginx.conf"
    conf.write_text(
        "user www-data; daemon off; error_log stderr notice; pid /run/nginx.pid;"
        "worker_processes 2; events {} http { access_log off;"
        ' server { listen 80; location / { return 200 "nginx as ever"; } } }'
    )
    master = web.start("nginx", "-c", str(conf))
    assert "nginx as ever" in web.wait_for_answer()
    workers = [pid for pid in web.group.pids() if pid != master]
    assert len(workers) == 2
    # one may have answered before the other has got so far
    wait_until(lambda: all(who(pid) == ["33"] * 4 for pid in workers), "both to drop")
    assert [masks(pid)["Eff"] for pid in workers] == [0, 0]
    assert process.roots(web.group) == [master]
    assert not Path("/run/nginx.pid").exists()
    assert process.stop(web.group, 20) == process.Stopped(by_itself=True, killed=0)
    assert any("exit" in line for line in web.lines())


# ---- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.req("N15", "N17")
@pytest.mark.parametrize(
    ("argv", "options", "number", "text", "name"),
    [
        (("/nowhere/server",), {}, errno.ENOENT, "execute: No such file", "/nowhere/server"),
        (("no-such-server",), {}, errno.ENOENT, "not found along PATH", "no-such-server"),
        (("/etc/passwd",), {}, errno.EACCES, "execute: Permission denied", "/etc/passwd"),
        (("/etc",), {}, errno.EACCES, "execute: Permission denied", "/etc"),
        (("true",), {"working_directory": "/nope"}, errno.ENOENT, "change to directory", "/nope"),
        (
            ("true",),
            {"working_directory": "/root", "user": "www-data"},
            errno.EACCES,
            "change to directory",
            "/root",
        ),
        (("true",), {"open_files": 1 << 30}, errno.EINVAL, "limit open files", str(1 << 30)),
        (("true",), {"root": "/nope"}, errno.ENOENT, "bind: ", "/nope"),
    ],
)
def test_a_failing_start_says_at_what(
    web: Instance,
    argv: tuple[str, ...],
    options: dict[str, Any],
    number: int,
    text: str,
    name: str,
) -> None:
    before = my_children()
    for foreground in (False, True):
        with pytest.raises(LaunchError) as caught:
            web.start(*argv, foreground=foreground, **options)
        assert caught.value.errno == number
        assert text in str(caught.value.strerror)
        assert caught.value.filename == name
        assert caught.value.hint.startswith("`namei -l") == (number == errno.EACCES)
        assert web.group.wait_empty(10)
        assert my_children() <= before


@pytest.mark.req("N15", "N17")
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"user": "nobody-such"}, "no such user: 'nobody-such'"),
        ({"user": "root:nobody-such"}, "no such group: 'nobody-such'"),
        ({"capabilities": ("fly",)}, "no such capability: 'fly'"),
    ],
)
def test_what_can_be_known_before_the_fork_is(
    web: Instance, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(OSError, match=text) as caught:
        web.start("true", **options)
    assert not isinstance(caught.value, LaunchError)


@pytest.mark.req("N17")
def test_a_script_without_its_interpreter_is_told_apart(web: Instance) -> None:
    script = web.directory / "script"
    script.write_text("#!/nowhere/python\n")
    script.chmod(0o755)
    with pytest.raises(LaunchError, match="interpreter or loader is missing"):
        web.start(str(script))


@pytest.mark.req("N17")
def test_killed_in_set_up_is_an_error(web: Instance) -> None:
    web.group.set_limits(memory=4096)
    with pytest.raises(LaunchError, match="killed while it was set up"):
        web.start("sleep", "1000")
    web.group.set_limits()
    assert web.start("sleep", "1000") in web.group.pids()


@pytest.mark.req("N17", "C1")
def test_a_signal_on_its_way_to_the_program_is_its_own() -> None:
    """Whoever ends a control group asks also what is about to become a program there; a controller
    that had it from its child would end itself."""
    told: list[bool] = []

    def set_up(step: process.Step) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    async def controller() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, told.append, True)
        try:
            await loop.run_in_executor(None, process.spawn, ("true",), {}, set_up, True)
        except LaunchError:
            pass
        else:
            os.wait()
        for _ in range(5):  # what was told by then is heard in one turn of the loop
            await asyncio.sleep(0)

    asyncio.run(controller())
    assert told == []


@pytest.mark.req("N16", "N17")
def test_killed_anywhere_leaves_nothing_but_the_group(web: Instance) -> None:
    """The starting command dies at some point: whatever it started is in the group, all of it."""
    code = (
        "import os, sys\n"
        "from viscum.kernel import process\n"
        "from viscum.kernel.cgroup import Group\n"
        f"fd = os.open('/proc/{os.getpid()}/fd/{web.netns_fd}', os.O_RDONLY)\n"
        "sys.stdin.readline()\n"
        f"launch = process.Launch({SLEEPER!r}, Group({web.group.path!r}), fd, -1)\n"
        "process.start(launch)\n"
        "print('started', flush=True)\n"
    )
    rng = random.Random(4)
    started = 0
    for _ in range(30):
        # Every process on the way to the exec holds the pipe; none after it does.
        reader, writer = os.pipe()
        command = subprocess.Popen(
            (sys.executable, "-c", code),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={"PYTHONPATH": str(SRC)},
            pass_fds=(writer,),
        )
        os.close(writer)
        command.communicate(b"go\n", timeout=None) if rng.random() < 0.1 else _kill(command, rng)
        assert os.read(reader, 1) == b""
        os.close(reader)
        # What is left is past its set-up, and at most a moment before its exec or its end.
        wait_until(lambda: all(map(_is_sleeper, web.group.pids())), "the exec")
        sleepers = {int(p) for p in os.listdir("/proc") if p.isdigit() and _is_sleeper(p)}
        assert sleepers == set(web.group.pids())
        started += len(sleepers)
        web.group.kill()
        assert web.group.wait_empty(10)
    assert started > 3  # some got that far


def _kill(command: subprocess.Popen[bytes], rng: random.Random) -> None:
    assert command.stdin is not None
    command.stdin.write(b"go\n")
    command.stdin.flush()
    try:
        command.wait(rng.random() * 0.25)
    except subprocess.TimeoutExpired:
        command.kill()
    command.communicate()


def _is_sleeper(pid: object) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text() == "\0".join((*SLEEPER, ""))
    except OSError:
        return False


# ---- what runs ----------------------------------------------------------------------------------


@pytest.mark.req("N17")
def test_the_main_process_is_found_again(web: Instance) -> None:
    """Also of a server that goes into the background, and beside orphans."""
    first = web.start("sh", "-c", "sleep 1000 & exec sleep 1001")
    wait_until(lambda: len(web.group.pids()) == 2, "the child")
    assert process.main_pid(web.group) == first
    second = web.start("sh", "-c", "(setsid sleep 1002 &)")
    with Process(first) as main:
        assert not main.wait(0)
        assert main.send(signal.SIGKILL)
        assert main.wait(10)
        wait_until(lambda: not Path(f"/proc/{first}").exists(), "init to collect it")
        assert not main.send(signal.SIGKILL)
        assert main.exit_status() is None  # not our child
    with pytest.raises(ProcessLookupError):
        Process(first)
    orphan = process.main_pid(web.group)
    assert orphan not in (None, first, second)
    web.group.kill()
    assert web.group.wait_empty(10)
    assert process.main_pid(web.group) is None


@pytest.mark.req("N2", "N17")
@pytest.mark.parametrize(
    ("code", "expected"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15)]
)
def test_in_the_foreground_it_stays_our_child(web: Instance, code: str, expected: int) -> None:
    pid = web.start("sh", "-c", f"sleep 0.2; {code}", foreground=True)
    with Process(pid) as server:
        assert server.exit_status() is None
        assert server.wait(10)
        assert server.exit_status() == expected
        assert server.exit_status() == expected
    assert web.group.wait_empty(10)


@pytest.mark.req("N2", "N17")
def test_exec_joins_the_instance(web: Instance, capfd: pytest.CaptureFixture[str]) -> None:
    pid = web.start("sh", "-c", "echo mine >/tmp/mine; echo ready; exec sleep 1000")
    web.wait_for_line("ready")
    assert process.exec_in(web.group, ["cat", "/tmp/mine"]) == 0
    assert capfd.readouterr().out == "mine\n"
    code = "readlink /proc/self/ns/net /proc/self/ns/mnt; grep -c . /proc/self/cgroup; id -u"
    assert process.exec_in(web.group, ["sh", "-c", code]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:2] == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "mnt")]
    assert process.exec_in(web.group, ["cat", "/proc/self/cgroup"]) == 0
    assert f":/{web.group.path}\n" in capfd.readouterr().out
    assert process.exec_in(web.group, ["id", "-un"], user="www-data") == 0
    assert capfd.readouterr().out == "www-data\n"
    assert process.main_pid(web.group) == pid


@pytest.mark.req("N2", "N17")
def test_exec_returns_the_exit_status(web: Instance) -> None:
    with pytest.raises(ProcessLookupError):
        process.exec_in(web.group, ["true"])
    web.start("sleep", "1000")
    assert process.exec_in(web.group, ["sh", "-c", "exit 7"]) == 7
    assert process.exec_in(web.group, ["sh", "-c", "kill -KILL $$"]) == 128 + 9
    with pytest.raises(LaunchError, match="execute: not found along PATH"):
        process.exec_in(web.group, ["no-such-program"])


@pytest.mark.req("N2", "N17")
def test_exec_keeps_the_terminal(web: Instance) -> None:
    """Its interrupt ends the program in there, not the command that waits for it."""
    web.start("sleep", "1000")
    code = (
        "import sys\n"
        "from viscum.kernel import process\n"
        "from viscum.kernel.cgroup import Group\n"
        "argv = ['sh', '-c', 'test -t 0 && test -t 1 && echo terminal; exec sleep 1000']\n"
        f"print('status', process.exec_in(Group({web.group.path!r}), argv), flush=True)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, (sys.executable, "-c", code), {"PYTHONPATH": str(SRC)})
    said = b""
    while b"terminal" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while b"status" not in said or not said.endswith(b"\n"):
        said += os.read(terminal, 1000)
    assert b"status 130" in said
    assert os.waitpid(pid, 0)[1] == 0
    os.close(terminal)


# ---- how it ends --------------------------------------------------------------------------------


@pytest.mark.req("N17")
def test_a_number_that_is_somebody_elses_by_now_is_not_the_servers(
    web: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has ended, and its number was given out again, after the group was read."""
    server = web.start(*SLEEPER)
    stranger = subprocess.Popen(SLEEPER)
    try:
        before = len(os.listdir("/proc/self/fd"))
        assert process.opened(web.group, stranger.pid) is None
        assert process.opened(web.group, 2**22) is None
        with monkeypatch.context() as patched:
            patched.setattr(process, "roots", lambda *_: [stranger.pid])
            assert process.main(web.group) is None
            with pytest.raises(ProcessLookupError):
                process.exec_in(web.group, ("true",))
            with pytest.raises(ProcessLookupError):
                prober.Running(prober.Beside(web.group, Run(), 0), ("true",), 5)
            process.stop(web.group, 0)
        assert len(os.listdir("/proc/self/fd")) == before
        assert stranger.poll() is None, "nor is it asked to end"
    finally:
        stranger.kill()
        stranger.wait()
    assert process.main_pid(web.group) is None, server


@pytest.mark.req("N17")
def test_stop_asks_first(web: Instance) -> None:
    web.start("sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    web.wait_for_line("ready")
    stopped = process.stop(web.group, 20)
    assert stopped.by_itself
    assert web.lines()[-1] == "bye"
    assert web.group.pids() == []


@pytest.mark.req("N17")
def test_stop_kills_who_does_not_listen(web: Instance) -> None:
    web.start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done")
    web.wait_for_line("ready")
    wait_until(lambda: len(web.group.pids()) == 2, "its child")
    assert process.stop(web.group, 0.1) == process.Stopped(by_itself=False, killed=2)
    assert web.group.pids() == []


@pytest.mark.req("N17")
def test_stop_does_not_wait_again_for_what_was_killed_and_is_still_there(web: Instance) -> None:
    pid = web.start(*SLEEPER)
    with unkillable(pid):
        os.kill(pid, signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match="still there after SIGKILL"):
            process.stop(web.group, 20)
        assert time.monotonic() - begun < 20, "nor to be asked"
    assert web.group.wait_empty(10)


@pytest.mark.req("N17")
def test_stop_takes_the_tree_in_other_sessions_along(web: Instance) -> None:
    web.start("sh", "-c", "setsid sh -c 'trap \"\" TERM; sleep 1000; :' & echo ready; wait")
    web.wait_for_line("ready")
    wait_until(lambda: len(web.group.pids()) == 3, "the tree")
    assert process.stop(web.group, 20) == process.Stopped(by_itself=True, killed=2)
    assert web.group.pids() == []


NAMELESS = r"""
import ctypes, signal
ctypes.CDLL(None).prctl(15, b"\xff) \n", 0, 0, 0)
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.req("N17")
def test_a_server_may_call_itself_what_it_likes(web: Instance) -> None:
    """Its name is any bytes: it is stopped, and how it ended is told, all the same."""
    pid = web.start(sys.executable, "-I", "-S", "-c", NAMELESS, foreground=True)
    web.wait_for_line("ready")
    with Process(pid) as server:
        assert process.main_pid(web.group) == pid
        assert process.stop(web.group, 20).by_itself
        assert server.how_it_ended() == 128 + signal.SIGTERM
    os.waitpid(pid, 0)


@pytest.mark.req("N16", "N17")
def test_stop_is_idempotent(web: Instance) -> None:
    assert process.stop(web.group, 1) == process.Stopped(by_itself=True, killed=0)
    web.group.remove()
    assert process.stop(web.group, 1) == process.Stopped(by_itself=True, killed=0)
    web.group.create()
