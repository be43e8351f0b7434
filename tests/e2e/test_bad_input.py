"""Malformed command lines and spec files: exit 2, every problem in the user's own syntax with the
value and the next step, and nothing changed. A box that can't: exit 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.servers import EDGE, body, nginx_command
from support import need_program
from viscum.lab import AP_LAN4, AP_WAN6, CLOUD4, CLOUD6, CLOUDS4, Lab
from viscum.names import HostNames

pytestmark = pytest.mark.req("N15", "N2", "N4")
VISCUM = str(Path(sys.executable).with_name("viscum"))
FREE = CLOUDS4[1]  # a target nobody has
SERVER = ("/usr/bin/sleep", "1000")

# Everything a command may change in the access point, in one process.
LOOK = r"""
ip -d -o link | sed 's/ [0-9]*sec//g'; ip -o addr | sed 's/ [0-9]*sec//g'; ip netns list-id
for f in 4 6; do ip -$f rule; ip -$f route show table all; done
for l in $(ls /proc/sys/net/ipv4/conf); do tc qdisc show dev $l; tc filter show dev $l ingress
done 2>/dev/null
nft list ruleset
bpftool net
grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf 2>/dev/null
"""


@dataclass
class Box:
    """An access point with one service, `web`, and a place for spec files."""

    lab: Lab
    directory: Path
    config: Path
    known: dict[str, object] | None = None  # what it was after the last command, to save time

    def viscum(self, *args: str) -> subprocess.CompletedProcess[str]:
        env = {**self.lab.environment("ap"), "VISCUM_CONFIG_DIR": str(self.config)}
        return self.lab.run("ap", [VISCUM, *args], env=env)

    def state(self) -> dict[str, object]:
        prefix = HostNames(str(self.lab.state_dir)).prefix
        # The lock's text says who held it last.
        files = [p for p in self.lab.state_dir.rglob("*") if p.is_file() and p.name != "lock"]
        return {
            "kernel": self.lab.run("ap", ["sh", "-c", LOOK]).stdout.splitlines(),
            "maps": self.lab.run("ap", [sys.executable, "-c", MAPS], check=True).stdout,
            "namespaces": sorted(n for n in os.listdir("/run/netns") if n.startswith(prefix)),
            "files": {str(p): p.read_bytes() for p in files},
            "kept": sorted(self.config.rglob("*")),
            "groups": sorted(
                top + str(names)
                for top, _, names in os.walk("/sys/fs/cgroup")
                if f"/{prefix}" in top
            ),
        }


MAPS = """
from viscum.kernel import bpf
from viscum.kernel.director.attach import find
for there in find():
    for m in map(bpf.map_by_id, bpf.program_by_id(there.prog_id).map_ids()):
        print(m.name, sorted(m.items()))
"""


@pytest.fixture(scope="module")
def box(lab_factory: Callable[..., Lab]) -> Iterator[Box]:
    need_program("nginx")
    lab = lab_factory()
    directory = Path(tempfile.mkdtemp(prefix="vt-bad-", dir="/var/tmp"))
    (directory / "etc").mkdir()
    (directory / "plain").write_text("not a program\n")
    made = Box(lab, directory, directory / "etc")
    ran = made.viscum(
        "run", "--name", "web", "--on", "wlan0", "--target", CLOUD4, "--target", CLOUD6,
        "--port", "80/tcp", "--", *nginx_command(EDGE, directory),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    yield made
    lab.down()
    shutil.rmtree(directory)


def refused(box: Box, argv: Sequence[str], *said: str) -> str:
    """Exit 2, says all of `said`, changes nothing; returns what it said."""
    before = box.known or box.state()
    done = box.viscum(*argv)
    box.known = box.state()
    assert box.known == before
    assert done.returncode == 2, f"{done.returncode}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    for words in said:
        assert words in done.stderr
    return done.stderr


# ---- run -------------------------------------------------------------------------------------


def run(*changes: str, command: Sequence[str] = SERVER) -> list[str]:
    """A right command line for the service `new`, with options replaced or added: "" as a value
    leaves an option out."""
    given = {"--name": ["new"], "--on": ["wlan0"], "--target": [FREE], "--port": ["80/tcp"]}
    replaced: dict[str, list[str]] = {}
    for option, value in zip(changes[::2], changes[1::2], strict=True):
        replaced.setdefault(option, []).extend([value] if value else [])
    words = [w for o, values in (given | replaced).items() for v in values for w in (o, v)]
    return ["run", *words, "--", *command]


def test_the_base_is_right(box: Box) -> None:
    done = box.viscum("run", "--dry-run", *run()[1:])
    assert done.returncode == 0, done.stderr
    assert "would start /usr/bin/sleep" in done.stdout


COMMAND_LINES: list[tuple[list[str], tuple[str, ...]]] = [
    (run("--on", "wlan9"), ("--on 'wlan9'", "no such interface", "wlan0")),
    (run("--on", "lo"), ("--on 'lo'", "name the LAN side")),
    (run("--on", "vs0"), ("--on 'vs0'", "name the LAN side")),
    (run("--on", "a/../b"), ("--on 'a/../b'", "ip link")),
    (run("--on", "wlan0", "--on", "wlan0"), ("--on 'wlan0'", "remove one")),
    (run("--on", ""), ("--on: is missing", "give --on wlan0")),
    (run("--target", ""), ("--target: is missing", "give --target")),
    (run("--target", AP_LAN4), (f"--target '{AP_LAN4}'", "own address (on wlan0)")),
    (run("--target", AP_WAN6), (f"--target '{AP_WAN6}'", "own address (on wan0)")),
    (run("--target", "10.1.0.0/16"), ("--target '10.1.0.0/16'", f"{AP_LAN4} is this box's own")),
    (run("--target", "127.0.0.1"), ("--target '127.0.0.1'", "is loopback")),
    (run("--target", "::1"), ("--target '::1'",)),
    (run("--target", "224.0.0.1"), ("--target '224.0.0.1'",)),
    (run("--target", "ff02::1"), ("--target 'ff02::1'",)),
    (run("--target", "0.0.0.0/0"), ("--target '0.0.0.0/0'",)),
    (run("--target", "100.127.192.9"), ("--target '100.127.192.9'", "own address pool")),
    (run("--target", "no-such-name.invalid"), ("--target 'no-such-name.invalid'", "resolved")),
    (run("--target", "http://a.example/"), ("--target 'http://a.example/'", "a.example")),
    (run("--target", CLOUD4), (f"--target '{CLOUD4}'", "new and web both claim", "viscum rm web")),
    (run("--target", "198.18.0.8/29"), ("new and web both claim", f"{CLOUD4} 80/tcp")),
    (run("--target", CLOUD6, "--port", "1-100/tcp"), ("new and web both claim", CLOUD6)),
    (run("--target", CLOUD4, "--port", ""), ("new and web both claim", "80/tcp")),
    (run("--port", "80"), ("--port '80'", 'write "80/tcp" or "80/udp"')),
    (run("--port", "80/sctp"), ("--port '80/sctp'", '"443/tcp"')),
    (run("--port", "0/tcp"), ("--port '0/tcp'",)),
    (run("--port", "80/tcp", "--port", "70-90/tcp"), ("--port", "overlaps --port (")),
    (run("--client", "10.1.0.1/16"), ("--client '10.1.0.1/16'", "10.1.0.0/16")),
    (run("--share", "101"), ("--share '101'", "at most 100")),
    (run("--share", "half"), ("--share 'half'", "whole number")),
    (run("--when-down", "cluod"), ("--when-down 'cluod'", '"cloud" or "drop"')),
    (run("--firewall", "no"), ("--firewall 'no'", '"bypass" or "honour"')),
    (run("--name", ""), ("--name: is missing", "give --name web")),
    (run("--name", "../../etc"), ("--name '../../etc'", "a-z")),
    (run("--name", "a" * 41), ("--name", "1 to 40")),
    (run("--name", "."), ("--name '.'", "a-z")),
    (run("--name", "web"), ("--name 'web'", "runs already", "--replace")),
    (run("--director", "flower"), ("--director 'flower'", "not there yet", "ebpf")),
    (run("--director", "magic"), ("--director 'magic'", "no such director")),
    (run("-u", "no-such-user"), ("-u 'no-such-user'", "no such user")),
    (run("-u", "nobody", "-w", "/etc/ssl/private"), ("closed to nobody", "chmod o+rx /etc/ssl")),
    (run("-u", "nobody:no-such-group"), ("-u 'nobody:no-such-group'", "no such group")),
    (run("-w", "/no/such"), ("-w '/no/such'", "is not a directory")),
    (run("-w", "relative"), ("-w 'relative'", "/")),
    (run("-e", "NAME"), ("-e 'NAME'", "-e NAME=VALUE")),
    (run("-e", "=x"), ("-e ", "variable's name")),
    (run("--cpus", "0"), ("--cpus '0'", "at least 0.01")),
    (run("--cpus", "nan"), ("--cpus", "number")),
    (run("--memory", "lots"), ("--memory 'lots'", "256M")),
    (run("--memory", "1K"), ("--memory '1K'", "at least")),
    (run("--pids-limit", "0"), ("--pids-limit '0'", "use 1 or more")),
    (run("--instances", "9"), ("--instances '9'", "use 8 or less")),
    (run("--drain", "5 parsecs"), ("--drain '5 parsecs'",)),
    (run("--start-timeout", "-1s"), ("--start-timeout '-1s'",)),
    (run("--root", "/no/such"), ("--root '/no/such'", "is not a directory")),
    (run("--root", "/"), ("--root '/'", "leave")),
    (run("--sandbox", "loose"), ("--sandbox 'loose'", '"off" or "strict"')),
    (run("--sandbox", "strict", "-u", "nobody"), ("-u 'nobody'", "a user of its own")),
    (
        run("--sandbox", "strict", command=("/home/me/server",)),
        ("COMMAND '/home/me/server'", "hidden", "/home", 'sandbox = "strict"'),
    ),
    (run("--sandbox", "strict", "-w", "/root"), ("-w '/root'", "hidden")),
    (run("--sandbox", "strict", "-w", "/etc/ssl/private"), ("chmod o+rx /etc/ssl/private",)),
    (run("--allow", "everything"), ("--allow 'everything'", "internet")),
    (run(command=()), ("COMMAND: is missing", "after --")),
    (run(command=("",)), ("COMMAND", "name the program")),
    (run(command=("./server",)), ("COMMAND './server'", "absolute path")),
    (run(command=("no-such-program",)), ("COMMAND 'no-such-program'", "not found in")),
    (run(command=("/no/such",)), ("COMMAND '/no/such'", "does not exist")),
    (run(command=("/var",)), ("COMMAND '/var'", "is a directory")),
    (run(command=("/tmp/server",)), ("COMMAND '/tmp/server'", "hidden", "/srv")),
    (run()[:-3] + list(SERVER), ("no `--`",)),
    (["run", "--name", "x", *SERVER, "--svae"], ("no `--`",)),
    (["run", "--svae", "--name", "x", *SERVER], ("No such option '--svae'", "--save")),
    (["run", "--naem", "x", "--", *SERVER], ("--naem", "--name")),
    (["frobnicate"], ("frobnicate", "viscum --help")),
    (["staus", "web"], ("did you mean status",)),
    (["rm"], ("--all",)),
    (["rm", "--all", "web"], ("not both",)),
    (["rm", "web", "wbe"], ("NAME 'wbe'", "did you mean web")),
    (["rm", "../web"], ("NAME '../web'", "web")),
    (["enable", "nope"], ("NAME 'nope'", "there are: web")),
    (["enable", "web", "--for", "soon"], ("--for", "soon")),
    (["disable", "web", "nope"], ("NAME 'nope'",)),
    (["disable", "web", "--now", "--drain", "3s"], ("--drain or --now",)),
    (["disable", "web", "--drain", "-3s"], ("--drain",)),
    (["stop", "nope"], ("NAME 'nope'",)),
    (["start", "nope"], ("NAME 'nope'",)),
    (["restart", "nope"], ("NAME 'nope'",)),
    (["status", "nope"], ("NAME 'nope'",)),
    (["logs", "nope"], ("NAME 'nope'",)),
    (["logs", "../../../etc"], ("NAME '../../../etc'",)),
    (["logs", "web", "-n", "-1"], ("-n",)),
    (["exec", "nope", "--", "true"], ("NAME 'nope'",)),
    (["exec", "web"], ("COMMAND",)),
    (["export", "nope"], ("NAME 'nope'",)),
    (["apply"], ("FILE",)),
    (["apply", "/no/such.toml"], ("/no/such.toml", "check the path")),
    (["plan", "/dev/null/x"], ("/dev/null/x",)),
    (["--lock-timeout", "never", "ls"], ("--lock-timeout",)),
]


@pytest.mark.parametrize(
    ("argv", "said"), COMMAND_LINES, ids=[" ".join(a)[:60] for a, _ in COMMAND_LINES]
)
def test_a_command_line(box: Box, argv: list[str], said: tuple[str, ...]) -> None:
    refused(box, argv, *said)


def test_a_file_that_is_no_program(box: Box) -> None:
    plain = str(box.directory / "plain")
    refused(box, run(command=(plain,)), f"COMMAND '{plain}'", f"chmod +x {plain}")


def test_all_problems_at_once(box: Box) -> None:
    said = refused(
        box,
        run(
            "--on", "wlan9", "--target", AP_LAN4, "--target", CLOUD4, "-u", "no-such-user",
            "--director", "flower", "-w", "/no/such", command=("/no/such",),
        ),
    )  # fmt: skip
    for field in ("--on 'wlan9'", f"--target '{AP_LAN4}'", "web both claim", "-u", "--director",
                  "-w", "COMMAND"):  # fmt: skip
        assert field in said
    assert "steer." not in said, "in the command line's words"
    assert "nothing was changed" in said


def test_what_is_wrong_by_itself_and_here(box: Box, tmp_path: Path) -> None:
    """Malformed values do not hide what only the box can tell of the others."""
    said = refused(
        box,
        run("--name", "No", "--port", "80", "--port", "81/tcp", "--on", "wlan9", "--share", "x",
            command=("/no/such",)),
        "--name 'No'", "--port '80'", "--share 'x'", "--on 'wlan9'", "COMMAND '/no/such'",
    )  # fmt: skip
    assert len(said.splitlines()) == 6, said
    write(tmp_path / "1.toml", {"steer.ports": '["80"]', "run.user": '"no-such-user"'})
    write(tmp_path / "2.toml", {"name": '"other"', "steer.targets": f'["{AP_LAN4}"]'})
    said = refused(
        box, ["apply", str(tmp_path)],
        f"{tmp_path}/1.toml: steer.ports[0]", f"{tmp_path}/1.toml: run.user",
        f"{tmp_path}/2.toml: steer.targets",
    )  # fmt: skip
    assert len(said.splitlines()) == 4, said


# ---- apply -----------------------------------------------------------------------------------

SPEC = {
    "name": '"new"',
    "command": '["/usr/bin/sleep", "1000"]',
    "steer.interfaces": '["wlan0"]',
    "steer.targets": f'["{FREE}"]',
    "steer.ports": '["80/tcp"]',
}

SPECS: list[tuple[dict[str, str | None], tuple[str, ...]]] = [
    ({"steer.interfaces": '["wlan9"]'}, ("steer.interfaces[0] 'wlan9'", "no such interface")),
    ({"steer.interfaces": '["wlan0", "lo"]'}, ("steer.interfaces[1] 'lo'", "LAN side")),
    ({"steer.interfaces": None}, ("steer.interfaces", "is missing", "add interfaces = [")),
    ({"steer.targets": f'["{AP_LAN4}"]'}, ("steer.targets", AP_LAN4, "own address")),
    ({"steer.targets": f'["{CLOUD4}"]'}, ("steer.targets", "new and web both claim")),
    ({"steer.targets": '["169.254.169.254"]'}, ("steer.targets[0]",)),
    ({"steer.targets": '["a\\u0000b"]'}, ("steer.targets[0]",)),
    ({"steer.tragets": "[]"}, ("steer.tragets", "did you mean targets")),
    ({"port": '"80/tcp"'}, ("port", "write ports in [steer]")),
    ({"name": '"a/../../b"'}, ("name 'a/../../b'", "a-z")),
    ({"name": '"we\\u0000b"'}, ("name", "NUL byte")),
    ({"name": '"' + "x" * 5000 + '"'}, ("name", "1 to 40")),
    ({"command": '["/usr/bin/sleep", "1\\u0000"]'}, ("command[1]", "NUL", "remove it")),
    ({"command": '"sleep 1"'}, ("command", '["sleep", "1"]')),
    ({"command": '["/tmp/x"]'}, ("command[0] '/tmp/x'", "hidden")),
    ({"run.user": '"no-such-user"'}, ("run.user 'no-such-user'", "no such user")),
    ({"run.drain": '"a while"'}, ("run.drain 'a while'",)),
    ({"run.environment": '{ "A=B" = "c" }'}, ("run.environment", "'='")),
    ({"run.working-directory": '"/tmp/x"'}, ("run.working-directory", "hidden")),
    ({"run.ready": '["/no/such", "x"]'}, ("run.ready[0] '/no/such'", "does not exist")),
    ({"run.ready": '["no-such"]'}, ("run.ready[0] 'no-such'", "not found in")),
    (
        {"run.ready": '["/home/me/warm"]', "run.sandbox": '"strict"'},
        ("run.ready[0] '/home/me/warm'", "hidden", "/srv"),
    ),
    (
        {"probe.type": '"exec"', "probe.command": '["/etc/passwd"]'},
        ("probe.command[0] '/etc/passwd'", "chmod +x /etc/passwd"),
    ),
    ({"limits.memory": '"12Q"'}, ("limits.memory '12Q'",)),
    ({"director": '"flower"'}, ("director 'flower'", "not there yet")),
    ({"instances": "0"}, ("instances", "use 1 or more")),
    ({"name": '"web"\nname = "x"'}, ("is not TOML", "line 2")),
]


def write(path: Path, changes: dict[str, str | None]) -> None:
    tables: dict[str, list[str]] = {"": []}
    for where, literal in (SPEC | changes).items():
        table, _, key = where.rpartition(".")
        if literal is not None:
            tables.setdefault(table, []).append(f"{key} = {literal}")
    parts = [f"[{table}]\n" * bool(table) + "\n".join(lines) for table, lines in tables.items()]
    path.write_text("\n".join(parts) + "\n")


@pytest.mark.parametrize(("changes", "said"), SPECS, ids=[str(c)[:50] for c, _ in SPECS])
def test_a_spec_file(
    box: Box, changes: dict[str, str | None], said: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "new.toml"
    write(file, changes)
    words = refused(box, ["apply", str(file)], *said)
    problems = [line for line in words.splitlines() if line.startswith("viscum:")]
    assert problems
    assert all(line.startswith(f"viscum: {file}") for line in problems)


def test_every_file_is_checked_before_the_first_is_applied(box: Box, tmp_path: Path) -> None:
    write(tmp_path / "1.toml", {"name": '"one"'})
    write(tmp_path / "2.toml", {"name": '"two"'})  # the same target
    write(tmp_path / "3.toml", {"name": '"three"', "steer.interfaces": '["wlan9"]'})
    said = refused(box, ["apply", str(tmp_path)], "two and one both claim", "'wlan9'")
    assert f"{tmp_path}/2.toml: steer.targets" in said
    assert f"{tmp_path}/3.toml: steer.interfaces[0]" in said


# ---- what the box says -----------------------------------------------------------------------


def test_a_route_of_the_box_in_the_pool(box: Box) -> None:
    """It came after the first service chose the pool."""
    route = ["ip", "route", "add", "100.127.200.0/24", "dev", "wan0"]
    box.lab.run("ap", route, check=True)
    box.known = None
    try:
        refused(box, run(), "pool '100.127.192.0/19'", "100.127.200.0/24", "host.toml")
    finally:
        box.lab.run("ap", ["ip", "route", "del", "100.127.200.0/24"], check=True)
        box.known = None


HOST_TOML = [
    ('pool = "10.1.0.0/16"', ("pool '10.1.0.0/16'", "10.1.0.0/24")),
    ('pool = "10.77.0.0/24"', ("host.toml: pool '10.77.0.0/24'", "too small")),
    ('pool = "ten"', ("host.toml: pool 'ten'", 'pool = "10.0.32.0/19"')),
    ('pool6 = "10.77.0.0/19"', ("host.toml: pool6", "IPv6")),
    ("pool = 7", ("host.toml: pool '7'",)),
    ('pol = "10.77.0.0/19"', ("host.toml: pol", "did you mean pool")),
    ("pool = [", ("host.toml", "is not TOML")),
]


@pytest.fixture(scope="module")
def empty(lab_factory: Callable[..., Lab], tmp_path_factory: pytest.TempPathFactory) -> Box:
    """A box without services: the pool is not chosen yet."""
    directory = tmp_path_factory.mktemp("config")
    return Box(lab_factory(), directory, directory)


@pytest.mark.parametrize(("text", "said"), HOST_TOML, ids=[t for t, _ in HOST_TOML])
def test_the_settings_of_the_host(empty: Box, text: str, said: tuple[str, ...]) -> None:
    (empty.config / "host.toml").write_text(text)
    empty.known = None
    refused(empty, run(), *said)


def test_a_pool_of_the_operators_choice(empty: Box) -> None:
    text = 'pool = "10.77.64.0/19"\npool6 = "fd77:1::/112"\n'
    (empty.config / "host.toml").write_text(text)
    empty.known = None
    done = empty.viscum("run", "--dry-run", *run()[1:])
    assert done.returncode == 0, done.stderr
    assert "10.77.64.1/31" in done.stdout
    assert "fd77:1::1/127" in done.stdout


def test_a_limit_this_box_cannot_set(empty: Box) -> None:
    """A router's kernel often has no memory controller; this one has, so it is told otherwise."""
    (empty.config / "host.toml").unlink(missing_ok=True)
    code = (
        "import sys\n"
        "from viscum.kernel import cgroup\n"
        "cgroup.available = lambda: frozenset({'cpu'})\n"
        "from viscum.cli import main\n"
        "sys.argv[0] = 'viscum'\n"
        "main()\n"
    )
    before = empty.state()
    argv = run("--memory", "64M", "--pids-limit", "9", "--cpus", "0.5")
    done = empty.lab.run("ap", [sys.executable, "-c", code, *argv])
    assert done.returncode == 2, done.stderr
    assert "--memory '64M'" in done.stderr
    assert "no memory controller" in done.stderr
    assert "--pids-limit '9'" in done.stderr
    assert "--cpus" not in done.stderr
    assert empty.state() == before


# ---- exit 1 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [run(), ["ls"], ["status", "web"], ["rm", "web"], ["rm", "--all"], ["enable", "web"],
     ["logs", "web"], ["export", "web"], ["exec", "web", "--", "true"],
     ["plan", "FILE"], ["apply", "FILE"]],
    ids=lambda argv: argv[0],
)  # fmt: skip
def test_without_root(box: Box, argv: list[str]) -> None:
    file = box.directory / "new.toml"
    write(file, {})
    box.directory.chmod(0o755)
    words = [str(file) if word == "FILE" else word for word in argv]
    before = box.state()
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]
    code = "import sys; from viscum.cli import main; sys.argv[0] = 'viscum'; main()"
    done = box.lab.run("ap", [*nobody, sys.executable, "-c", code, *words])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "root's" in done.stderr
    assert "sudo" in done.stderr
    assert "Traceback" not in done.stderr
    assert box.state() == before


@pytest.mark.parametrize("fault", ["RuntimeError('boom')", "MemoryError()", "KeyError(2)"])
def test_a_fault_of_viscums_own_is_1_never_2(box: Box, fault: str) -> None:
    code = (
        "import sys\n"
        "from viscum import status\n"
        f"def broken(*a, **k): raise {fault}\n"
        "status.services = broken\n"
        "from viscum.cli import main\n"
        "sys.argv = ['viscum', 'ls']\n"
        "main()\n"
    )
    done = box.lab.run("ap", [sys.executable, "-c", code])
    assert done.returncode == 1
    assert fault.partition("(")[0] in done.stderr
    assert "fault of viscum's" in done.stderr


def test_the_service_still_serves(box: Box) -> None:
    """After all of the above."""
    assert body(box.lab, CLOUD4) == EDGE
