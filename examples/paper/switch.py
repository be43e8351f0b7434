"""One client fetches a file without end while the operator moves the server to the edge, switches
it off and on, loses it and takes it away: what the client gets, and what crosses the WAN.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import RADIO, WAN, Figures, Stage, run, stage
from kit.figures import BUILD
from paper import web
from paper.processes import kill_service
from viscum.lab import CLOUD4

SIZE, SEED = 8_000_000, 2019
EVERY = 0.25  # s between two looks at the counters
WATCHED = 7.0  # s of every state
SETTLED = 2.0  # … of which so many go by before it counts
SERIES = BUILD / "paper-switch-series.csv"
EVENTS = BUILD / "paper-switch-events.csv"


@dataclass(frozen=True)
class Look:
    """at: s since the beginning; bytes since the beginning."""

    at: float
    client: int
    wan: int


class Watch:
    """Looks at the counters till it is told to end."""

    def __init__(self, scene: Stage) -> None:
        self.scene, self.looks, self.ended = scene, list[Look](), threading.Event()
        self.begun = time.monotonic()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.ended.wait(EVERY):
            client, wan = self._received(), self.scene.wan_bytes()
            self.looks.append(Look(time.monotonic() - self.begun, client, wan))

    def _received(self) -> int:
        done = self.scene.lab.run("ue", ["ip", "-j", "-s", "link", "show", "dev", "eth0"])
        return int(json.loads(done.stdout)[0]["stats64"]["rx"]["bytes"])

    def end(self) -> list[Look]:
        self.ended.set()
        self.thread.join()
        return self.looks

    def rates(self, since: float, until: float) -> tuple[float, float]:
        """Mbit/s that the client got and that crossed the WAN (both ways), from s till s."""
        seen = [look for look in self.looks if since <= look.at <= until]
        first, last = seen[0], seen[-1]
        factor = 8e-6 / (last.at - first.at)
        return (last.client - first.client) * factor, (last.wan - first.wan) * factor


def play(scene: Stage, figures: Figures) -> None:
    content = random.Random(SEED).randbytes(SIZE)
    (scene.directory / "files").mkdir()
    (scene.directory / "files" / "file").write_bytes(content)
    web.serve(scene)
    script = str(Path(__file__).with_name("download.py"))
    digest = hashlib.sha256(content).hexdigest()
    argv = [sys.executable, "-I", "-S", script, CLOUD4, "/files/file", digest]
    output = (scene.directory / "downloads").open("w+")
    client = scene.lab.popen("ue", argv, stdout=output)
    watch = Watch(scene)
    events: list[tuple[float, str]] = [(0.0, "cloud")]
    deaths: list[tuple[float, float]] = []

    def state(name: str, *words: str) -> None:
        if words:
            scene.viscum(*words)
        elif name == "killed":
            deaths.append(kill_service(scene, "web"))
        now = time.monotonic() - watch.begun
        if now > EVERY:
            events.append((now, name))
        time.sleep(WATCHED)
        got, crossed = watch.rates(now + SETTLED, now + WATCHED)
        figures.add(f"{name}: a client gets", got, "Mbit/s")
        figures.add(f"{name}: across the WAN", crossed, "Mbit/s")

    try:
        state("cloud")
        state("run", *web.run(scene))
        state("disable", "disable", "web")
        state("enable", "enable", "web")
        state("killed")
        state("start", "start", "web")
        state("rm", "rm", "web")
    finally:
        watch.end()
        client.kill()
        client.wait()
    output.seek(0)
    report(figures, [json.loads(line) for line in output], deaths)
    figures.add("longest time in which the client got nothing", silence(watch.looks), "s")
    output.close()
    save(watch.looks, events)


def report(
    figures: Figures, downloads: list[dict[str, Any]], deaths: list[tuple[float, float]]
) -> None:
    """What was open on the server in the moment it was killed can't be saved by anybody."""
    failed = [d for d in downloads if d["error"]]
    cut = [
        d for d in failed if d["from"] != "cloud"
        and any(d["begun"] <= dead and killed <= d["done"] for killed, dead in deaths)
    ]  # fmt: skip
    count = f"of {len(downloads)}"
    figures.add("downloads of the edge", sum(d["from"] == "edge" for d in downloads), count)
    figures.add("downloads that failed", len(failed) - len(cut), count)
    figures.add("… and that were open on the server when it was killed", len(cut), count)
    figures.add("seed of the file", SEED, "", given=True)
    figures.add("radio", RADIO / 1e6, "Mbit/s", given=True)
    figures.add("WAN", WAN / 1e6, "Mbit/s", given=True)


def silence(looks: list[Look]) -> float:
    """s, to a look's precision."""
    since, longest = looks[0], 0.0
    for look in looks:
        if look.client - since.client > SIZE // 1000:  # more than what acknowledges
            since = look
        longest = max(longest, look.at - since.at)
    return longest


def save(looks: list[Look], events: list[tuple[float, str]]) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    with SERIES.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("seconds", "client bytes", "WAN bytes"))
        rows.writerows((f"{look.at:.3f}", look.client, look.wan) for look in looks)
    with EVENTS.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("seconds", "event"))
        rows.writerows((f"{at:.3f}", event) for at, event in events)


def main() -> None:
    figures = Figures("paper-switch")
    with stage("switch") as scene:
        play(scene, figures)
    figures.save()


if __name__ == "__main__":
    run(main)
