"""A hostile server in a strict sandbox (C6): each attack fails, and would not without the sandbox.

`attacker.py` runs as three services. *mallory* is sandboxed and attacks; *victim* is another
tenant's, sandboxed as well; *loose* is the control: the same program without a sandbox, as root
with the default capabilities. Attacks that even root is kept from by its missing capabilities have
another control: the operator's own powers in mallory's place (`viscum exec`). So every test has a
column that shows what it would look like if the sandbox did not hold.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from e2e.net import PORT, apply, ask, connect, ok, run, start_peer
from support import need_kernel, wait_until
from viscum.kernel import logs, process
from viscum.kernel.cgroup import Group
from viscum.lab import CLOUD4, CLOUD6, Lab
from viscum.lab.plan import AP_LAN4, AP_LAN6, AP_WAN4, AP_WAN6, CLOUDS4, CLOUDS6, ue4, ue6
from viscum.names import HostNames

pytestmark = pytest.mark.req("C6")

PYTHON = "/usr/bin/python3"  # the tests' own may be below /root, which a sandbox hides
SOURCE = Path(__file__).with_name("attacker.py")
SECRET, KEY = "the-victims-own", 0x5653
NAMESPACES = {"user": 0x1000_0000, "net": 0x4000_0000, "mount": 0x2_0000, "pid": 0x2000_0000}
NEWUSER = NAMESPACES["user"]
Figure = Callable[[str, float | str, str], None]
Try = list[Any]  # an attack's name and arguments


class World:
    """A lab with the three services."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory
        self.names = HostNames(str(lab.state_dir))

    def group(self, service: str) -> Group:
        return Group(self.names.cgroup(service, 1, 0))

    def main(self, service: str) -> int:
        found = process.main_pid(self.group(service))
        assert found is not None
        return found

    def ask(self, service: str, *tries: Try) -> list[str]:
        """What the service says of each."""
        with connect(self.lab, TARGETS[service][0], port=PORT) as conn:
            conn.settimeout(60)
            conn.sendall(json.dumps(tries).encode() + b"\n")
            answers: list[str] = json.loads(conn.makefile("rb").readline())
        assert len(answers) == len(tries)
        return answers

    def as_operator(self, *tries: Try, service: str = "mallory") -> list[str]:
        """The same program with root's powers where the service runs."""
        words = (PYTHON, "-I", "-S", self.attacker, "try", json.dumps(tries))
        answers: list[str] = json.loads(ok(self.lab.viscum("exec", service, "--", *words)))
        return answers

    @property
    def attacker(self) -> str:
        return str(self.directory / "attacker.py")

    def start(self, service: str, *options: str) -> None:
        command = (PYTHON, "-I", "-S", self.attacker, "serve", str(PORT))
        run(self.lab, service, TARGETS[service], "--port", f"{PORT}/tcp", *options, "--", *command)


TARGETS = {
    "mallory": (CLOUD4, CLOUD6),
    "victim": (CLOUDS4[1], CLOUDS6[1]),
    "loose": (CLOUDS4[2], CLOUDS6[2]),
    "ghost": (CLOUDS4[3], CLOUDS6[3]),
}
STRICT = ("--sandbox", "strict")


@pytest.fixture(scope="module")
def world(lab_factory: Callable[..., Lab]) -> Iterator[World]:
    # Not below /var/tmp, which is a sandboxed service's own.
    directory = Path("/srv") / f"vt-{os.getpid()}"
    directory.mkdir()
    try:
        shutil.copy(SOURCE, directory)
        shutil.copy("/usr/bin/id", directory / "id")
        (directory / "id").chmod(0o4755)
        (directory / "open").mkdir(mode=0o777)
        (directory / "open").chmod(0o777)
        lab = lab_factory()
        for role in ("cloud", "ue", "ap"):
            start_peer(lab, role, role, PORT + 1)
        made = World(lab, directory)
        made.start("mallory", *STRICT)
        made.start("victim", *STRICT, "-e", f"SECRET={SECRET}", "-e", f"KEY={KEY}")
        made.start("loose")
        yield made
        lab.down()
    finally:
        shutil.rmtree(directory)


# ---- attacks by what they answer ----------------------------------------------------------------


class Attack(NamedTuple):
    name: str
    tries: Callable[[World], Try]
    refused: tuple[str, ...]  # what mallory is told
    control: str  # who is told something else: "loose", "operator"; "": see the remark
    gained: str = "done"  # and what that begins with; "!" is anything but a refusal


def fixed(*words: Any) -> Callable[[World], Try]:
    return lambda world: list(words)


def at(service: str, name: str, *more: Any) -> Callable[[World], Try]:
    """With the main process of a service as the first argument."""
    return lambda world: [name, world.main(service), *more]


def of_proc(service: str, name: str, path: str) -> Callable[[World], Try]:
    return lambda world: [name, f"/proc/{world.main(service)}/{path}"]


def in_directory(name: str, path: str, *more: Any) -> Callable[[World], Try]:
    return lambda world: [name, str(world.directory / path), *more]


def in_state(name: str, path: str) -> Callable[[World], Try]:
    return lambda world: [name, str(world.lab.state_dir / path)]


EPERM = ("EPERM",)
GONE = ("ENOENT",)
READ_ONLY = ("EROFS", "EACCES", "ENOENT")
NO_FAMILY, NO_PROTOCOL = ("EAFNOSUPPORT",), ("EPROTONOSUPPORT",)

ESCAPE = [
    Attack("the host's network by init", fixed("setns", "/proc/1/ns/net"), GONE, ""),
    Attack(
        "the host's network by another process",
        lambda world: ["setns", f"/proc/{os.getpid()}/ns/net"], GONE, "operator"
    ),
    Attack("another service's network", of_proc("victim", "setns", "ns/net"), GONE, "operator"),
    Attack("setns at all", fixed("setns", "/proc/self/ns/net"), EPERM, "operator"),
    Attack("named namespaces", fixed("listing", "/run/netns"), GONE, ""),  # private /run, for all
    *(
        Attack(f"unshare a user and a {kind} namespace", fixed("unshare", NEWUSER | flag), EPERM,
               "loose")
        for kind, flag in NAMESPACES.items()
    ),
    Attack("clone into a user namespace", fixed("clone", NEWUSER), EPERM, "loose"),
    Attack("clone3 into a user namespace", fixed("clone3", NEWUSER), ("ENOSYS",), "loose"),
    Attack("mount", fixed("mount"), EPERM, "operator"),
    Attack("remount / writable", fixed("remount"), EPERM, "operator"),
    Attack("the new calls for mounts", fixed("fsopen"), EPERM, "operator"),
    Attack("uncover what is hidden", fixed("umount", "/nowhere"), EPERM, "operator", "!"),
    Attack("pivot_root", fixed("pivot_root"), EPERM, "operator", "!"),
    Attack("chroot", fixed("chroot"), EPERM, "operator"),
]  # fmt: skip

PROCESSES = [
    Attack("see others' processes", fixed("processes"), GONE, "loose"),
    Attack("another's environment", of_proc("victim", "read", "environ"), GONE, "operator"),
    Attack("another's arguments", of_proc("victim", "read", "cmdline"), GONE, "loose"),
    Attack("another's memory", of_proc("victim", "read", "mem"), GONE, "operator", "!"),
    Attack("another's files", of_proc("victim", "read", "root/tmp/secret"), GONE, "operator",
           f"done {SECRET}"),
    Attack("another's descriptors", of_proc("victim", "listing", "fd"), GONE, "operator"),
    Attack("the box's init", fixed("read", "/proc/1/cmdline"), GONE, "loose"),
    Attack("kill another's", at("victim", "kill", 9), EPERM, ""),  # its control would kill it
    Attack("signal another's", at("victim", "kill", 0), EPERM, "loose"),
    Attack("signal another's, by pidfd", at("victim", "pidfd_signal"), EPERM, "loose"),
    Attack("signal init", fixed("kill", 1, 15), EPERM, ""),
    Attack("ask init", fixed("kill", 1, 0), EPERM, "loose"),
    Attack("take another's descriptor", at("victim", "pidfd_getfd"), EPERM, "operator"),
    Attack("trace another's", at("victim", "ptrace"), EPERM, "operator"),
    Attack("trace one's own", fixed("ptrace", 0), EPERM, "loose"),
    Attack("read another's memory", at("victim", "read_memory"), EPERM, "operator"),
    Attack("another's limits", at("victim", "prlimit"), EPERM, ""),  # this box lacks sys-resource
    Attack("move another to one processor", at("victim", "pin"), EPERM, "operator"),
    Attack("compare another's", at("victim", "kcmp"), EPERM, "operator"),
    Attack("a higher priority", fixed("priority"), ("EPERM", "EACCES"), "operator"),
    Attack("real time", fixed("realtime"), EPERM, ""),
    Attack("another's shared memory", fixed("shared_memory", KEY), GONE, ""),  # see below
    Attack("another's abstract socket", fixed("abstract", SECRET), ("ECONNREFUSED",), ""),
]  # fmt: skip

FILES = [
    *(
        Attack(f"write {path}", fixed("writable", path), READ_ONLY, "loose")
        for path in ("/etc/passwd", "/etc/group", "/usr/bin/env", "/root/.profile")
    ),
    *(
        Attack(f"a file in {path}", fixed("create", f"{path}/vt-attack"), READ_ONLY, "loose")
        for path in ("/", "/etc", "/usr/local/bin", "/var/lib", "/home", "/opt")
    ),
    Attack("a file where anybody may write", in_directory("create", "open/x"), READ_ONLY, "loose"),
    Attack("/etc/shadow", fixed("read", "/etc/shadow"), ("EACCES",), "loose"),
    Attack("root's home", fixed("listing", "/root"), GONE, "loose"),
    Attack("the box's logs", fixed("listing", "/var/log"), GONE, "loose"),
    Attack("Viscum's records", in_state("listing", "."), GONE, ""),  # hidden from all
    Attack("the controller's socket", in_state("unix", "controller.sock"), GONE, ""),
    Attack("core_pattern", fixed("write", "/proc/sys/kernel/core_pattern", "core"), READ_ONLY, ""),
    Attack("its own OOM score", fixed("write", "/proc/self/oom_score_adj", "500"), ("EROFS",),
           "loose"),
    Attack("its own memory's file", fixed("writable", "/proc/self/mem"), ("EROFS",), "loose"),
    Attack("control groups", fixed("listing", "/sys/fs/cgroup"), GONE, ""),  # for nobody
    Attack("sysfs", fixed("writable", "/sys/kernel/uevent_seqnum"), READ_ONLY, ""),
    Attack("a disk's node", fixed("device", 254, 0), EPERM, "operator"),
    Attack("a device", fixed("writable", "/dev/kmsg"), GONE, "loose"),
    Attack("physical memory", fixed("read", "/dev/mem"), GONE, ""),
    Attack("kernel messages", fixed("call", "syslog", 3, 0, 0), EPERM, "operator", "!"),
]  # fmt: skip

KERNEL = [
    Attack("bpf", fixed("call", "bpf", 0, 0, 0), EPERM, "operator", "!"),
    Attack("perf", fixed("call", "perf_event_open", 0, 0, 0, 0, 0), EPERM, "operator", "!"),
    Attack("userfaultfd", fixed("call", "userfaultfd", 0), EPERM, "operator"),
    Attack("io_uring", fixed("call", "io_uring_setup", 8, 0), ("ENOSYS",), "loose", "!"),
    Attack("keys", fixed("call", "add_key", "user", "vt", "x", 1, -1), EPERM, "loose", "!"),
    Attack("the key ring", fixed("call", "keyctl", 0, -1, 1), EPERM, "loose", "!"),
    Attack("a module", fixed("call", "init_module", "x", 1, ""), EPERM, ""),
    Attack("another kernel", fixed("call", "kexec_load", 0, 0, 0, 0), EPERM, ""),
    Attack("files by handle", fixed("call", "open_by_handle_at", -1, 0, 0), EPERM, "operator", "!"),
    Attack("personality", fixed("call", "personality", 0x40000), EPERM, "loose"),
    Attack("accounting", fixed("call", "acct", "/nowhere"), EPERM, "operator", "!"),
    Attack("swap", fixed("call", "swapon", "/nowhere", 0), EPERM, "operator", "!"),
    Attack("quotas", fixed("call", "quotactl", 0x800005 << 8, "/nowhere", 0, 0), EPERM, "operator",
           "!"),
    Attack("reboot", fixed("call", "reboot", 1, 2, 3, 0), EPERM, "operator", "!"),
    Attack("the clock", fixed("set_clock"), EPERM, "operator"),
    Attack("the box's name", fixed("sethostname"), EPERM, "operator"),
    Attack("typing on a terminal", fixed("terminal", 0x5412), EPERM, "operator"),
    Attack("a line discipline", fixed("terminal", 0x5423), EPERM, "loose"),
    Attack("x32's numbers", fixed("x32"), ("ENOSYS",), ""),  # a kernel without x32 says so too
    Attack("locked memory", fixed("lock_memory", 1 << 20), ("ENOMEM", "EAGAIN"), "loose"),
]  # fmt: skip

RAW, DGRAM, STREAM = socket.SOCK_RAW, socket.SOCK_DGRAM, socket.SOCK_STREAM
NETLINK = socket.AF_NETLINK
NETWORK = [
    Attack("raw IP", fixed("sock", socket.AF_INET, RAW, 255), EPERM, "operator"),
    Attack("raw IPv6", fixed("sock", socket.AF_INET6, RAW, 255), EPERM, "operator"),
    Attack("packets", fixed("sock", socket.AF_PACKET, RAW, 768), NO_FAMILY, "operator"),
    Attack("the hypervisor", fixed("sock", socket.AF_VSOCK, STREAM, 0), NO_FAMILY, ""),
    Attack("the kernel's ciphers", fixed("sock", socket.AF_ALG, 5, 0), NO_FAMILY, ""),
    Attack("SCTP's module", fixed("sock", socket.AF_INET, STREAM, 132), NO_PROTOCOL, ""),
    Attack("netfilter by netlink", fixed("sock", NETLINK, RAW, 12), NO_PROTOCOL, "loose"),
    Attack("generic netlink", fixed("sock", NETLINK, RAW, 16), NO_PROTOCOL, "loose"),
    Attack("audit", fixed("sock", NETLINK, RAW, 9), NO_PROTOCOL, ""),
    Attack("an address of its own choice",
           fixed("program", "ip", "addr", "add", "192.0.2.77/32", "dev", "lo"), EPERM, "operator"),
    Attack("a route of its own choice",
           fixed("program", "ip", "route", "add", "192.0.2.0/24", "dev", "lo"), EPERM, "operator"),
    Attack("its link", fixed("program", "ip", "link", "set", "lo", "mtu", "60000"), EPERM,
           "operator"),
    Attack("its rules", fixed("program", "ip", "rule", "add", "pref", "32000", "lookup", "254"),
           EPERM, "operator"),
    Attack("nft", fixed("program", "nft", "add", "table", "inet", "vt"), EPERM, "operator"),
    Attack("a mark", fixed("sockopt", socket.SOL_SOCKET, 36, 0x5653_0001), EPERM, "operator"),
    Attack("addresses that are not its own", fixed("sockopt", 0, 19, 1), EPERM, "operator"),
]  # fmt: skip

ALL = [*ESCAPE, *PROCESSES, *FILES, *KERNEL, *NETWORK]


@pytest.fixture(scope="module")
def answers(world: World) -> dict[str, dict[str, str]]:
    """Who → attack → answer: all of it in three goes."""

    def by(who: str, tell: Callable[..., list[str]]) -> dict[str, str]:
        mine = [a for a in ALL if who in ("mallory", a.control)]
        found = tell(*(attack.tries(world) for attack in mine))
        return dict(zip((a.name for a in mine), found, strict=True))

    return {
        "mallory": by("mallory", partial(world.ask, "mallory")),
        "loose": by("loose", partial(world.ask, "loose")),
        "operator": by("operator", world.as_operator),
    }


def test_the_number_of_attacks(answers: dict[str, dict[str, str]], figure: Figure) -> None:
    """Two of one name would hide each other."""
    assert len(answers["mallory"]) == len(ALL)
    figure("attacks that are refused, of those with one answer", len(ALL), "")
    figure("of which have a control", sum(bool(a.control) for a in ALL), "")


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name.replace(" ", "-"))
def test_refused_to_the_sandboxed_only(attack: Attack, answers: dict[str, dict[str, str]]) -> None:
    assert answers["mallory"][attack.name] in attack.refused
    if attack.control:
        other = answers[attack.control][attack.name]
        if attack.gained == "!":
            assert other not in (*attack.refused, "EPERM", "EACCES", "ENOSYS")
        else:
            assert other.startswith(attack.gained)


# ---- what can't be said in one word -------------------------------------------------------------


def test_everybody_is_somebody_else(world: World) -> None:
    """A uid and a gid of their own, which are nobody's on the box, and no group."""
    found = {name: world.ask(name, ["identity"])[0] for name in ("mallory", "victim", "loose")}
    uids = {name: int(answer.split()[1]) for name, answer in found.items()}
    for name in ("mallory", "victim"):
        assert found[name] == f"done {uids[name]} {uids[name]}"
        with pytest.raises(KeyError):
            pwd.getpwuid(uids[name])
    assert uids["loose"] == 0
    assert len(set(uids.values())) == 3


def test_a_set_user_id_program_is_an_ordinary_one(world: World) -> None:
    tool = str(world.directory / "id")
    own = world.ask("mallory", ["identity"])[0].split()[1]
    assert world.ask("mallory", ["run_as", tool]) == [f"done {own}"]
    control = ["setpriv", "--reuid", "65534", "--clear-groups", tool, "-u"]
    assert subprocess.run(control, capture_output=True, text=True).stdout == "0\n"


def test_another_machines_calls_end_the_process(world: World) -> None:
    """By int 0x80 the same kernel has another table."""
    need_kernel("x86_64 with i386's system calls", world.ask("loose", ["int80"]) == ["done True"])
    assert world.ask("mallory", ["int80"]) == [f"ended by -{int(signal.SIGSYS)}"]


def test_shared_memory_is_each_services_own(world: World) -> None:
    """The victim has a segment of that key; in one IPC namespace it would be found by it."""
    made, found, dropped = world.as_operator(
        ["make_segment", KEY, "the-boxes"], ["shared_memory", KEY], ["drop_segment", KEY]
    )
    assert (made, found, dropped) == ("done", "done the-boxes", "done")
    assert world.ask("victim", ["shared_memory", KEY]) == [f"done {SECRET}"]
    assert world.ask("mallory", ["shared_memory", KEY]) == ["ENOENT"]


def test_abstract_sockets_are_each_services_own(world: World) -> None:
    assert world.ask("victim", ["abstract", SECRET]) == [f"done {SECRET}"]
    assert world.ask("mallory", ["abstract", SECRET]) == ["ECONNREFUSED"]


def test_links_in_tmp_lead_nowhere(world: World) -> None:
    """Root of the box never meets them: /tmp is the service's own. Nor does an operator who writes
    through one inside, where what it points to is read-only."""
    trap = "/tmp/vt-trap"
    assert world.ask("mallory", ["symlink", trap, "/etc/passwd"]) == ["done"]
    assert not os.path.lexists(trap)
    assert world.as_operator(["writable", trap]) == ["EROFS"]
    assert world.ask("victim", ["writable", trap]) == ["ENOENT"]


# ---- the network --------------------------------------------------------------------------------

NOT_REACHED = ("ETIMEDOUT", "ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EACCES", "EPERM",
               "timed out")  # fmt: skip


def own_address(world: World, service: str, version: int) -> str:
    words = ["ip", f"-{version}", "-j", "addr", "show", "dev", "eth0", "scope", "global"]
    (link,) = json.loads(ok(world.lab.viscum("exec", service, "--", *words)))
    return str(link["addr_info"][0]["local"])


@pytest.mark.parametrize("version", [4, 6], ids=["v4", "v6"])
def test_the_router_its_lan_and_other_tenants_are_out_of_reach(world: World, version: int) -> None:
    second = version == 6
    victim, target = own_address(world, "victim", version), TARGETS["mallory"][second]
    places = [
        (AP_LAN4, AP_LAN6)[second],
        (AP_WAN4, AP_WAN6)[second],
        (ue4(), ue6())[second],
    ]
    assert world.ask("mallory", ["dial", target, PORT + 1]) == ["done cloud"]
    tries: list[Try] = [["dial", address, PORT + 1] for address in places]
    tries += [["dial", address, PORT + 1, target] for address in places]
    tries += [["dial", victim, PORT], ["dial", TARGETS["victim"][second], PORT]]
    with ThreadPoolExecutor(len(tries)) as pool:
        refused = [answer for (answer,) in pool.map(partial(world.ask, "mallory"), tries)]
    assert [answer for answer in refused if answer not in NOT_REACHED] == []
    # All of them are there, for those who may: the peers, and the victim for the router.
    for role, address in zip(("ue", "ue", "ap"), places, strict=True):
        with connect(world.lab, address, role, PORT + 1) as conn:
            assert ask(conn)[0] in ("ap", "ue")
    with connect(world.lab, victim, "ap") as conn:
        conn.sendall(b'[["identity"]]\n')
        assert b"done" in conn.recv(100)
    assert world.ask("victim", ["identity"])[0].startswith("done")


# ---- more than there is -------------------------------------------------------------------------


def test_a_fork_bomb(world: World, figure: Figure) -> None:
    """The default limit of processes, where the spec has none."""
    count = int(world.ask("mallory", ["fork_bomb"])[0].split()[1])
    figure("processes of a fork bomb", count, "")
    assert 100 < count < 128
    assert world.ask("victim", ["identity"])[0].startswith("done")
    assert world.ask("mallory", ["identity"])[0].startswith("done")
    assert world.ask("loose", ["fork_bomb"]) == ["done 300"]


def test_a_memory_bomb(world: World) -> None:
    """The kernel ends the bomb and not the server."""
    size = 160 << 20
    before = world.main("mallory")
    assert world.ask("mallory", ["memory_bomb", size]) == [f"done -{int(signal.SIGKILL)}"]
    assert world.main("mallory") == before
    assert world.group("mallory").usage().oom_kills
    assert world.ask("loose", ["memory_bomb", size]) == ["done 0"]


def test_filling_the_disk(world: World, figure: Figure) -> None:
    """Only tmpfs of bounded size can be written to, and they count as the service's memory."""
    places = ("/tmp", "/run", "/dev/shm")
    found = world.ask("mallory", *(["fill", place] for place in places))
    sizes = {place: int(answer.split()[1]) for place, answer in zip(places, found, strict=True)}
    figure("most a service can write to files", sum(sizes.values()) / 2**20, "MB")
    for place, size in {"/tmp": 16 << 20, "/run": 4 << 20, "/dev/shm": 16 << 20}.items():
        assert size * 0.9 < sizes[place] <= size


def test_all_the_file_descriptors(world: World, figure: Figure) -> None:
    count = int(world.ask("mallory", ["open_files"])[0].split()[1])
    figure("open files of a process", count, "")
    assert 1000 < count <= 16384
    assert world.ask("victim", ["identity"])[0].startswith("done")


def test_a_flood_of_the_log(world: World, figure: Figure) -> None:
    """It fills a file system of its own, and the next command takes it back to what is kept."""
    log = str(world.lab.state_dir / "logs" / "mallory" / "1.0.log")
    begun = time.monotonic()
    assert world.ask("mallory", ["flood", 64 << 20]) == ["done"]
    figure("64 MB into the log", time.monotonic() - begun, "s")
    used = logs.used(log)
    figure("of which are kept until the next command", used / 2**20, "MB")
    assert 15 << 20 < used <= 16 << 20
    ok(world.lab.viscum("tidy"))
    assert logs.used(log) <= (1 << 20) + 8192
    assert world.ask("mallory", ["identity"])[0].startswith("done")


def tracked(world: World) -> int:
    words = ["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]
    return int(ok(world.lab.run("ap", words)))


def test_filling_the_routers_connection_tracking(world: World, figure: Figure) -> None:
    """One datagram is one entry of a table that all the router's clients share."""
    count = 20_000
    before = tracked(world)
    assert world.ask("mallory", ["datagrams", CLOUDS4[1], count]) == ["done"]
    gained = tracked(world) - before
    figure(f"entries by {count} datagrams, sandboxed", gained, "")
    assert gained < count / 10
    assert world.ask("loose", ["datagrams", CLOUDS4[1], count]) == ["done"]
    assert tracked(world) - before > count
    wait_until(  # its burst comes back
        lambda: world.ask("mallory", ["dial", CLOUD4, PORT + 1]) == ["done cloud"], "an answer"
    )


@pytest.mark.parametrize("version", [4, 6], ids=["v4", "v6"])
def test_filling_the_boxes_table_of_neighbours(world: World, version: int) -> None:
    """Neighbours that are being asked for count for all namespaces together (1024 by default): the
    router could not find its own clients any more. There is no control, which would take IPv6 from
    whatever else runs on this machine; before the link did without ARP, this failed."""
    count = 3000
    assert world.ask("mallory", ["neighbours", version, count]) == [f"done {count}"]
    client = (ue4(), ue6())[version == 6]
    ok(world.lab.run("ap", ["ip", f"-{version}", "neigh", "flush", "dev", "wlan0"]))
    with connect(world.lab, client, "ap", PORT + 1) as conn:
        assert ask(conn)[0] == "ue"


def test_no_core_dumps(world: World) -> None:
    assert world.ask("mallory", ["dump_core"]) == ["done False"]


# ---- a service that does not want to end --------------------------------------------------------


@pytest.fixture
def ghost(world: World) -> Iterator[int]:
    """One more hostile service, to be stopped; its uid."""
    spec = f"""
name = "ghost"
command = {json.dumps([PYTHON, "-I", "-S", world.attacker, "serve", str(PORT)])}
[steer]
interfaces = ["wlan0"]
targets = {json.dumps(TARGETS["ghost"])}
ports = ["{PORT}/tcp"]
[run]
sandbox = "strict"
stop-timeout = "500ms"
[egress]
allow = []
"""
    apply(world.lab, spec)
    uid = int(world.ask("ghost", ["identity"])[0].split()[1])
    yield uid
    ok(world.lab.viscum("rm", "--now", "ghost"))


def of_user(uid: int) -> set[int]:
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == uid:
                found.add(int(name))
        except FileNotFoundError:
            continue
    return found


def test_without_egress_there_is_nothing_to_track(world: World, ghost: int) -> None:
    before = tracked(world)
    assert world.ask("ghost", ["datagrams", CLOUDS4[1], 5000]) == ["done"]
    assert tracked(world) - before < 50  # others' are not counted apart


def test_nothing_outlives_a_stop(world: World, ghost: int) -> None:
    hidden = int(world.ask("ghost", ["hide_away"])[0].split()[1])
    assert hidden in of_user(ghost)
    assert os.getsid(hidden) != os.getsid(world.main("ghost"))
    ok(world.lab.viscum("stop", "ghost"))
    wait_until(lambda: not of_user(ghost), "all its processes to go")


def test_a_signal_to_everybody_reaches_its_own_only(world: World, ghost: int) -> None:
    others = {name: world.main(name) for name in ("mallory", "victim", "loose")}
    server = world.main("ghost")
    with connect(world.lab, TARGETS["ghost"][0]) as conn, suppress(OSError):
        conn.sendall(b'[["kill", -1, 9]]\n')
        conn.recv(100)
    wait_until(lambda: server not in world.group("ghost").pids(), "the server to kill itself")
    assert {name: world.main(name) for name in others} == others
    assert world.ask("victim", ["identity"])[0].startswith("done")
