"""What a service costs the box: by Viscum, by Docker, and as a process that the box runs itself,
which is the limit. The same program, the same client, in turn, in a lab without rates and delay.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import Figures, Stage, await_listening, run, stage
from kit.figures import BUILD
from paper.docker import Docker, docker
from paper.processes import pids
from paper.rtt import pages
from viscum.lab import AP_LAN4, CLOUD4
from viscum.lab.processes import NETNS_DIR, processes_in

STARTS, ROUNDS, SECONDS = 7, 5, 2
MANY = 5  # services
HTTPD = ("busybox", "httpd", "-f", "-p", "80", "-h")
TREES = BUILD / "paper-trees.txt"


class Service:
    """A server put on the access point by one of them, at an address and port for the client."""

    def __init__(self, name: str, address: str, port: int, start: Callable[[], object],
                 stop: Callable[[], object]) -> None:  # fmt: skip
        self.name, self.address, self.port = name, address, port
        self.start, self.stop = start, stop


def viscum(scene: Stage, name: str, port: int, *command: str) -> Service:
    words = ("run", "--name", name, "--on", "wlan0", "--target", CLOUD4, "--port", f"{port}/tcp",
             "--ping", "edge", "--", *command)  # fmt: skip
    return Service(
        "Viscum", CLOUD4, port,
        lambda: scene.viscum(*words), lambda: scene.viscum("rm", name, "--now"),
    )  # fmt: skip


def container(made: Docker, name: str, port: int, *command: str, files: str = "") -> Service:
    """files: a directory that it needs."""
    mounts = ("-v", f"{files}:{files}:ro") if files else ()
    return Service(
        "Docker", AP_LAN4, 10000 + port,
        lambda: made.run(name, f"{10000 + port}:{port}", *command, mounts=mounts),
        lambda: made("rm", "-f", name),
    )  # fmt: skip


FIRST = """
import socket, sys, time
while True:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 1) as sock:
            sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            if b"200" in sock.recv(4096): break
    except OSError:
        time.sleep(0.001)
print(time.monotonic())
"""


def first_answer(scene: Stage, service: Service, impatient: bool) -> float:
    """ms from the command to the first page that a client gets, who begins to ask when the command
    has ended; an impatient one asks all the time. Docker's answer to that comes a second later: the
    kernel asks for the container's neighbour entry before the container is there, and not again for
    a second.
    """
    argv = [sys.executable, "-I", "-S", "-c", FIRST, service.address, str(service.port)]
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    if impatient:
        asking = scene.lab.popen("ue", argv, **pipe)
    begun = time.monotonic()
    service.start()
    if not impatient:
        asking = scene.lab.popen("ue", argv, **pipe)
    said, _ = asking.communicate(timeout=30)
    return 1000 * (float(said) - begun)


def throughput(scene: Stage, address: str, port: int, *way: str) -> float:
    """Gbit/s from the client to the server; with -R the other way."""
    argv = ["iperf3", "-J", *way, "-t", str(SECONDS), "-c", address, "-p", str(port)]
    said = json.loads(scene.lab.run("ue", argv).stdout)
    assert "error" not in said, said
    return float(said["end"]["sum_received"]["bits_per_second"]) / 1e9


def memory(pids: list[int]) -> float:
    """MB that they have alone, or their part of what they share (PSS)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def tree(title: str, of: list[int]) -> str:
    argv = ["ps", "-o", "pid,rss,args", "--forest", "-ww", "-p", ",".join(map(str, of))]
    return f"{title}\n{subprocess.run(argv, capture_output=True, text=True, check=True).stdout}\n"


def everybody() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def started_by_viscum(scene: Stage) -> list[int]:
    """Whatever has this lab's state directory in its environment: commands, and what they leave."""
    word = f"VISCUM_STATE_DIR={scene.lab.state_dir}".encode()
    found = []
    for pid in everybody():
        try:
            if word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue
    return found


def costs(scene: Stage, figures: Figures, made: Docker, www: str) -> None:
    """Processes and memory beyond the server's own."""
    ours = viscum(scene, "web", 80, *HTTPD, www)
    theirs = container(made, "web", 80, *HTTPD, www, files=www)
    idle = made.processes()
    ours.start()
    theirs.start()
    server = pids(scene, "web")
    all_theirs = made.processes()
    # also what would have cleared its environment
    there = {*started_by_viscum(scene), *processes_in(NETNS_DIR / scene.lab.ap)}
    beyond = sorted(there - {*server, *all_theirs, made.daemon.pid})
    (their_server,) = [pid for pid in all_theirs if is_server(pid)]
    others = [pid for pid in all_theirs if pid != their_server]
    TREES.write_text(tree("Viscum", server + beyond) + tree("Docker", all_theirs))
    print(TREES.read_text())
    add = figures.add
    add("processes that stay for a service, Viscum", len(beyond), "")
    add("processes that stay for a service, Docker", len(others) - len(idle), "")
    add("processes that are there because of one service, Docker", len(others), "")
    add("processes that are always there, Docker", len(idle), "")
    add("memory of those beyond the server, Viscum", memory(beyond), "MB")
    add("memory of those beyond the server, Docker", memory(others), "MB")
    ours.stop()
    theirs.stop()


def many(scene: Stage, figures: Figures, made: Docker, www: str) -> None:
    """The same of several services: what grows with them."""
    before = made.processes()
    for port in range(81, 81 + MANY):
        httpd = ("busybox", "httpd", "-f", "-p", str(port), "-h", www)
        viscum(scene, f"web{port}", port, *httpd).start()
        container(made, f"web{port}", port, *httpd, files=www).start()
    theirs = made.processes()
    servers = {pid for port in range(81, 81 + MANY) for pid in pids(scene, f"web{port}")}
    there = {*started_by_viscum(scene), *processes_in(NETNS_DIR / scene.lab.ap)}
    ours = sorted(there - {*servers, *theirs, made.daemon.pid})
    beyond = [pid for pid in theirs if not is_server(pid)]
    add = figures.add
    add(f"processes beyond {MANY} servers, Viscum", len(ours), "")
    add(f"processes beyond {MANY} servers, Docker", len(beyond), "")
    add(f"memory beyond {MANY} servers, Viscum", memory(ours), "MB")
    add(f"memory beyond {MANY} servers, Docker", memory(beyond), "MB")
    scene.viscum("rm", "--all", "--now")
    made("rm", "-f", *(f"web{port}" for port in range(81, 81 + MANY)))
    assert made.processes() == before


def is_server(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"busybox\0httpd")
    except OSError:
        return False


def starts(scene: Stage, figures: Figures, made: Docker, www: str) -> None:
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(STARTS):
        for service in (
            viscum(scene, "web", 80, *HTTPD, www),
            container(made, "web", 80, *HTTPD, www, files=www),
        ):
            for who, impatient in (("", False), (" to an impatient client", True)):
                took[who, service.name].append(first_answer(scene, service, impatient))
                service.stop()
    for (who, name), values in took.items():
        figures.add(f"start to first answer{who}, {name}", values, "ms")


def speed(scene: Stage, figures: Figures, made: Docker, www: str) -> None:
    """Throughput of iperf3 and pages of httpd, of each in turn."""
    scene.server("ap", ["iperf3", "-s", "-p", "5301"])
    scene.server("ap", ["busybox", "httpd", "-f", "-p", "8080", "-h", www])
    await_listening(scene.lab, "ap", 5301, 8080)
    both = {"iperf": (5201, ["iperf3", "-s"]), "web": (80, [*HTTPD, www])}
    services = [viscum(scene, name, port, *argv) for name, (port, argv) in both.items()]
    services += [
        container(made, name, port, *argv, files=www) for name, (port, argv) in both.items()
    ]
    for service in services:
        service.start()
    places = {"a process on the box": (AP_LAN4, 5301, 8080)}
    for one, other in zip(services[::2], services[1::2], strict=True):
        places[one.name] = (one.address, one.port, other.port)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        # never one iperf3 twice in a row: it resets who comes before it is ready again
        for what, way in (("throughput", ["-R"]), ("throughput up", [])):
            for name, (address, iperf, _) in places.items():
                found[what, name].append(throughput(scene, address, iperf, *way))
        for name, (address, _, web) in places.items():
            connected, there = pages(scene, f"{address}:{web}")
            found["TCP connection", name] += connected
            found["page", name] += there
    for (what, name), values in found.items():
        figures.add(
            f"{what}, {name}", values, "ms" if what in ("TCP connection", "page") else "Gbit/s"
        )


def main() -> None:
    figures = Figures("paper-compare")
    BUILD.mkdir(parents=True, exist_ok=True)
    with stage("compare", radio_rate=0, wan_rate=0, wan_rtt=0) as scene, docker(scene) as made:
        www = scene.directory / "www"
        www.mkdir()
        (www / "index.html").write_text("edge\n")
        costs(scene, figures, made, str(www))
        many(scene, figures, made, str(www))
        starts(scene, figures, made, str(www))
        speed(scene, figures, made, str(www))
    figures.save()


if __name__ == "__main__":
    run(main)
