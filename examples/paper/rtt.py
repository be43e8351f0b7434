"""How far away a server is for a client: on the access point itself, at the edge by Viscum, in the
cloud. The same address is asked with the director on and off; the three take turns.
"""

from __future__ import annotations

from collections import defaultdict

from kit import Figures, Stage, run, stage
from paper import web
from viscum.lab import AP_LAN4, CLOUD4

ROUNDS, EACH = 5, 40
PLACES = {"the access point itself": AP_LAN4, "edge": CLOUD4, "cloud": CLOUD4}


def pages(scene: Stage, address: str) -> tuple[list[float], list[float]]:
    """Of pages by a new connection each: ms till it was there, ms till the page was."""
    argv = ["curl", "-sS", "--noproxy", "*", "-m", "10", "-w", "%{time_connect} %{time_total}\\n",
            "-o", "/dev/null", f"http://{address}/?[1-{EACH}]"]  # fmt: skip
    done = scene.lab.run("ue", argv, check=True)
    rows = [[1000 * float(word) for word in line.split()] for line in done.stdout.splitlines()]
    return [row[0] for row in rows], [row[1] for row in rows]


def play(scene: Stage, figures: Figures) -> None:
    for role in ("cloud", "ap"):
        web.serve(scene, role)
    scene.viscum(*web.run(scene))
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    lost = 0
    for _ in range(ROUNDS):
        for place, address in PLACES.items():
            scene.viscum("disable" if place == "cloud" else "enable", "web")
            answered = scene.ping(address, EACH)
            lost += EACH - len(answered)
            found["ping", place] += answered
            connected, there = pages(scene, address)
            found["TCP connection", place] += connected
            found["page by a new connection", place] += there
    figures.add("pings without an answer", lost, f"of {ROUNDS * len(PLACES) * EACH}")
    for (what, place), values in found.items():
        command = f"ping {PLACES[place]}" if what == "ping" else f"curl http://{PLACES[place]}/"
        figures.add(f"{what}, {place}", values, "ms", given=place == "cloud", command=command)


def main() -> None:
    figures = Figures("paper-rtt")
    with stage("rtt") as scene:
        play(scene, figures)
    figures.save()


if __name__ == "__main__":
    run(main)
