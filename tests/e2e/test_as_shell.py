"""`viscum plan FILE --as-shell`, run by sh, leaves the kernel as the native apply leaves it.

Two labs that differ in nothing but their names: in one access point the generated text runs, in
the other the library acts. Then everything the kernel tells about links, addresses, rules, routes,
filters, nft tables, switches and BPF maps has to be the same.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from e2e.servers import EDGE, body, nginx_command
from support import need_program, wait_until
from viscum.kernel import cgroup, process
from viscum.lab import CLOUD4, CLOUD6, Lab
from viscum.names import HostNames
from viscum.spec.write import toml_value
from viscum.store import HostRecord, boot_id

pytestmark = pytest.mark.req("N2", "N8")

VISCUM = str(Path(sys.executable).with_name("viscum"))
# What the native apply does, by clsact like the shell form (the CLI takes TCX where there is any).
NATIVE = """
import os, sys
from viscum.host import Host
from viscum.slowly import finish
from viscum.spec import specs_from_paths
host = Host(os.environ["VISCUM_STATE_DIR"], attach="clsact")
for _, spec in specs_from_paths(sys.argv[1:]):
    finish(host.up(spec))
"""

SIMPLE = f"""
name = "web"
command = COMMAND
[steer]
interfaces = ["wlan0"]
targets = ["{CLOUD4}"]
ports = ["80/tcp"]
"""
RICH = f"""
name = "web"
command = COMMAND
instances = 2
[steer]
interfaces = ["wlan0"]
targets = ["{CLOUD4}", "{CLOUD6}", "203.0.113.0/24", "2001:db8:77::/64"]
ports = ["80/tcp", "443/udp", "8000-8010/tcp"]
clients = ["10.1.0.0/16", "2001:db8:1::/64"]
share = 50
share-by = "flow"
when-down = "drop"
ping = "edge"
udp = {{ open = "quic-initial", idle = "90s" }}
[limits]
cpu = 0.5
memory = "256M"
processes = 64
[run]
drain = "1s"
[egress]
allow = ["internet", "router 53/udp", "lan", "10.9.0.0/16 5432/tcp"]
"""
HONOUR = """
name = "mail"
command = COMMAND
[steer]
interfaces = ["wlan0"]
targets = ["198.18.0.13", "2001:db8:c::13", "198.51.100.0/24"]
ports = ["80/tcp"]
firewall = "honour"
[run]
user = "nobody"
environment = { GREETING = "it's $HOME\\nEND\\n" }
"""


@pytest.fixture
def labs(lab_factory: Callable[..., Lab]) -> Iterator[tuple[Lab, Lab]]:
    made = lab_factory(), lab_factory()
    for lab in made:  # services are numbered from anywhere: here from the same
        record = msgspec.json.encode(HostRecord(boot_id(), "", ""))
        (lab.state_dir / "host.json").write_bytes(record)
    yield made
    for lab in made:
        lab.down()


@pytest.mark.parametrize("specs", [(SIMPLE,), (RICH, HONOUR)], ids=["simple", "rich"])
def test_shell_and_native_make_the_same(
    labs: tuple[Lab, Lab], specs: tuple[str, ...], files: Path, tmp_path: Path
) -> None:
    need_program("nginx", "ip", "tc", "nft", "bpftool", "sysctl", "setpriv")
    shell, native = labs
    command = toml_value(list(nginx_command(EDGE, files)))
    for number, text in enumerate(specs):
        (tmp_path / f"{number}.toml").write_text(text.replace("COMMAND", command))
    bare = picture(shell), picture(native)
    assert bare[0] == bare[1], "the labs themselves differ"

    planned = shell.viscum("plan", str(tmp_path), "--as-shell")
    assert planned.returncode == 0, planned.stderr
    assert picture(shell) == bare[0], "plan changed something"
    forbidden = tmp_path / "bin" / "viscum"
    forbidden.parent.mkdir()
    forbidden.write_text("#!/bin/sh\nkill $PPID\n")
    forbidden.chmod(0o755)
    environment = {"PATH": f"{forbidden.parent}:/usr/sbin:/usr/bin:/sbin:/bin"}
    ran = shell.run("ap", ["sh", "-e"], input=planned.stdout, env=environment)
    assert ran.returncode == 0, planned.stdout + ran.stderr

    done = native.run("ap", [sys.executable, "-c", NATIVE, str(tmp_path)])
    assert done.returncode == 0, done.stderr
    found, expected = settled(shell, native)
    assert differences(found, expected) == []
    assert found == expected
    assert found != bare[0]
    # The script's bpffs is gone (another run of this test has its own, for a moment).
    mounts = Path("/proc/self/mountinfo")
    wait_until(lambda: " /tmp/bpf-" not in mounts.read_text(), "the script's bpffs to go")
    assert_served(shell)

    # what commands made, viscum takes away: it knows its own by what is in the kernel
    removed = shell.viscum("rm", "--all")
    assert removed.returncode == 0, removed.stderr
    assert picture(shell) == bare[0]


CHANGED = (
    RICH.replace('"203.0.113.0/24", ', '"203.0.113.0/24", "198.51.100.7", "2001:db8:c::12", ')
    .replace("share = 50", "share = 100")
    .replace('when-down = "drop"', 'when-down = "cloud"')
    .replace("0.5", "0.25")
    .replace('"256M"', '"64M"')
    .replace('"lan", ', "")
)


def test_a_change_of_what_runs(labs: tuple[Lab, Lab], files: Path, tmp_path: Path) -> None:
    """Of steering, limits and egress, in place: only the differences are in the script."""
    shell, native = labs
    file = tmp_path / "web.toml"
    command = toml_value(list(nginx_command(EDGE, files)))
    file.write_text(RICH.replace("COMMAND", command))
    for lab in labs:
        done = lab.run("ap", [sys.executable, "-c", NATIVE, str(file)])
        assert done.returncode == 0, done.stderr
    before, other = settled(shell, native)
    assert before == other

    file.write_text(CHANGED.replace("COMMAND", command))
    planned = shell.viscum("plan", str(file), "--as-shell")
    assert planned.returncode == 0, planned.stderr
    assert "nginx" not in planned.stdout, "an in-place change starts nothing"
    ran = shell.run("ap", ["sh", "-e"], input=planned.stdout)
    assert ran.returncode == 0, planned.stdout + ran.stderr
    done = native.run("ap", [sys.executable, "-c", NATIVE, str(file)])
    assert done.returncode == 0, done.stderr
    found, expected = settled(shell, native)
    assert differences(found, expected) == []
    assert found == expected
    assert found != before


def assert_served(lab: Lab) -> None:
    """By the edge, through the path the commands made."""
    wait_until(lambda: body(lab, CLOUD4) == EDGE, "an answer of the edge")


# ---- everything the kernel tells --------------------------------------------------------------


def picture(lab: Lab) -> dict[str, Any]:
    """Of the access point and of its services' namespaces, without what is not asked for."""
    prefix = HostNames(str(lab.state_dir)).prefix
    services = sorted(p.name for p in Path("/run/netns").glob(f"{prefix}.*"))
    found: dict[str, Any] = {
        "maps": maps(lab),
        "processes": processes(prefix),
        "nft": without_handles(ask(lab, "nft", "-j", "list", "ruleset")),
        "namespaces": [name.removeprefix(prefix) for name in services],
    }
    for where in (lab.ap, *services):
        enter = ["nsenter", f"--net=/run/netns/{where}"]
        short = where.replace(prefix, "viscum").replace(lab.settings.prefix, "lab")
        for what in (
            ("ip", "-d", "-j", "link"),
            ("ip", "-j", "addr"),
            ("ip", "-4", "-j", "rule"),
            ("ip", "-6", "-j", "rule"),
            ("ip", "-4", "-j", "route", "show", "table", "all"),
            ("ip", "-6", "-j", "route", "show", "table", "all"),
            ("tc", "-j", "qdisc"),
        ):
            found[f"{short}: {' '.join(what)}"] = out(json_of([*enter, *what]))
        found[f"{short}: sysctl"] = switches(enter)
    for link in ("wlan0", "wan0", *links(lab)):
        found[f"filters of {link}"] = out(
            ask(lab, "tc", "-j", "filter", "show", "dev", link, "ingress")
        )
    text = json.dumps(found, sort_keys=True)
    text = text.replace(":[*fsobj]", "")  # tc's remark on where it got the program
    for own, common in ((prefix, "viscum"), (lab.settings.prefix, "lab")):
        text = text.replace(own, common)
    result: dict[str, Any] = json.loads(text)
    return result


def settled(one: Lab, other: Lab) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the kernel does by itself (DAD, routes of addresses) takes a moment, in both."""
    found = picture(one), picture(other)

    def same() -> bool:
        nonlocal found
        found = picture(one), picture(other)
        return found[0] == found[1]

    try:
        wait_until(same, "the same", timeout=3)
    except AssertionError:
        pass  # the caller shows the difference
    return found


def processes(prefix: str) -> dict[str, Any]:
    """Of every instance: its limits, and who its server is and with what powers."""
    found = {}
    for path in cgroup.groups(prefix):
        group = cgroup.Group(path)
        pid = process.main_pid(group)
        proc = Path(f"/proc/{pid}")
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())
        kept = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        found[path] = {
            "limits": group.limits(),
            "status": {key: status[key].split() for key in (*kept, "NoNewPrivs")},
            "environment": sorted((proc / "environ").read_text().split("\0")),
            "command": (proc / "cmdline").read_text(),
            "directory": str((proc / "cwd").readlink()),
            "session": os.getsid(pid or 0) == pid,
            "/etc/hosts": (proc / "root/etc/hosts").read_text(),
            "/etc/resolv.conf": (proc / "root/etc/resolv.conf").read_text(),
            # but for what mount(8) notes for itself, and the files mounted on those of /etc
            "/run": sorted(
                p.name
                for p in (proc / "root/run").iterdir()
                if p.name != "mount" and not p.name.startswith(".")
            ),
            "/tmp": sorted(p.name for p in (proc / "root/tmp").iterdir()),
        }
    return found


def json_of(argv: list[str]) -> Any:
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


def ask(lab: Lab, *argv: str) -> Any:
    return json_of([*lab.enter("ap"), *argv])


def links(lab: Lab) -> list[str]:
    return [link["ifname"] for link in ask(lab, "ip", "-j", "link") if link["ifname"][:2] == "vs"]


def without_handles(value: Any) -> Any:
    """nft counts up whenever the table is replaced: once for each service, or once for all."""
    if isinstance(value, dict):
        return {k: without_handles(v) for k, v in value.items() if k != "handle"}
    return [without_handles(v) for v in value] if isinstance(value, list) else value


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two pictures differ, leaf by leaf."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [d for k in keys for d in differences(one.get(k), other.get(k), f"{path}/{k}")]
    if isinstance(one, list) and isinstance(other, list):
        return [f"{path}: - {x}" for x in other if x not in one] + [
            f"{path}: + {x}" for x in one if x not in other
        ]
    return [] if one == other else [f"{path}: {one!r}, not {other!r}"]


NUMBERS = {"id", "prog_id", "tag", "handle_", "link_index", "ifindex_", "expires", "metainfo"}
RANDOM = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b|fe80::[0-9a-f:]+")


def out(value: Any) -> Any:
    """Without what the kernel draws by lot: MAC addresses, ids of programs, link-local ones."""
    if isinstance(value, dict):
        return {k: out(v) for k, v in value.items() if k not in NUMBERS}
    if isinstance(value, list):
        return sorted((out(v) for v in value), key=lambda v: json.dumps(v, sort_keys=True))
    return RANDOM.sub("*", value) if isinstance(value, str) else value


def switches(enter: list[str]) -> list[str]:
    done = subprocess.run(
        [*enter, "sysctl", "-a", "-r", r"^net\.ipv[46]\.(conf|ip_)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if "stable_secret" not in line]


def maps(lab: Lab) -> dict[str, Any]:
    """Type, sizes and contents of every map that the programs of this access point use."""
    return ask(lab, sys.executable, "-c", MAPS)  # type: ignore[no-any-return]


MAPS = """
import json
from viscum.kernel import bpf
from viscum.kernel.director.attach import find
found = {}
for there in find():
    program = bpf.program_by_id(there.prog_id)
    for m in map(bpf.map_by_id, program.map_ids()):
        found[m.name] = {k.hex(): v.hex() for k, v in m.items()}
        found[m.name + " entries"] = m.max_entries
    found[f"program on {there.ifindex}"] = [there.program, there.how, there.handle]
print(json.dumps(found))
"""
