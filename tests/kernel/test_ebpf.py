"""The eBPF director as a thing that is planned, attached, upgraded, killed and taken away."""

from __future__ import annotations

import ctypes
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from kernel.topo import (
    TARGET4,
    TARGET6,
    TARGETS,
    UE4,
    UE6,
    Topo,
    accepted,
    generation,
    own4,
    received,
    tcp,
    udp,
)
from support import need_program
from viscum import names
from viscum.errors import InputError, ViscumError
from viscum.kernel import bpf, director
from viscum.kernel.director import abi, attach, explain
from viscum.kernel.director.ebpf import OBJECT, EbpfDirector, opened
from viscum.kernel.rtnl import Rtnl
from viscum.model import Hold, SteerService

Figure = Callable[[str, float | str, str], None]

NEED_TCX = pytest.mark.skipif(not attach.has_tcx(), reason="this kernel lacks TCX")
HOWS = [pytest.param("tcx", marks=NEED_TCX), "clsact"]
CONFIGURED = ("services", "targets", "prefixes", "ports", "clients", "links", "config")


@pytest.fixture(params=HOWS)
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def either(how: str) -> Iterator[Topo]:
    """Attached by TCX and by clsact, in turn."""
    with Topo(how) as topo:
        topo.add_service(1)
        yield topo


def contents(topo: Topo, *which: str) -> dict[str, dict[bytes, bytes]]:
    def read() -> dict[str, dict[bytes, bytes]]:
        loaded = opened(attach.find())
        return {name: dict(loaded.contents(name)) for name in which or tuple(loaded.maps)}

    return topo.inside("ap", read)


def tc(topo: Topo, link: str = "wlan0") -> Any:
    """What tc shows of a link, without the ids that differ from run to run."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            gone = ("prog", "id", "tag", "jited", "bpf_name")
            return {k: plain(v) for k, v in value.items() if k not in gone}
        return [plain(v) for v in value] if isinstance(value, list) else value

    qdiscs = json.loads(topo.run("ap", f"tc -j qdisc show dev {link}"))
    filters = json.loads(topo.run("ap", f"tc -j filter show dev {link} ingress") or "[]")
    return plain([qdiscs, filters])


# ---- planning ------------------------------------------------------------------------------------


@pytest.mark.req("N16")
def test_what_is_so_needs_no_steps(either: Topo, how: str) -> None:
    done = either.steer(either.service())
    assert done[0] == "load the data path"
    # with empty maps every packet passes: what is claimed comes last
    links = {"viscum_out": "vs1", "viscum_own": "vs1", "viscum_in": "wlan0"}
    assert done[1] == "; ".join(f"attach {name} to {link} ({how})" for name, link in links.items())
    assert done[-1] == "claim targets: 2"
    assert either.steer(either.service()) == []
    assert either.change(enabled=False) == ["set services: 1"]
    assert either.change(enabled=False) == []
    gone = (links.popitem(), *links.items())
    assert sorted(either.steer()) == sorted(f"detach {name} from {link}" for name, link in gone)
    assert either.steer() == []


@pytest.mark.req("N16")
def test_every_map_follows(topo: Topo) -> None:
    everything = topo.service(
        targets=(*TARGETS, ip_network("203.0.113.0/24")), ports=(tcp(80, 90), udp(443)),
        clients=(ip_network("10.1.0.0/24"), ip_network("2001:db8:1::/64")),
    )  # fmt: skip
    second = topo.service(sid=2, name="two", targets=(ip_network("203.0.113.9"),))
    topo.steer(everything, second)
    both = contents(topo, *CONFIGURED)
    assert [len(both[name]) for name in CONFIGURED] == [2, 3, 1, 27, 2, 1, 1]
    topo.steer(second)
    one = contents(topo, *CONFIGURED)
    assert [len(one[name]) for name in CONFIGURED] == [1, 1, 0, 2, 0, 1, 1]
    topo.steer(everything, second)
    assert contents(topo, *CONFIGURED) == both
    topo.steer(everything, second, topo.service(sid=3, name="three", targets=()))
    topo.steer(everything, second)
    assert contents(topo, *CONFIGURED) == both


@pytest.mark.req("N13")
def test_counters_survive_changes(topo: Topo) -> None:
    topo.listen("s1", "0.0.0.0")
    topo.steer(topo.service())
    topo.connect(TARGET4)
    before = topo.counters()
    assert before.packets["edge-syn"] == 1
    assert before.in_bytes > 60 < before.out_bytes
    topo.change(enabled=False, ports=(tcp(80),))
    assert topo.counters().packets["edge-syn"] == 1


def test_directors_by_name() -> None:
    assert director.get("auto").name == director.get("ebpf").name == "ebpf"
    for name in ("flower", "u32", "nonsense"):
        with pytest.raises(InputError, match=r"director.*ebpf"):
            director.get(name)
    assert EbpfDirector().missing() is None
    assert "not built" in (EbpfDirector(path=Path("/nowhere.o")).missing() or "")


def test_before_anything_is_loaded(topo: Topo) -> None:
    assert topo.inside("ap", topo.director.counters) == {}
    assert topo.inside("ap", topo.director.udp_flows) == {}
    assert topo.asked(f"tcp {UE4}:1 > {TARGET4}:80 syn").reason == "not-attached"
    with pytest.raises(ViscumError, match="no data path"):
        topo.inside("ap", topo.director.seed_udp, topo.service(), ())
    assert topo.steer() == []


# ---- attaching -----------------------------------------------------------------------------------


def child(topo: Topo, code: str) -> subprocess.CompletedProcess[str]:
    """Python in the access point's namespace, in a process of its own."""
    return subprocess.run(
        ["nsenter", f"--net=/run/netns/{topo.name}-ap", sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def applying(topo: Topo, how: str, service: SteerService, die_before: int = -1) -> str:
    """Code that plans and applies, and kills itself before that step."""
    return f"""
import os, signal
from ipaddress import *
from viscum.model import *
from viscum.kernel.director.ebpf import EbpfDirector
service = {service!r}
for n, step in enumerate(EbpfDirector({how!r}).plan((service,), ())):
    if n == {die_before}:
        os.kill(os.getpid(), signal.SIGKILL)
    step.apply()
"""


@pytest.mark.req("N16")
def test_it_stays_when_the_process_ends(either: Topo, how: str) -> None:
    edge = either.listen("s1", "0.0.0.0")
    done = child(either, applying(either, how, either.service()))
    assert done.returncode == 0, done.stderr
    either.connect(TARGET4)
    assert accepted({"edge": edge})[0] == "edge"
    assert either.steer(either.service()) == []


@pytest.mark.req("N16")
def test_killed_before_any_step(either: Topo, how: str) -> None:
    """What is left is completed, or taken away, by the next command."""
    steps = len(either.inside("ap", either.director.plan, (either.service(),), ()))
    before = tc(either), tc(either, "vs1")
    done = child(either, applying(either, how, either.service()))
    assert done.returncode == 0, done.stderr
    complete = contents(either, *CONFIGURED)
    either.steer()
    assert steps == 8
    for die_before in range(1, steps):
        done = child(either, applying(either, how, either.service(), die_before))
        assert done.returncode == -signal.SIGKILL, done.stderr
        if die_before % 2:
            either.steer(either.service())
            assert contents(either, *CONFIGURED) == complete
            assert either.steer(either.service()) == []
        either.steer()
        assert either.inside("ap", attach.find) == ()
        assert (tc(either), tc(either, "vs1")) == before


def operators_program() -> bpf.Program:
    """Drops UDP to port 9999: ldh [36] of the frame; jeq 9999; -1 (go on) or 2 (drop)."""
    code = bytes.fromhex(
        "bf16000000000000 2800000024000000 150002000f270000"
        "b7000000ffffffff 9500000000000000 b700000002000000 9500000000000000"
    )
    instructions, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attr = struct.pack(
        "=IIQQIIQI4x", 3, len(code) // 8, ctypes.addressof(instructions),
        ctypes.addressof(licence), 0, 0, 0, 0,
    )  # fmt: skip
    return bpf.Program(bpf.call(5, attr, "the operator's program")[0])


def add_operators_filter(topo: Topo) -> None:
    def add() -> None:
        program = operators_program()
        with Rtnl() as rtnl:
            rtnl.replace_bpf_filter(topo.wlan, program.fd, "operator", 5, 1)

    topo.inside("ap", add)


@pytest.mark.req("N18")
@pytest.mark.parametrize("first", ["operator", "viscum"])
def test_the_operators_clsact_is_left_alone(either: Topo, how: str, first: str) -> None:
    """Whoever made the qdisc: with filters of others on it it stays, and they go on working."""
    if first == "operator":
        either.run("ap", "tc qdisc add dev wlan0 clsact")
        add_operators_filter(either)
    before = tc(either)
    either.steer(either.service(enabled=False))
    if first == "viscum":
        if how == "tcx":
            either.run("ap", "tc qdisc add dev wlan0 clsact")
        add_operators_filter(either)
    cloud = {str(port): either.udp("cl", TARGET4, port) for port in (9999, 443)}
    client = either.udp("ue", UE4, 5000)

    def arriving() -> str:
        for port in (9999, 443):
            client.sendto(b"x", (TARGET4, port))
        return received(cloud)[0]

    assert arriving() == "443"
    either.change(enabled=True)
    assert arriving() == "443"
    either.steer()
    assert arriving() == "443"
    if first == "operator":
        assert tc(either) == before
    else:
        assert "clsact" in json.dumps(tc(either))
        either.run("ap", "tc qdisc del dev wlan0 clsact")
        assert tc(either) == before


@pytest.mark.req("N18")
def test_the_operators_empty_clsact_stays(either: Topo) -> None:
    either.run("ap", "tc qdisc add dev wlan0 clsact")
    before = tc(either)
    either.steer(either.service())
    either.steer()
    assert tc(either) == before


@pytest.mark.req("N18")
@NEED_TCX
def test_the_operators_tcx_program_stays(topo: Topo) -> None:
    operator = operators_program()
    topo.inside("ap", bpf.tcx_attach, topo.wlan, operator)
    topo.steer(topo.service())
    ids = topo.inside("ap", bpf.tcx_query, topo.wlan)
    assert ids[0] == operator.id
    assert len(ids) == 2
    topo.steer()
    assert topo.inside("ap", bpf.tcx_query, topo.wlan) == (operator.id,)


@pytest.mark.req("N16", "N10")
def test_an_interface_that_went_and_came_is_attached_again(either: Topo) -> None:
    ap = f"{either.name}-ap"
    either.steer(either.service())
    either.sh(f"ip -n {ap} link del {names.link(1)}")
    either.sh(f"ip -n {ap} link add {names.link(1)} index {names.number(1)} type veth peer name x1")
    assert either.steer(either.service())[-1].startswith("attach viscum_out to vs1")
    assert either.steer(either.service()) == []
    either.sh(f"ip -n {ap} link del wlan0")
    either.steer(either.service(interfaces=()))
    there = {a.program for a in either.inside("ap", attach.find)}
    assert there == {"viscum_out", "viscum_own"}
    either.sh(f"ip -n {ap} link add wlan0 index {either.wlan} type veth peer name x2")
    done = either.steer(either.service())
    assert done[0] == "load the data path anew, over its maps", "the one half was gone"
    assert done[-1].startswith("attach viscum_in to wlan0")
    assert either.steer(either.service()) == []


class Stream:
    """Datagrams to the target, as fast as they go, while something is done."""

    def __init__(self, topo: Topo) -> None:
        self.edge, self.cloud = topo.udp("s1", TARGET4, 443), topo.udp("cl", TARGET4, 443)
        self.client = topo.udp_client(TARGET4)
        self.sent = 0
        self.got = {"edge": 0, "cloud": 0}
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _drain(self, name: str, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            while True:
                sock.recv(100)
                self.got[name] += 1
        except BlockingIOError:
            pass

    def _run(self) -> None:
        while not self.stop.is_set():
            for _ in range(32):
                self.client.send(b"x" * 64)
            self.sent += 32
            self._drain("edge", self.edge)
            self._drain("cloud", self.cloud)

    def __enter__(self) -> Stream:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self._drain("edge", self.edge)
        self._drain("cloud", self.cloud)


@pytest.mark.req("N16", "N5")
def test_replacing_the_program_loses_and_misdirects_nothing(either: Topo, tmp_path: Path) -> None:
    """An upgrade of viscum under traffic: over the same maps, every interface in place."""
    either.steer(either.service())
    before = {(a.ifindex, a.program): a for a in either.inside("ap", attach.find)}
    stream = Stream(either)
    steps: list[str] = []
    with stream:
        for n in range(10):
            newer = tmp_path / f"{n}.o"
            newer.write_bytes(OBJECT.read_bytes() + bytes(n + 1))  # another build, same code
            either.director = EbpfDirector(either.director.attach, newer)
            steps = either.steer(*either.last)
            for switch in (False, True):
                either.change(enabled=switch)
    assert steps[0] == "load the data path anew, over its maps"
    assert either.steer(*either.last) == []
    after = {(a.ifindex, a.program): a for a in either.inside("ap", attach.find)}
    assert before.keys() == after.keys()
    assert all(before[i].prog_id != after[i].prog_id for i in before)
    assert stream.sent > 1000
    assert stream.got == {"edge": stream.sent, "cloud": 0}


@pytest.mark.req("N16")
def test_an_upgrade_killed_half_way_is_finished(topo: Topo, tmp_path: Path) -> None:
    newer = tmp_path / "newer.o"
    newer.write_bytes(OBJECT.read_bytes() + b"x")
    later = EbpfDirector(path=newer)
    topo.steer(topo.service())
    steps = topo.inside("ap", later.plan, topo.last, ())
    for step in steps[:2]:
        topo.inside("ap", step.apply)
    del steps
    again = topo.inside("ap", later.plan, topo.last, ())
    assert again[0].describe() == "load the data path anew, over its maps"
    for step in again:
        topo.inside("ap", step.apply)
    assert topo.inside("ap", later.plan, topo.last, ()) == ()


@pytest.mark.req("N16")
def test_maps_of_another_layout_are_refused(topo: Topo) -> None:
    topo.steer(topo.service())

    def other() -> None:
        loaded = opened(attach.find())
        loaded.maps["config"].set(bytes(4), abi.CONFIG.pack(abi.ABI + 1, 0, 0))

    topo.inside("ap", other)
    with pytest.raises(ViscumError, match="layout"):
        topo.steer(topo.service())
    topo.steer()  # taking it away needs no knowledge of the layout
    assert topo.inside("ap", attach.find) == ()


# ---- as shell --------------------------------------------------------------------------------


@pytest.mark.req("N2")
def test_the_shell_form_does_the_same(topo: Topo, tmp_path: Path) -> None:
    """bpftool and tc in one access point, the steps themselves in another."""
    need_program("bpftool", "tc", "unshare")
    with Topo("clsact") as native:
        native.add_service(1)
        wanted = native.service(
            targets=(*TARGETS, ip_network("203.0.113.0/24")), ports=(tcp(80, 81), udp(443)),
            clients=(ip_network("10.1.0.0/24"),),
        )  # fmt: skip
        assert native.wlan == topo.wlan
        bare = tc(native), tc(native, "vs1")
        steps = native.inside("ap", native.director.plan, (wanted,), ())
        script = "\n".join(["set -e", *(line for step in steps for line in step.shell())])
        shell(topo, script)
        for step in steps:
            native.inside("ap", step.apply)
        assert contents(topo, *CONFIGURED) == contents(native, *CONFIGURED)
        assert contents(topo, "counters") == contents(native, "counters")
        for link in ("wlan0", "vs1"):
            assert tc(topo, link) == tc(native, link)
        edge = topo.listen("s1", "0.0.0.0")
        topo.connect(TARGET4)
        assert accepted({"edge": edge})[0] == "edge"
        gone = native.inside("ap", native.director.plan, (), ())
        shell(topo, "\n".join(["set -e", *(line for step in gone for line in step.shell())]))
        native.steer()
        assert (tc(topo), tc(topo, "vs1")) == (tc(native), tc(native, "vs1")) == bare


def shell(topo: Topo, script: str) -> None:
    """In a mount namespace of its own, for the BPF file system that it may mount."""
    done = subprocess.run(
        ["unshare", "-m", "nsenter", f"--net=/run/netns/{topo.name}-ap", "sh", "-s"],
        input=script, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---- explain ---------------------------------------------------------------------------------


@pytest.mark.req("N14")
def test_asking_changes_nothing(topo: Topo) -> None:
    topo.listen("s1", "0.0.0.0")
    topo.udp("s1", TARGET4, 443)
    topo.steer(topo.service(ping_edge=True))
    topo.udp_client(TARGET4).send(b"x")
    topo.connect(TARGET4)
    before = contents(topo)
    assert before["counters"]
    assert before["flows"]
    questions = [
        f"{what} {UE4}{port} > {TARGET4}{to}{flags}"
        for what, port, to, flags in (
            ("tcp", ":1000", ":80", " syn"), ("tcp", ":1000", ":81", " syn"),
            ("tcp", ":1000", ":80", " ack"), ("udp", ":1000", ":443", ""),
            ("udp", ":1000", ":444", ""), ("udp", ":1000", ":443", " quic"), ("icmp", "", "", ""),
        )
    ]  # fmt: skip
    questions += [f"tcp [{UE6}]:1 > [{TARGET6}]:80 syn", f"tcp {UE4}:1 > 192.0.2.1:80 syn"]
    answers = [a.reason for a in topo.answers(questions)]
    assert answers == [
        "edge-syn", "cloud-no-listener", "cloud-no-socket", "edge-udp-new", "cloud-udp-no-socket",
        "edge-udp-new", "edge-ping", "cloud-no-listener", "miss",
    ]  # fmt: skip
    for changed in ({"enabled": False}, {"drop_when_down": True}, {"share": 0}):
        topo.steer(topo.service(**changed))
        topo.answers(questions)
    topo.steer(topo.service(ping_edge=True))
    assert contents(topo) == before


@pytest.mark.req("N14")
def test_the_answer_names_where_it_goes(topo: Topo) -> None:
    topo.add_service(7)
    topo.listen("s7", "0.0.0.0")
    topo.steer(topo.service(sid=5, generations=(generation(3, 7), generation(2, 1))))
    answer = topo.asked(f"tcp {UE4}:1000 > {TARGET4}:80 syn")
    assert answer == director.Explanation("edge-syn", 5, 7, 3)
    client = topo.connect(TARGET4)
    port = client.getsockname()[1]
    answer = topo.asked(f"tcp {UE4}:{port} > {TARGET4}:80 ack")
    assert (answer.reason, answer.slot) == ("edge-established", 7)


@pytest.mark.req("N14", "N13")
def test_a_dry_run_needs_all_of_its_marker(topo: Topo) -> None:
    """A packet whose control block happens to hold something is treated like any other."""
    topo.listen("s1", "0.0.0.0")
    topo.steer(topo.service())
    counted = topo.since()
    frame = explain.parse(f"tcp {UE4}:1000 > {TARGET4}:80 syn").frame(topo.wlan_mac)

    def run(cb: tuple[int, ...]) -> int:
        loaded = opened(attach.find())
        return loaded.programs["viscum_in"].test_run(frame, ifindex=topo.wlan, cb=cb)[0]

    assert topo.inside("ap", run, abi.DRY_RUN) == -1
    assert counted() == {}
    for index in range(3):
        cb = list(abi.DRY_RUN)
        cb[index] ^= 1
        assert topo.inside("ap", run, tuple(cb)) == 7, "TC_ACT_REDIRECT"
    assert counted() == {"edge-syn": 3}


# ---- cost ------------------------------------------------------------------------------------


@pytest.mark.req("N13")
def test_a_lookup_does_not_grow_with_the_targets(topo: Topo, figure: Figure) -> None:
    """Steps of the program a packet takes can't be counted: time, the least of several runs."""
    topo.listen("s1", "0.0.0.0")
    topo.steer(topo.service())
    hit = explain.parse(f"tcp {UE4}:1000 > {TARGET4}:80 ack").frame(topo.wlan_mac)
    miss = explain.parse(f"tcp {UE4}:1000 > 203.0.113.9:80 ack").frame(topo.wlan_mac)

    def least(frame: bytes) -> int:
        program = opened(attach.find()).programs["viscum_in"]
        return min(program.test_run(frame, ifindex=topo.wlan, repeat=20000)[1] for _ in range(15))

    one = [topo.inside("ap", least, frame) for frame in (hit, miss)]
    many = (own4(1) + 65536 + n for n in range(100_000))
    topo.inside(
        "ap", lambda: opened(attach.find()).maps["targets"].update(
            (abi.address(address), abi.U32.pack(1)) for address in many
        )
    )  # fmt: skip
    full = [topo.inside("ap", least, frame) for frame in (hit, miss)]
    for name, a, b in zip(("hit", "miss"), one, full, strict=True):
        figure(f"{name}, 1 and 100,001 targets", f"{a} and {b}", "ns")
        assert b < 2 * a + 50


@pytest.mark.req("N10")
def test_without_a_client_interface_nothing_is_held(topo: Topo) -> None:
    """The returner alone is left, whose maps are not all there are."""
    topo.steer(topo.service())
    topo.sh(f"ip -n {topo.name}-ap link del wlan0")
    assert topo.inside("ap", topo.director.hold, 1, Hold(load=50.0)) is False
    assert topo.inside("ap", topo.director.look).holds == {}
    assert topo.counters().packets == {}
