"""Real programs at the edge and in the cloud (test 4): iperf3, and 100 MB each way, compared."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.net import (
    PORT,
    ask,
    connect,
    download,
    download_udp,
    flow,
    ok,
    peer_command,
    run,
    start_peer,
    upload,
    upload_udp,
    who_udp,
)
from e2e.servers import body
from support import need_program, wait_until
from viscum.lab import CLOUD4, CLOUD6, Lab

TARGETS = (CLOUD4, CLOUD6)
EACH = pytest.mark.parametrize("target", TARGETS, ids=["v4", "v6"])
PLACES = pytest.mark.parametrize("place", ["edge", "cloud"])
MODES = pytest.mark.parametrize("firewall", ["bypass", "honour"])
SIZE = 100 * 1000 * 1000  # bytes
DATAGRAM = 1400  # bytes
Figure = Callable[[str, float | str, str], None]


def steer(lab: Lab, place: str, command: tuple[str, ...], port: int, firewall: str) -> None:
    """The service is there in both places; in the cloud's it is disabled."""
    ports = ("--port", f"{port}/tcp", "--port", f"{port}/udp")
    run(lab, "svc", TARGETS, *ports, "--firewall", firewall, "--", *command)
    if place == "cloud":
        ok(lab.viscum("disable", "svc"))


@pytest.mark.req("N5", "N6")
@EACH
@PLACES
@pytest.mark.parametrize("way", ["upload", "download"])
def test_100_mb(lab: Lab, target: str, place: str, way: str, figure: Figure) -> None:
    """TCP and UDP, every byte compared."""
    start_peer(lab)
    steer(lab, place, peer_command("edge"), PORT, "bypass")
    with connect(lab, target) as conn:
        begun = time.monotonic()
        assert (upload if way == "upload" else download)(conn, SIZE) == place
        took = time.monotonic() - begun
        figure(f"TCP {way}, {place}, with checksums", SIZE * 8e-6 / took, "Mbit/s")
    wait_until(lambda: who_udp(lab, target) == place, f"UDP at the {place}", 20)
    with flow(lab, target) as sock:
        assert ask(sock)[0] == place
        count = -(-SIZE // DATAGRAM)
        if way == "upload":
            assert upload_udp(sock, count, DATAGRAM) == place
        else:
            download_udp(sock, count, DATAGRAM)
        assert ask(sock)[0] == place


NOT_YET = ("the server is busy", "unable to receive control message: Connection reset by peer")


def iperf(lab: Lab, target: str, *options: str) -> dict[str, dict[str, float]]:
    """One test, when the server is ready for it: it ends the one before later than that's client
    does, and makes its socket anew."""

    def tried() -> Any:
        done = lab.run("ue", ["iperf3", "--json", "-c", target, *options])
        report = json.loads(done.stdout)
        error = report.get("error", "")
        assert not error or error.startswith(NOT_YET), error
        return not error and report["end"]

    return dict(wait_until(tried, "iperf3 is ready", 30))


@pytest.mark.req("N5", "N6", "N12")
@EACH
@PLACES
@MODES
def test_iperf3(lab: Lab, target: str, place: str, firewall: str, figure: Figure) -> None:
    """The unmodified program: TCP both ways, UDP both ways without a lost datagram to speak of."""
    need_program("iperf3")
    # It connects its UDP sockets, which fixes their source address; a cloud of several addresses
    # has to bind it to one, at the edge the way to the clients says which it is.
    server = ("iperf3", "-s")
    lab.popen("cloud", (*server, "-B", target), stdout=subprocess.DEVNULL)
    wait_until(lambda: lab.run("cloud", ["ss", "-Hltn", "sport = 5201"]).stdout, "iperf3")
    steer(lab, place, server, 5201, firewall)
    other = {"edge": "cloud", "cloud": "edge"}[place]
    for way in ((), ("-R",)):
        end = iperf(lab, target, "-n", "50M", *way)
        # what is in flight at the end is not counted: much, when the receiver gets no processor
        assert end["sum_received"]["bytes"] >= 20e6
        figure(f"iperf3 TCP {''.join(way)} {place}", end["sum_received"]["bits_per_second"] / 1e6,
               "Mbit/s")  # fmt: skip
    decided = json.loads(ok(lab.viscum("status", "svc", "--json")))
    assert (decided["in_bytes"] > 20e6) == (place == "edge"), f"it was the {other}"
    # iperf3's UDP test asks by TCP first; its datagrams must go to the same server
    wait_until(lambda: decisions(lab, target) != "cloud-udp-arming", "the end of arming", 20)
    for way in ((), ("-R",)):
        # slow enough for the socket's buffer to bridge the pauses of a machine that is busy
        end = iperf(lab, target, "-u", "-b", "10M", "-l", "1200", "-n", "2M", *way)
        assert end["sum"]["lost_percent"] < 10  # a busy machine's socket buffers lose some
        assert end["sum"]["packets"] >= 1600


def decisions(lab: Lab, target: str) -> str:
    """What a new UDP flow would meet."""
    ue = "[2001:db8:1::2]:9" if ":" in target else "10.1.0.2:9"
    there = f"[{target}]" if ":" in target else target
    words = ["explain", "svc", f"udp {ue} > {there}:5201", "--json"]
    return str(json.loads(ok(lab.viscum(*words)))["reason"])


SERVICES = 20  # 50 take 45 s and show the same


# ---- many --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.req("N13")
def test_many_services_of_twenty_targets(lab: Lab, figure: Figure) -> None:
    """By `apply` of a directory; each answers at each of its targets, `ls` stays quick."""
    need_program("busybox", "curl")
    directory = lab.directory / "services"
    directory.mkdir()
    pages = Path("/var/tmp") / f"vt-{lab.settings.prefix}"
    pages.mkdir()
    try:
        for n in range(SERVICES):
            (pages / f"{n}").mkdir()
            (pages / f"{n}" / "index.html").write_text(f"service {n}\n")
            targets = [f"203.0.{n}.{i}" for i in range(1, 11)]
            targets += [f"2001:db8:{n + 100:x}::{i}" for i in range(1, 11)]
            (directory / f"s{n}.toml").write_text(
                f'name = "s{n}"\n'
                f'command = ["busybox", "httpd", "-f", "-p", "80", "-h", "{pages}/{n}"]\n'
                f'[steer]\ninterfaces = ["wlan0"]\nports = ["80/tcp"]\n'
                f"targets = {json.dumps(targets)}\n"
            )
        begun = time.monotonic()
        ok(lab.viscum("apply", str(directory)))
        figure(f"apply of {SERVICES} services with 20 targets each", time.monotonic() - begun, "s")
        begun = time.monotonic()
        listed = json.loads(ok(lab.viscum("ls", "--json")))
        figure(f"ls of {SERVICES} services", (time.monotonic() - begun) * 1e3, "ms")
        assert [s["state"] for s in listed] == ["running"] * SERVICES
        for n in (0, 1, SERVICES // 2, SERVICES - 1):
            for target in (f"203.0.{n}.1", f"203.0.{n}.10", f"2001:db8:{n + 100:x}::7"):
                assert body(lab, target) == f"service {n}\n"
        begun = time.monotonic()
        ok(lab.viscum("rm", "--all"))
        figure(f"rm --all of {SERVICES} services", time.monotonic() - begun, "s")
        assert json.loads(ok(lab.viscum("ls", "--json"))) == []
    finally:
        subprocess.run(["rm", "-r", str(pages)], check=True)
