"""The command line as an operator meets it: help, tables, JSON, exit codes, logs, interrupts."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from e2e.servers import EDGE, nginx_command
from support import need_program, wait_until
from viscum.cli.app import app
from viscum.lab import CLOUD4, CLOUDS4, Lab

pytestmark = pytest.mark.req("N2")
VISCUM = str(Path(sys.executable).with_name("viscum"))


@pytest.fixture(scope="module")
def box(lab_factory: Callable[..., Lab]) -> Iterator[Lab]:
    """An access point with the service `web`."""
    need_program("nginx")
    lab = lab_factory()
    directory = Path(tempfile.mkdtemp(prefix="vt-cli-", dir="/var/tmp"))
    ran = lab.viscum(
        "run", "--name", "web", "--on", "wlan0", "--target", CLOUD4, "--port", "tcp/80",
        "--", *nginx_command(EDGE, directory),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    yield lab
    lab.down()
    shutil.rmtree(directory)


def run(lab: Lab, name: str, target: str, *argv: str, options: tuple[str, ...] = ()) -> str:
    """Starts a service that need not listen; what was said on standard error."""
    done = lab.viscum(
        "run", "--name", name, "--on", "wlan0", "--target", target, "--port", "80/tcp",
        *options, "--", *argv,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


# ---- help ------------------------------------------------------------------------------------


def commands() -> Iterator[list[str]]:
    def walk(command: click.Command, path: list[str]) -> Iterator[list[str]]:
        yield path
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None, f"{name} is listed and not there"
                yield from walk(inner, [*path, name])

    return walk(app, [])


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("path", list(commands()), ids=lambda path: " ".join(path) or "viscum")
def test_every_help_shows_an_example(path: list[str], option: str) -> None:
    done = subprocess.run([VISCUM, *path, option], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Example:" in done.stdout
    example = done.stdout.split("Example:", 1)[1].split("\n\n")[0]
    assert "viscum " + " ".join(path) in example
    assert "\x1b" not in done.stdout


def test_the_commands_of_the_readme_are_there() -> None:
    named = {path[0] for path in commands() if len(path) == 1}
    assert named >= {
        "run", "apply", "plan", "export", "ls", "ps", "status", "enable", "disable", "stop",
        "start", "restart", "rm", "exec", "logs", "explain", "doctor", "schema", "lab", "demo",
    }  # fmt: skip


# ---- tables and JSON -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv", [["ls"], ["ps"], ["status", "web"], ["doctor"]], ids=lambda a: a[0]
)
def test_json_wherever_there_is_a_table(box: Lab, argv: list[str]) -> None:
    done = box.viscum(*argv, "--json")
    found = json.loads(done.stdout)
    if argv[0] != "doctor":
        (service,) = found if isinstance(found, list) else (found,)
        assert (service["name"], service["state"]) == ("web", "running")
        assert service["ports"] == ["80/tcp"]
        assert service["generations"][0]["instances"][0]["pid"]
        assert done.returncode == 0
    else:
        assert {f["level"] for f in found} <= {"ok", "warn", "fail"}


def test_json_of_a_plan_and_of_the_lab(box: Lab, tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    text = box.viscum("export", "web").stdout
    file.write_text(text.replace('name = "web"', 'name = "other"').replace(CLOUD4, CLOUDS4[2]))
    done = box.viscum("plan", str(file), "--json")
    steps = json.loads(done.stdout)
    assert any(s["step"].startswith("start ") for s in steps)
    assert all(s["shell"] for s in steps)
    status = json.loads(subprocess.run([VISCUM, "lab", "status", "--json"],
                                       capture_output=True, text=True).stdout)  # fmt: skip
    assert "up" in status


def on_a_terminal(lab: Lab, *argv: str) -> str:
    """What the command writes when its output is a terminal."""
    master, slave = pty.openpty()
    child = lab.popen("ap", [VISCUM, *argv], stdout=slave, stderr=slave)
    os.close(slave)
    said = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # EIO: the other end is closed
            break
        if not part:
            break
        said += part
    os.close(master)
    assert child.wait() == 0, said
    return said.decode()


def test_tables_and_colours_only_on_a_terminal(box: Lab) -> None:
    plain = box.viscum("ls").stdout
    assert "NAME" not in plain
    assert "\x1b" not in plain
    assert plain.split("\t")[:3] == ["web", "running", "edge"]
    shown = on_a_terminal(box, "ls")
    head, line = shown.splitlines()[:2]
    assert "NAME" in head
    assert "\x1b[1m" in head
    assert line.split()[:3] == ["web", "running", "edge"]
    assert "\t" not in shown


@pytest.mark.parametrize(
    "argv", [["ls"], ["status", "web"], ["doctor"], ["schema"], ["logs", "web"]]
)
def test_a_reader_that_goes_away(box: Lab, argv: list[str]) -> None:
    """`viscum ls | head -0`: no trace back, and none of Python's own remarks at its end."""
    reader, writer = os.pipe()
    os.close(reader)
    done = box.run(
        "ap", [VISCUM, *argv], capture_output=False, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode in (0, 1)


def test_work_goes_on_when_nobody_reads(lab: Lab) -> None:
    for name, target in (("one", CLOUDS4[1]), ("two", CLOUDS4[2])):
        run(lab, name, target, "/usr/bin/sleep", "1000", options=("--start-timeout", "100ms"))
    reader, writer = os.pipe()
    os.close(reader)
    done = lab.run("ap", [VISCUM, "rm", "--all"], capture_output=False, stdout=writer,
                   stderr=writer)  # fmt: skip
    os.close(writer)
    assert done.returncode == 0
    assert json.loads(lab.viscum("ls", "--json").stdout) == []


# ---- words -----------------------------------------------------------------------------------


def test_remarks_are_said_once(lab: Lab) -> None:
    """The lab's router has a firewall that steered packets bypass."""
    options = ("--start-timeout", "100ms")
    command = ("/usr/bin/sleep", "1000")
    assert "do not pass" in run(lab, "one", CLOUDS4[1], *command, options=options)
    again = lab.viscum("run", "--name", "one", "--on", "wlan0", "--target", CLOUDS4[1],
                       "--port", "80/tcp", *options, "--", *command)  # fmt: skip
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert "do not pass" not in again.stderr

    disabled = lab.viscum("disable", "one")
    assert "the server keeps running" in disabled.stderr
    assert "after a reboot" in disabled.stderr
    assert lab.viscum("disable", "one").stderr == ""


def test_what_takes_long_says_so(lab: Lab) -> None:
    """A server that listens late, and one that ignores SIGTERM."""
    said = run(lab, "late", CLOUDS4[1], "/usr/bin/sleep", "1000",
               options=("--start-timeout", "1500ms"))  # fmt: skip
    assert "waiting until it listens" in said
    assert "does not listen yet" in said
    stubborn = ("/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    run(lab, "stubborn", CLOUDS4[2], *stubborn, options=("--start-timeout", "100ms"))
    spec = lab.viscum("export", "stubborn").stdout
    assert "stop-timeout" not in spec
    file = lab.directory / "stubborn.toml"
    file.write_text(spec.replace("[run]\n", '[run]\nstop-timeout = "1500ms"\n'))
    assert lab.viscum("apply", str(file)).returncode == 0
    done = lab.viscum("rm", "stubborn")
    assert done.returncode == 0
    assert "stubborn: waiting for its processes to end" in done.stderr


def test_an_interrupt(lab: Lab) -> None:
    """Exit 1 and one sentence; the service is as far as it came, and can be taken away."""
    child = lab.popen(
        "ap",
        [VISCUM, "run", "--name", "slow", "--on", "wlan0", "--target", CLOUDS4[1],
         "--start-timeout", "1m", "--", "/usr/bin/sleep", "1000"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stderr is not None
    assert "waiting until it listens" in child.stderr.readline()
    child.send_signal(signal.SIGINT)
    said = child.stderr.read()
    assert child.wait() == 1
    assert "interrupted" in said
    assert "Traceback" not in said
    (service,) = json.loads(lab.viscum("ls", "--json").stdout)
    assert service["state"] == "not listening"
    assert lab.viscum("rm", "slow").returncode == 0


def test_no_command_waits_without_a_word(box: Lab) -> None:
    """For the lock of another command, which is named; then the time is up: exit 1."""
    held = box.popen("ap", ["flock", str(box.state_dir / "lock"), "sleep", "1000"])
    lock = box.state_dir / "lock"
    inode = str(lock.stat().st_ino)
    wait_until(lambda: inode in Path("/proc/locks").read_text(), "the lock")
    done = box.viscum("--lock-timeout", "0.2", "disable", "web")
    held.kill()
    for pid in _children(held.pid):
        os.kill(pid, signal.SIGKILL)
    assert done.returncode == 1
    assert "waiting for" in done.stderr
    assert "nothing was changed" in done.stderr
    assert "--lock-timeout" in done.stderr


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# ---- logs and exec ---------------------------------------------------------------------------


def test_logs(lab: Lab) -> None:
    """Real output, as it comes; --since leaves out what is older."""
    fifo = Path("/var/tmp") / f"vt-words-{os.getpid()}"
    os.mkfifo(fifo)
    try:
        server = f"echo first; exec cat <>{fifo} >&2"
        run(lab, "talker", CLOUDS4[1], "/bin/sh", "-c", server,
            options=("--start-timeout", "100ms"))  # fmt: skip
        wait_until(lambda: lab.viscum("logs", "talker").stdout == "first\n", "the first line")
        follower = lab.popen(
            "ap", [VISCUM, "logs", "talker", "-f"], stdout=subprocess.PIPE, text=True
        )
        assert follower.stdout is not None
        assert follower.stdout.readline() == "first\n"
        fifo.write_text("second\n")
        assert follower.stdout.readline() == "second\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait() in (0, 1)
        assert lab.viscum("logs", "talker", "-n", "1").stdout == "second\n"
        assert lab.viscum("logs", "talker", "--since", "1h").stdout == "first\nsecond\n"
    finally:
        fifo.unlink()


def test_exec(box: Lab) -> None:
    assert box.viscum("exec", "web", "--", "sh", "-c", "exit 7").returncode == 7
    assert box.viscum("exec", "web", "sh", "-c", "exit 8").returncode == 8
    inside = box.viscum("exec", "web", "--", "ip", "-o", "addr").stdout
    assert CLOUD4 in inside
    assert "wlan0" not in inside
    hosts = box.viscum("exec", "web", "cat", "/etc/hosts").stdout
    assert " web\n" in hosts
    missing = box.viscum("exec", "web", "--", "no-such-program")
    assert missing.returncode == 127
    assert "no-such-program" in missing.stderr
    killed = box.viscum("exec", "web", "--", "sh", "-c", "kill -9 $$")
    assert killed.returncode == 128 + signal.SIGKILL
    assert box.viscum("exec", "web", "--", "sh", "-c", "exit 2").returncode == 2
