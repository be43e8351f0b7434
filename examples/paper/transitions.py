"""What clients notice of an operator who never rests: the server is switched off and on, upgraded,
restarted, taken away and put there again, in an order drawn by a seed, while connections and UDP
flows come, last and go. Then the paper's way to disable: the director taken off the interface.
"""

from __future__ import annotations

import csv
import itertools
import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import Figures, Stage, await_listening, run, stage
from kit.figures import BUILD
from viscum.kernel.director import attach
from viscum.kernel.syscalls import in_netns
from viscum.lab import CLOUD4
from viscum.lab.processes import NETNS_DIR

PORT, SEED, TIMES = 7000, 2019, 40
DRAIN = "5s"  # longer than any of the clients' flows; what has gone silent is not waited for longer
WATCHED = 3.0  # s before and after the director goes
STEERED = ("--on", "wlan0", "--target", CLOUD4, "--port", f"{PORT}/tcp", "--port", f"{PORT}/udp",
           "--drain", DRAIN)  # fmt: skip
HERE = Path(__file__).parent
PYTHON = (sys.executable, "-I", "-S")
FLOWS = BUILD / "paper-transitions-flows.csv"


def echo(name: str, address: str) -> list[str]:
    return [*PYTHON, str(HERE / "echo.py"), name, address, str(PORT)]


class Operator:
    """Who types the commands, and knows which can come next."""

    def __init__(self, scene: Stage) -> None:
        self.scene = scene
        self.random = random.Random(SEED)
        self.done: Counter[str] = Counter()
        self.there = self.on = False

    def act(self) -> None:
        if not self.there:
            what = "run"
        elif self.on:
            what = self.random.choice(("disable", "upgrade", "restart", "rm"))
        else:
            what = self.random.choice(("enable", "restart", "rm"))
        self.scene.viscum(*self.words(what))
        self.there = what != "rm"
        self.on = what in ("run", "upgrade", "enable") or (self.on and what == "restart")
        self.done[what] += 1

    def words(self, what: str) -> list[str]:
        if what in ("run", "upgrade"):
            server = echo(f"edge{self.done.total()}", CLOUD4)
            return ["run", "--replace", "--name", "echo", *STEERED, "--", *server]
        return [what, "echo", *(["--no-wait"] if what == "rm" else [])]


class Clients:
    """flows.py, running."""

    first = itertools.count(
        10_000, 5_000
    )  # of the ports of their UDP flows; the kernel draws others

    def __init__(self, scene: Stage) -> None:
        words = (PORT, SEED, next(self.first))
        argv = [*PYTHON, str(HERE / "flows.py"), CLOUD4, *map(str, words)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = scene.lab.popen("ue", argv, **pipes)

    def end(self) -> list[dict[str, Any]]:
        said, _ = self.process.communicate(timeout=60)
        flows: list[dict[str, Any]] = json.loads(said)
        return flows


def transitions(scene: Stage, figures: Figures) -> None:
    operator, clients = Operator(scene), Clients(scene)
    for _ in range(TIMES):
        operator.act()
    flows = clients.end()
    print(f"    {dict(operator.done)}")
    figures.add("seed of the order", SEED, "", given=True)
    figures.add("transitions", TIMES, "")
    for kind, what in (("tcp", "connections"), ("udp", "UDP flows"), ("short", "requests")):
        mine = [flow for flow in flows if flow["kind"] == kind]
        broken = sum(bool(flow["error"]) or len(flow["who"]) != 1 for flow in mine)
        edge = sum(map(at_edge, mine))
        figures.add(f"{what} broken, moved or unanswered", broken, f"of {len(mine)}")
        figures.add(f"{what} that the edge answered", edge, f"of {len(mine)}")
    asked = sum(flow["asked"] for flow in flows)
    figures.add("questions asked in all", asked, "")
    with FLOWS.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["kind", "seconds", "asked", "answered by", "error"])
        for f in flows:
            took = f"{f['ended'] - f['begun']:.3f}"
            rows.writerow([f["kind"], took, f["asked"], " ".join(f["who"]), f["error"]])


def take_off(scene: Stage) -> None:
    """The director away from the client's interface: what `tc filter del` does to one."""

    def detach() -> None:
        for there in attach.on(socket.if_nametoindex("wlan0")):
            attach.detach(there)

    with (NETNS_DIR / scene.lab.ap).open() as handle:
        in_netns(handle.fileno(), detach)


def by_hand(scene: Stage, figures: Figures) -> None:
    """What is open at the edge when the director goes, by our `disable` and by the paper's way."""
    ways: dict[str, Callable[[], object]] = {
        "by viscum disable": lambda: scene.viscum("disable", "echo"),
        "by taking the director off": lambda: take_off(scene),
    }
    for way, disable in ways.items():
        scene.viscum("rm", "echo", "--now", ok=False)
        scene.viscum(*Operator(scene).words("run"))
        clients = Clients(scene)
        time.sleep(WATCHED)
        moment = time.monotonic()
        disable()
        time.sleep(WATCHED)
        flows = clients.end()
        there = [f for f in flows if f["begun"] < moment < f["ended"] and at_edge(f)]
        cut = sum(bool(f["error"]) or len(f["who"]) > 1 for f in there)
        figures.add(f"flows open at the edge cut {way}", cut, f"of {len(there)}")
        new = [f for f in flows if f["begun"] > moment]
        failed = sum(bool(f["error"]) for f in new)
        figures.add(f"new flows failed {way}", failed, f"of {len(new)}")


def at_edge(flow: dict[str, Any]) -> bool:
    """Whether it was the edge that answered first."""
    return bool(flow["who"]) and flow["who"][0].startswith("edge")


def main() -> None:
    figures = Figures("paper-transitions")
    with stage("transitions") as scene:
        scene.server("cloud", echo("cloud", CLOUD4))
        await_listening(scene.lab, "cloud", PORT)
        BUILD.mkdir(parents=True, exist_ok=True)
        transitions(scene, figures)
        by_hand(scene, figures)
    figures.save()


if __name__ == "__main__":
    run(main)
