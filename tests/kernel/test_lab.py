"""The lab itself: what everything else is measured with has to be right."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support import need_program, wait_until
from viscum.errors import InputError, ViscumError
from viscum.lab import AP_LAN4, AP_WAN4, CLOUD4, CLOUD6, CLOUDS4, CLOUDS6, Lab, ue4, ue6
from viscum.lab.processes import processes_in

ADDRESSES = pytest.mark.parametrize("address", [CLOUD4, CLOUD6], ids=["IPv4", "IPv6"])

# Sends or takes SIZE pseudo-random bytes on one connection and prints their digest and the seconds
# from the first to the last.
SERVER = """
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
server = socket.create_server((address, port), family=family)
print("ready", flush=True)
"""
TRANSFER = """
import hashlib, random, socket, sys, time
def send(sock, size):
    data = random.Random(1).randbytes(size)
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    return hashlib.sha256(data).hexdigest()
def take(sock):
    digest, size, first = hashlib.sha256(), 0, 0.0
    while data := sock.recv(1 << 20):
        first = first or time.monotonic()
        digest.update(data); size += len(data)
    return digest.hexdigest(), size, time.monotonic() - first
"""


def pings(lab: Lab, address: str, *options: str, role: str = "ue") -> tuple[int, list[float]]:
    """(sent, round trip times in seconds)"""
    words = lab.run(role, ["ping", "-n", *options, address]).stdout
    sent = re.search(r"(\d+) packets transmitted", words)
    assert sent, words
    return int(sent[1]), [float(t) / 1000 for t in re.findall(r"time=([\d.]+) ms", words)]


def serve(lab: Lab, address: str, code: str, port: int = 7000) -> subprocess.Popen[str]:
    """A server in the cloud; its code finds `server`, a listening socket."""
    server = lab.popen(
        "cloud",
        [sys.executable, "-c", SERVER + TRANSFER + code, address, str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return server


def client(lab: Lab, address: str, code: str, port: int = 7000, role: str = "ue") -> str:
    connect = f"\nsock = socket.create_connection(({address!r}, {port}), timeout=60)\n"
    done = lab.run(role, [sys.executable, "-c", TRANSFER + connect + code])
    assert done.returncode == 0, done.stderr
    return done.stdout


@ADDRESSES
def test_wan_has_the_round_trip_time_asked_for(lab_factory: Any, address: str, figure: Any) -> None:
    lab = lab_factory(wan_rtt=0.060, wan_rate=50e6, radio_rate=300e6)
    _, times = pings(lab, address, "-c10", "-i0.1")
    assert len(times) == 10
    assert min(times) >= 0.060  # a wire is never early
    assert min(times) < 0.090
    figure("round trip, 60 ms asked for", min(times) * 1000, "ms")
    _, near = pings(lab, AP_LAN4, "-c3", "-i0.05")
    assert min(near) < 0.030  # only the WAN is long
    lab.down()


@ADDRESSES
@pytest.mark.parametrize("upload", [True, False], ids=["up", "down"])
def test_transfers_arrive_unchanged_and_no_faster_than_the_wan(
    lab_factory: Any, address: str, upload: bool, figure: Any
) -> None:
    rate, size = 50e6, 6_000_000
    lab = lab_factory(wan_rtt=0.020, wan_rate=rate, radio_rate=300e6)
    give = f"print(send(sock, {size}), flush=True); sock.recv(1)"
    take = "print(*take(sock), flush=True); sock.close()"
    accept = "sock = server.accept()[0]\n"
    server = serve(lab, address, accept + (take if upload else give))
    words = client(lab, address, give if upload else take)
    assert server.stdout is not None
    theirs = server.stdout.readline()
    sent, taken = (words, theirs) if upload else (theirs, words)
    digest, got, seconds = taken.split()
    assert digest == sent.strip()
    assert int(got) == size
    measured = size * 8 / float(seconds)
    assert measured < rate * 1.05  # the burst lets a little more through
    figure("rate, 50 Mbit/s asked for", measured / 1e6, "Mbit/s")
    lab.down()


def test_the_wire_alone_carries_hundreds_of_megabits(lab_factory: Any, figure: Any) -> None:
    size = 60_000_000
    lab = lab_factory(wan_rtt=0.060)
    serve(lab, CLOUD4, f"sock = server.accept()[0]; send(sock, {size}); sock.recv(1)")
    wire = lab.status().processes[lab.namespace("wan")]
    digest, got, seconds = client(lab, CLOUD4, "print(*take(sock)); sock.close()").split()
    expected = lab.run("ue", [sys.executable, "-c", f"{TRANSFER}\n{DIGEST % size}"]).stdout.strip()
    assert (digest, int(got)) == (expected, size)
    figure("throughput, 60 ms and no limit", size * 8 / float(seconds) / 1e6, "Mbit/s")
    for pid in wire:
        ticks = sum(int(n) for n in Path(f"/proc/{pid}/stat").read_text().split()[13:15])
        busy = ticks / os.sysconf("SC_CLK_TCK") / (size * 8 / 1e9)
        figure("the wire's CPU", busy, "s per Gbit")
    lab.down()


DIGEST = "print(hashlib.sha256(random.Random(1).randbytes(%d)).hexdigest())"


def test_the_wire_keeps_the_order_and_loses_nothing_unasked(lab_factory: Any) -> None:
    lab = lab_factory(wan_rtt=0.010)
    count = 5000
    code = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.setsockopt(1, 33, 1 << 24); s.bind(('{CLOUD4}', 7001)); s.settimeout(30)\n"
        "print('ready', flush=True)\n"
        f"print([int(s.recv(99)) for _ in range({count})] == list(range({count})), flush=True)"
    )
    receiver = lab.popen("cloud", [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    sender = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for n in range({count}): s.sendto(str(n).encode(), ('{CLOUD4}', 7001))"
    )
    lab.run("ue", [sys.executable, "-c", sender], check=True)
    assert receiver.stdout.readline() == "True\n"
    lab.down()


def test_loss_is_what_was_asked_for(lab_factory: Any) -> None:
    lab = lab_factory(wan_rtt=0.010, loss=0.2)
    sent, times = pings(lab, CLOUD4, "-c400", "-i0.002")
    assert sent == 400
    # answered with probability 0.8², 256 ± 9.6 of 400: six sigma
    assert 198 <= len(times) <= 314
    lab.down()


def test_without_delay_there_is_no_wire(lab: Lab) -> None:
    status = lab.status()
    assert status.up
    assert status.wire == ""
    assert status.namespaces == tuple(sorted((lab.ap, lab.cloud, lab.ue)))
    for address in (*CLOUDS4, *CLOUDS6):
        assert pings(lab, address, "-c1")[1]


@pytest.mark.parametrize("lab", [{"clients": 3}], indirect=True)
def test_several_clients_reach_the_cloud_and_each_other(lab: Lab) -> None:
    for n, role in enumerate(("ue", "ue2", "ue3"), 1):
        for address in (CLOUD4, CLOUD6, AP_LAN4, ue4(n % 3 + 1), ue6(n % 3 + 1)):
            assert pings(lab, address, "-c1", role=role)[1], (role, address)


@pytest.mark.parametrize(
    ("firewall", "reached"), [("none", True), ("router", False), ("strict", False)]
)
def test_the_firewall_keeps_the_outside_out(lab_factory: Any, firewall: str, reached: bool) -> None:
    lab = lab_factory(firewall=firewall)
    for address in (ue4(), ue6()):
        assert bool(pings(lab, address, "-c1", "-W1", role="cloud")[1]) is reached
    source = serve(lab, CLOUD4, "print(server.accept()[1][0], flush=True)")
    client(lab, CLOUD4, "")
    assert source.stdout is not None
    assert source.stdout.readline().strip() == (ue4() if firewall == "none" else AP_WAN4)
    lab.down()


@pytest.mark.parametrize("lab", [{"dns": True}], indirect=True)
@pytest.mark.parametrize("role", ["ue", "ap"])
def test_names_resolve_inside(lab: Lab, role: str) -> None:
    need_program("dnsmasq")
    words = lab.run(role, ["getent", "ahosts", "cloud.example"]).stdout
    assert {line.split()[0] for line in words.splitlines()} == {CLOUD4, CLOUD6}
    assert lab.run(role, ["getent", "ahosts", "debian.org"]).returncode != 0  # nothing gets out


def test_labs_of_different_prefix_do_not_meet(lab_factory: Any) -> None:
    labs = [lab_factory(wan_rtt=0.002), lab_factory(wan_rtt=0.002)]
    for name, lab in zip("ab", labs, strict=True):
        reply = f"while True: server.accept()[0].sendall(b{name!r})"
        serve(lab, CLOUD4, reply)
    for name, lab in zip("ab", labs, strict=True):
        assert client(lab, CLOUD4, "print(sock.recv(1).decode())") == f"{name}\n"
    labs[0].down()
    assert client(labs[1], CLOUD4, "print(sock.recv(1).decode())") == "b\n"
    assert not labs[0].status().namespaces
    labs[1].down()


def test_down_twice_and_up_twice(lab_factory: Any) -> None:
    lab = lab_factory(wan_rtt=0.002)
    first = os.stat(f"/run/netns/{lab.ap}").st_ino
    lab.up()
    assert os.stat(f"/run/netns/{lab.ap}").st_ino != first
    assert lab.status().up
    lab.down()
    lab.down()
    assert nothing_of(lab)


def nothing_of(lab: Lab) -> bool:
    """Neither namespaces nor files, and no process that would have kept a namespace alive."""
    return not lab.status().namespaces and not lab.directory.exists()


BUILDER = """
import os, signal, subprocess, sys
from viscum.lab import Lab, build
prefix, fatal = sys.argv[1], int(sys.argv[2])
calls, real = 0, build.call
def call(argv, words=""):
    global calls
    if calls == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    calls += 1
    return real(argv, words)
build.call = call
lab = Lab(prefix, wan_rtt=0.002)
lab.up()
lab.popen("ue", ["sleep", "1000"], start_new_session=True, stdout=subprocess.DEVNULL,
          stderr=subprocess.DEVNULL)
print(calls, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_down_clears_up_after_a_builder_killed_anywhere(request: pytest.FixtureRequest) -> None:
    prefix = f"vt-{os.getpid()}-killed"
    request.addfinalizer(Lab(prefix).down)
    fatal = 0
    while True:
        builder = subprocess.run(
            [sys.executable, "-c", BUILDER, prefix, str(fatal)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert builder.returncode == -signal.SIGKILL, builder.stderr
        lab = Lab(prefix)
        left = [pid for pids in lab.status().processes.values() for pid in pids]
        if builder.stdout:
            assert left  # it came to its end: the program it started lives
        lab.down()
        assert nothing_of(lab)
        for pid in left:
            wait_until(partial(ended, pid), f"process {pid} to end")
        if builder.stdout:
            assert int(builder.stdout) == fatal
            break
        fatal += 1
    assert fatal > 5


def ended(pid: int) -> bool:
    """Also true of a zombie that waits for its reaper."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_wire_ends_with_its_interfaces(lab_factory: Any) -> None:
    lab = lab_factory(wan_rtt=0.002)
    if lab.status().wire == "process":
        (pid,) = lab.status().processes[lab.namespace("wan")]
        lab.run("wan", ["ip", "link", "del", "ap"], check=True)
        wait_until(lambda: ended(pid), "the delay line to end")
        assert lab.status().wire == "broken"
        assert not lab.status().up
    lab.down()


def test_processes_are_told_by_namespace_only(lab: Lab) -> None:
    inside = lab.popen("ue", ["sleep", "1000"])
    outside = subprocess.Popen(["sleep", "1000"])
    try:
        wait_until(
            lambda: inside.pid in processes_in(Path("/run/netns") / lab.ue), "sleep to be inside"
        )
        lab.down()
        assert inside.returncode == -signal.SIGKILL
        assert outside.poll() is None
    finally:
        outside.kill()
        outside.wait()


def test_the_access_point_is_a_host_of_its_own(lab: Lab) -> None:
    show = "import os; print(os.environ.get('VISCUM_STATE_DIR', ''))"
    assert lab.run("ap", [sys.executable, "-c", show]).stdout.strip() == str(lab.state_dir)
    assert lab.run("ue", [sys.executable, "-c", show]).stdout.strip() == os.environ.get(
        "VISCUM_STATE_DIR", ""
    )


def test_bad_settings_are_all_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Lab("No!", clients=0, wan_rtt=-1, wan_rate=1, radio_rate=1, loss=1, firewall="wall")
    assert [p.field for p in caught.value.problems] == [
        "prefix",
        "clients",
        "wan-rtt",
        "wan-rate",
        "radio-rate",
        "loss",
        "firewall",
    ]
    with pytest.raises(InputError):
        Lab("x").namespace("../ap")


def test_exec_says_what_is_missing() -> None:
    with pytest.raises(ViscumError, match="no ue"):
        Lab(f"vt-{os.getpid()}-none").exec_in("ue", ["true"])
