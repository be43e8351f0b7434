"""Debian 12's own kernel: Linux 6.1, without TCX, with netem and with nothing but cgroup v2.

The emulated processor is slow: few processes, and no limit of time that means anything.
"""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Figure, LabFactory
from e2e import net
from support import wait_until
from viscum.kernel import bpf, cgroup, cgroupfs, libbpf
from viscum.kernel.cgroup import Group
from viscum.kernel.director import attach
from viscum.kernel.director.ebpf import OBJECT
from viscum.lab import CLOUD4, CLOUD6, Lab
from viscum.lab.plan import ue4, ue6
from viscum.names import TC_PRIO, HostNames

TARGETS = (CLOUD4, CLOUD6)
RTT = 0.060  # seconds
PATIENT = ("--start-timeout", "2m")
MIB = 1 << 20

# The operator's own: one filter before ours that sees every packet of the flow, and one behind.
BEFORE, BEHIND = TC_PRIO - 100, TC_PRIO + 100
OPERATOR = f"""\
qdisc add dev wlan0 clsact
filter add dev wlan0 ingress prio {BEFORE} protocol ip flower ip_proto tcp dst_ip {CLOUD4} \
action continue
filter add dev wlan0 ingress prio {BEHIND} protocol ip flower ip_proto tcp dst_ip {CLOUD4} \
action ok
"""


@pytest.fixture(scope="module")
def shared(lab_factory: LabFactory) -> Iterator[Lab]:
    """With a long WAN, and a server in the cloud."""
    made = lab_factory(wan_rtt=RTT)
    net.start_peer(made)
    yield made
    made.down()


@pytest.fixture
def lab(shared: Lab) -> Iterator[Lab]:
    """Without services, whatever became of the last test."""
    yield shared
    viscum(shared, "rm", "--all", "--now")


def run(lab: Lab, answer: str, *options: str, command: tuple[str, ...] = ()) -> None:
    words = (*PATIENT, *options, "--", *(command or net.peer_command(answer)))
    net.run(lab, "web", TARGETS, *words)


def viscum(lab: Lab, *words: str) -> str:
    return net.ok(lab.viscum(*words))


def group(lab: Lab, generation: int) -> Group:
    return Group(HostNames(str(lab.state_dir)).cgroup("web", generation, 0))


def answers(lab: Lab) -> set[str]:
    """Who answers new connections, over IPv4 and IPv6."""
    return {net.who(lab, target) for target in TARGETS}


def who_udp(lab: Lab) -> set[str]:
    return {net.who_udp(lab, target) for target in TARGETS}


def test_this_is_the_kernel_that_is_meant() -> None:
    assert os.uname().release.startswith("6.1.")
    assert not attach.has_tcx()
    assert cgroupfs.hierarchies().v1 == ()
    assert cgroup.available() == {"cpu", "memory", "pids"}


@pytest.mark.req("N5", "N6")
def test_the_verifier_accepts_both_programs(figure: Figure) -> None:
    begun = time.monotonic()
    programs, _ = libbpf.load(str(OBJECT))
    figure("to load", time.monotonic() - begun, "s, emulated")
    assert set(programs) == {attach.IN, attach.OUT, attach.OWN}
    for name, program in programs.items():
        # verified_insns of struct bpf_prog_info (linux/bpf.h, since 5.16)
        (steps,) = struct.unpack_from("=I", bpf._info(program.fd, 224, name), 216)
        figure(f"{name}: steps of the verifier", steps, "")
        assert 0 < steps < 1_000_000


def test_the_kernel_is_the_labs_wire(lab: Lab, figure: Figure) -> None:
    assert lab.status().wire == "netem"
    for target, near in ((CLOUD4, "10.1.0.1"), (CLOUD6, "")):
        times = round_trips(lab, target)
        assert RTT <= min(times) < 2 * RTT
        figure(f"round trip to {target}, 60 ms asked for", min(times) * 1000, "ms")
        if near:
            assert min(round_trips(lab, near)) < RTT / 2, "only the WAN is long"


def round_trips(lab: Lab, target: str) -> list[float]:
    """In seconds."""
    words = net.ok(lab.run("ue", ["ping", "-n", "-c5", "-i0.2", target]))
    return [float(t) / 1000 for t in re.findall(r"time=([\d.]+) ms", words)]


# ---- the life of a service, by clsact ----------------------------------------------------------


def filters(lab: Lab, *options: str) -> list[dict[str, Any]]:
    words = ("tc", "-j", *options, "filter", "show", "dev", "wlan0", "ingress")
    found: list[dict[str, Any]] = json.loads(net.ok(lab.run("ap", words)) or "[]")
    return found


def operators(lab: Lab) -> list[dict[str, Any]]:
    return [f for f in filters(lab) if f["pref"] in (BEFORE, BEHIND)]


def seen(lab: Lab) -> tuple[int, int]:
    """Packets that met the operator's filter (before, behind) ours."""
    count = {BEFORE: 0, BEHIND: 0}
    for f in filters(lab, "-s"):
        for action in f.get("options", {}).get("actions", ()):
            count[f["pref"]] += action["stats"]["packets"]
    return count[BEFORE], count[BEHIND]


def asked(lab: Lab, client: str, target: str) -> tuple[str, str]:
    """(where, reason) as `viscum explain` has it, of a SYN."""
    host, to = ((f"[{a}]" if ":" in a else a) for a in (client, target))
    packet = f"tcp {host}:40000 > {to}:{net.PORT} syn"
    answer = json.loads(viscum(lab, "explain", "web", packet, "--json"))
    return answer["where"], answer["reason"]


@pytest.mark.req("N5", "N7", "N8", "N9", "N10", "N14", "N18")
def test_a_service_lives_and_dies_beside_the_operators_filters(lab: Lab) -> None:
    net.ok(lab.run("ap", ["tc", "-batch", "-"], input=OPERATOR))
    before = filters(lab)
    assert operators(lab) == before
    assert answers(lab) == {"cloud"}

    with net.connect(lab, CLOUD4) as old:
        assert net.ask(old)[0] == "cloud"
        run(lab, "edge", "--port", f"{net.PORT}/tcp")
        assert answers(lab) == {"edge"}
        assert net.ask(old)[0] == "cloud", "it began there"

    assert operators(lab) == before
    assert [f["kind"] for f in filters(lab) if f["pref"] == TC_PRIO and "options" in f] == ["bpf"]
    then = seen(lab)
    assert net.who(lab, CLOUD4) == "edge"
    now = seen(lab)
    assert now[0] >= then[0] + 4, "a connection's packets met the filter before ours"
    assert now[1] == then[1], "and none the one behind"
    assert asked(lab, ue4(), CLOUD4) == ("edge", "edge-syn")

    with net.connect(lab, CLOUD4) as four, net.connect(lab, CLOUD6) as six:
        viscum(lab, "disable", "web")
        assert answers(lab) == {"cloud"}
        assert {net.ask(four)[0], net.ask(six)[0]} == {"edge"}, "no flow is ended"
        assert seen(lab)[1] > now[1], "the cloud's packets go on behind ours"
        assert asked(lab, ue6(), CLOUD6) == ("cloud", "cloud-disabled")
        viscum(lab, "enable", "web")
        assert answers(lab) == {"edge"}
        assert {net.ask(four)[0], net.ask(six)[0]} == {"edge"}

    run(lab, "newer", "--port", f"{net.PORT}/tcp", "--replace")
    assert answers(lab) == {"newer"}

    (server,) = group(lab, 2).pids()
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not group(lab, 2).populated(), "the end of the server", 60)
    assert [net.who(lab, target) for target in TARGETS * 10] == ["cloud"] * 20
    viscum(lab, "start", "web")
    assert answers(lab) == {"newer"}

    viscum(lab, "rm", "web")
    assert answers(lab) == {"cloud"}
    assert filters(lab) == before
    net.ok(lab.run("ap", ["tc", "qdisc", "del", "dev", "wlan0", "clsact"]))


@pytest.mark.req("N6", "N18")
def test_udp_flows_stay_where_they_began(lab: Lab) -> None:
    """And without an operator's clsact, ours comes and goes."""
    qdiscs = ["tc", "qdisc", "show", "dev", "wlan0"]
    before = net.ok(lab.run("ap", qdiscs))
    with net.flow(lab, CLOUD4) as old:
        assert net.ask(old)[0] == "cloud"
        run(lab, "edge", "--port", f"{net.PORT}/udp")
        assert "clsact" in net.ok(lab.run("ap", qdiscs))
        assert net.ask(old)[0] == "cloud"
        wait_until(lambda: who_udp(lab) == {"edge"}, "arming is over", 60)
        assert net.ask(old)[0] == "cloud"
    with net.flow(lab, CLOUD4) as four, net.flow(lab, CLOUD6) as six:
        assert {net.ask(four)[0], net.ask(six)[0]} == {"edge"}
        viscum(lab, "disable", "web")
        assert {net.ask(four)[0], net.ask(six)[0]} == {"edge"}
        assert who_udp(lab) == {"cloud"}
        viscum(lab, "rm", "web", "--now")
        assert {net.ask(four)[0], net.ask(six)[0]} == {"cloud"}
    assert net.ok(lab.run("ap", qdiscs)) == before


# ---- limits ------------------------------------------------------------------------------------

GREEDY = "print(len(b'x' * (256 << 20)))"
FORKS = """
import os, signal
try:
    while True:
        if os.fork() == 0: signal.pause()
except BlockingIOError:
    print("refused", flush=True)
    os.killpg(0, signal.SIGKILL)
"""


@pytest.mark.req("N17", "N16")
def test_limits_and_the_end_of_a_tree_on_a_box_with_v2_alone(lab: Lab) -> None:
    # a daemon in a session of its own, deaf to SIGTERM, beside the server
    tree = "trap '' TERM; setsid sleep 100000 & exec \"$@\""
    run(
        lab, "edge", "--port", f"{net.PORT}/tcp",
        "--cpus", "0.5", "--memory", "64M", "--pids-limit", "20",
        command=("/bin/sh", "-c", tree, "sh", *net.peer_command("edge")),
    )  # fmt: skip
    made = group(lab, 1)
    top = Path("/sys/fs/cgroup", made.path)
    assert (top / "cpu.max").read_text().split() == ["50000", "100000"]
    assert int((top / "memory.max").read_text()) == 64 * MIB
    assert int((top / "pids.max").read_text()) == 20
    pids = made.pids()
    assert len(pids) >= 2

    greedy = lab.viscum("exec", "web", "--", "python3", "-S", "-c", GREEDY)
    assert greedy.returncode == 128 + signal.SIGKILL
    assert greedy.stdout == ""
    usage = made.usage()
    assert usage.oom_kills
    forks = lab.viscum("exec", "web", "--", "setsid", "-w", "python3", "-S", "-c", FORKS)
    assert forks.stdout == "refused\n"
    wait_until(lambda: len(made.pids()) == len(pids), "the end of the forks", 60)
    assert answers(lab) == {"edge"}, "the server is none the worse for it"

    viscum(lab, "rm", "web")
    assert not made.exists()
    assert not [pid for pid in pids if Path("/proc", str(pid)).exists()]
    assert answers(lab) == {"cloud"}
