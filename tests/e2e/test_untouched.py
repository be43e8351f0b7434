"""The operator's tc, nft, routes, rules and sysctls are what they were, during and after (N18)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import snapshot
from e2e.zygote import Zygote
from support import need_program, wait_until
from viscum import names
from viscum.kernel import bpf, libbpf, netns, syscalls
from viscum.lab import CLOUD4, CLOUD6, Lab

PROGRAM = """
__attribute__((section("tc"), used)) int operators_own(void *context) { return -1; }
__attribute__((section("license"), used)) char operators_license[] = "GPL";
"""
# Loading an object, tc mounts a bpffs on /sys/fs/bpf if there is none, and leaves it there.
CLSACT = [
    "tc qdisc add dev wlan0 clsact",
    "tc filter add dev wlan0 ingress pref 10 protocol ip u32 match ip dst 192.0.2.1/32 flowid 1:1",
    "unshare -m tc filter add dev wlan0 ingress pref 118 protocol all bpf da obj {} sec tc",
    "unshare -m tc filter add dev wlan0 egress pref 7 protocol all bpf da obj {} sec tc",
]
ROUTING = [
    # In the places where Viscum's own are: the same preference, table and mark's neighbours.
    "ip rule add pref 118 fwmark 0x77 lookup 77",
    "ip rule add pref 50 from 10.1.0.0/24 lookup 50",
    "ip route add 192.0.2.0/24 via 198.18.0.2 table 77",
    "ip route add 192.0.2.0/24 via 198.18.0.2 table 50 proto static",
    "ip route add default via 198.18.0.2 table 77 proto 118",
    "ip -6 rule add pref 118 from 2001:db8:1::/64 lookup 78",
    "ip -6 route add 2001:db8:99::/48 via 2001:db8:c::2 table 78",
    "tc qdisc add dev wan0 root handle 5: pfifo limit 50",
    "sysctl -qw net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.wlan0.rp_filter=2",
    "sysctl -qw net.ipv4.conf.wlan0.accept_local=1 net.ipv6.conf.wlan0.accept_ra=2",
]
TABLES = """
table inet operator {
  counter seen { }
  set guests { type ipv4_addr; flags timeout; elements = { 10.1.0.2 } }
  chain forward {
    type filter hook forward priority filter - 5; policy accept;
    ip daddr 198.18.0.10 udp dport 9 counter name seen
    ip saddr @guests udp dport 9 counter
  }
}
table ip viscum {
  chain input {
    type filter hook input priority 5
    tcp dport 9 counter
  }
}
"""


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    """An object with a program of the operator's that lets everything pass."""
    need_program("clang")
    directory = Path(tempfile.mkdtemp(prefix="vt-operator-", dir="/var/tmp"))
    (directory / "own.c").write_text(PROGRAM)
    words = ["clang", "-O2", "-g", "-target", "bpf", "-c", "own.c", "-o", "own.o"]
    subprocess.run(words, cwd=directory, check=True)
    yield directory / "own.o"
    shutil.rmtree(directory)


def set_up(lab: Lab, program: Path, *, clsact: bool) -> None:
    for line in [*(CLSACT if clsact else []), *ROUTING]:
        done = lab.run("ap", line.format(program).split())
        assert done.returncode == 0, f"{line}: {done.stderr}"
    done = lab.run("ap", ["nft", "-f", "-"], input=TABLES)
    assert done.returncode == 0, done.stderr
    probe = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    probe += f"for _ in range(5): s.sendto(b'x', ({CLOUD4!r}, 9))"
    assert lab.run("ue", ["python3", "-c", probe]).returncode == 0
    seen = ["nft", "list", "counter", "inet", "operator", "seen"]
    wait_until(lambda: "packets 5 " in lab.run("ap", seen).stdout, "the operator's counter")
    if bpf_has_tcx():
        own, _ = libbpf.load(str(program))
        with netns.opened(lab.ap) as fd:
            syscalls.in_netns(fd, lambda: bpf.tcx_attach(wlan0(), own["operators_own"]))


def bpf_has_tcx() -> bool:
    from viscum.kernel.director.attach import has_tcx

    return has_tcx()


def wlan0() -> int:
    import socket

    return socket.if_nametoindex("wlan0")


def tcx(lab: Lab) -> list[str]:
    """The programs on wlan0, in their order."""
    if not bpf_has_tcx():
        return []
    with netns.opened(lab.ap) as fd:
        ids = syscalls.in_netns(fd, lambda: bpf.tcx_query(wlan0()))
    return [bpf.program_by_id(number).name for number in ids]


def everything(lab: Lab) -> snapshot.Snapshot:
    return snapshot.operator(lab) | {"tcx": json.dumps(tcx(lab))}


MADE = '{"kind": "clsact", "handle": "ffff:", "dev": "wlan0", "parent": "ffff:fff1", "options": {}}'
OURS = re.compile(r'"vs\d+"|"viscum_(in|out)|"fwmark":"0x5653')


def operators(found: snapshot.Snapshot) -> snapshot.Snapshot:
    """Without what is Viscum's own by its names."""
    kept: snapshot.Snapshot = {}
    for key, text in found.items():
        if key.startswith("sysctl "):
            if not re.search(r"/vs\d+/", key):
                kept[key] = text
            continue
        kept[key] = json.dumps([e for e in _entries(text) if not _ours(e)])
    return kept


def _entries(text: str) -> list[Any]:
    if not text.startswith(("[", "{")):
        return []
    value = json.loads(text)
    return list(value["nftables"] if isinstance(value, dict) else value)


def _ours(entry: Any) -> bool:
    if isinstance(entry, dict):
        for thing in entry.values():  # nft: {"chain": {"family": …, "table": …}}
            if isinstance(thing, dict) and thing.get("family") == "inet":
                return bool(names.NFT_TABLE in (thing.get("table"), thing.get("name")))
        head = {"protocol", "pref", "kind", "chain"}
        if entry.keys() == head and entry["pref"] == names.TC_PRIO:
            return True  # what tc shows before the first filter of a priority
    return bool(OURS.search(json.dumps(entry, separators=(",", ":"))))


def steer(name: str, target: str, *more: str) -> tuple[str, ...]:
    where = ("--on", "wlan0", "--target", target, "--port", "80/tcp", "--port", "443/udp")
    server = ("busybox", "httpd", "-f", "-p", "[::]:80")
    return ("run", "--name", name, *where, *more, "--", *server)


LIFE = [
    steer("web", CLOUD4),
    steer("six", CLOUD6, "--firewall", "honour"),
    steer("honest", "198.18.0.11", "--firewall", "honour"),
    ("disable", "--now", "web"),
    ("enable", "web"),
    ("restart", "web"),
    steer("web", "198.18.0.12", "--replace"),
    ("stop", "six"),
    ("start", "six"),
    ("rm", "honest"),
]


@pytest.mark.req("N18")
@pytest.mark.parametrize(
    ("attach", "clsact"), [("auto", True), ("clsact", True), ("clsact", False)]
)
def test_the_operators_configuration_stays_as_it_is(
    lab: Lab, program: Path, attach: str, clsact: bool
) -> None:
    need_program("busybox")
    set_up(lab, program, clsact=clsact)
    zygote = Zygote(lambda argv, **options: lab.popen("ap", argv, **options), attach)
    before = everything(lab)
    mine = operators(before)
    # Nothing of the operator's is left out but the line above the filters of a priority.
    left_out = {k: len(_entries(before[k])) - len(_entries(mine[k])) for k in mine}
    assert {k: n for k, n in left_out.items() if n} == ({"filters in wlan0": 1} if clsact else {})
    for command in LIFE:
        done = zygote(*command)
        assert done.status == 0, done
        now = everything(lab)
        assert snapshot.differences(before, now) != []
        during = operators(now)
        if attach == "clsact" and not clsact:  # it is made for as long as it is needed
            during["qdiscs"] = during["qdiscs"].replace(f", {MADE}", "")
        assert snapshot.differences(mine, during) == [], command
    shown = json.loads(zygote("status", "web", "--json").out)
    assert shown["drift"] == []  # none of the operator's is taken for a left-over
    assert zygote("rm", "--all").status == 0
    links = json.loads(before["links"])
    wait_until(  # the kernel takes links away in its own time
        lambda: len(json.loads(snapshot.operator(lab)["links"])) == len(links), "the links to go"
    )
    assert snapshot.differences(before, everything(lab)) == []
    assert not any(snapshot.traces(lab).values())
    zygote.close()
