"""U1: a phone sends photos of number plates to the cloud's name. They are read at the edge, and
only what they say crosses the WAN, into the cloud's MariaDB.

    make example-plates [ARGS="--photos DIRECTORY"]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import RADIO, Figures, run
from plates.client import photos_of
from plates.own import Pictures, Unusable, pictures_in
from plates.scene import URL, Scene, draw, link, scene
from viscum.lab import CLOUD4

EACH, COMPARED = 8, 2  # photos of every kind, and those that are also sent to the cloud
MOST_COMPARED = 18  # of the user's own
# Of the photos: not that of the photos by which the generator was made, see test_plates.py.
SEED = 20261129
# What a frame takes on a Wi-Fi channel besides its bits, without aggregation: DIFS 34 us, 7.5 slots
# of 9 us to wait on average, preamble 40 us, SIFS 16 us, the acknowledgement 28 us.
PER_FRAME = 185.5e-6

Answers = list[dict[str, Any]]


@dataclass(frozen=True)
class Radio:
    """What the phone has sent and received."""

    bytes: int
    frames: int

    def __sub__(self, other: Radio) -> Radio:
        return Radio(self.bytes - other.bytes, self.frames - other.frames)

    @property
    def airtime(self) -> float:
        return self.bytes * 8 / RADIO + self.frames * PER_FRAME


def radio(stage: Scene) -> Radio:
    done = stage.lab.run("ue", ["ip", "-j", "-s", "link", "show", "dev", "eth0"], check=True)
    ways = json.loads(done.stdout)[0]["stats64"].values()
    return Radio(sum(way["bytes"] for way in ways), sum(way["packets"] for way in ways))


def frames_as_on_air(stage: Scene) -> None:
    """So that the interface's counters count frames, not what is cut into frames later."""
    off = ["tso", "off", "gso", "off", "gro", "off"]
    stage.lab.run("ue", ["ethtool", "-K", "eth0", *off], check=True)
    stage.lab.run("ap", ["ethtool", "-K", "wlan0", *off], check=True)


def read_of(answer: dict[str, Any]) -> str:
    results = answer.get("results")
    return str(results[0]["plate"]) if results else ""


def ms(answers: Answers, without_reading: bool = False) -> list[float]:
    return [
        1000 * a["seconds"] - (a["processing_time_ms"] if without_reading else 0) for a in answers
    ]


def memory(stage: Scene, what: str) -> float:
    """MiB of the server at the edge. what: VmRSS, VmHWM, see proc(5)."""
    [pid] = stage.processes()
    words = Path(f"/proc/{pid}/status").read_text()
    return int(words.partition(f"{what}:")[2].split()[0]) / 1024


def measure(stage: Scene, figures: Figures, where: str, photos: Path) -> None:
    """One run, by the same command with the same photos wherever they are read."""
    given, ping = where == "cloud", f"ping {CLOUD4}"
    figures.add(f"RTT, {where}", stage.stage.ping(), "ms", given=given, command=ping)
    rows = len(stage.database.rows())
    wan, air = stage.stage.wan_bytes(), radio(stage)
    answers = stage.send(photos)
    used = radio(stage) - air
    assert all(answer["status"] == 200 for answer in answers), answers
    stage.database.await_rows(rows + sum(len(a["results"]) for a in answers))
    crossed = stage.stage.wan_bytes() - wan
    command = f"client.py {URL} photos"
    figures.add(f"photo to answer, {where}", ms(answers), "ms", command=command)
    figures.add(f"… of that, without reading, {where}", ms(answers, True), "ms")
    figures.add(f"WAN bytes per photo, {where}", crossed / len(answers), "B")
    figures.add(f"client airtime per photo, {where}", used.airtime / len(answers) * 1000, "ms")
    awake = sum(answer["seconds"] for answer in answers) / len(answers)
    figures.add(f"client's radio awake per photo, {where}", awake * 1000, "ms")


def accuracy(
    figures: Figures, answers: Answers, known: dict[str, dict[str, str]], whose: str
) -> None:
    """Of those whose plates are known: read without a mistake, by what makes it hard."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for answer in answers:
        truth = known.get(answer["photo"])
        if truth:
            asked[truth["kind"]] += 1
            right[truth["kind"]] += read_of(answer) == truth["plate"]
        if not truth or read_of(answer) != truth["plate"]:
            said = f", says {truth['plate']} ({truth['font']})" if truth else ""
            print(f"    {answer['photo']}: read as {read_of(answer) or 'nothing'}{said}")
    for kind, count in asked.items():
        figures.add(f"read without a mistake, {whose}: {kind}", right[kind], f"of {count}")


def outage(stage: Scene, figures: Figures, photos: Path) -> None:
    """The way to the cloud is cut while photos come; nothing is lost, nothing doubled."""
    stage.await_delivered()
    before = len(stage.database.rows())
    stage.cut()
    answers = stage.send(photos, f"http://{CLOUD4}/", "--camera", "outage")
    figures.add("photo to answer, WAN cut", ms(answers), "ms")
    read = sum(len(answer.get("results", [])) for answer in answers)
    answered = sum(answer["status"] == 200 for answer in answers)
    figures.add("WAN cut: photos answered", answered, f"of {len(answers)}")
    figures.add("WAN cut: plates on the edge's disk", stage.status()["waiting"], f"of {read}")
    stage.mend()
    stage.await_delivered()
    rows = len(stage.database.rows()) - before
    figures.add("WAN back: plates in the database", rows, f"of {read}")


def play(stage: Scene, figures: Figures, own: Pictures | None, seed: int = SEED) -> None:
    photos = stage.stage.directory / "photos"
    if own:
        link(own.names, own.directory, photos)
        known = {n: {"plate": plate, "kind": "own", "font": ""} for n, plate in own.plates.items()}
        source, whose = f"--photos {own.directory}", "yours"
        few = own.names[:: -(-len(own.names) // MOST_COMPARED)]
    else:
        known = draw(photos, EACH, seed)
        figures.add("seed of the photos", seed, "", given=True)
        source, whose = f"photos.py --seed {seed} --each {EACH}", f"seed {seed}"
        few = tuple(n for n in known if int(n.removesuffix(".jpg").rpartition("-")[2]) <= COMPARED)
    sizes = [float(path.stat().st_size) for path in photos_of(photos)]
    figures.add("photo", sizes, "B", given=True, command=source)
    compared = link(few, photos, stage.stage.directory / "compared")
    frames_as_on_air(stage)
    stage.serve()
    began = time.monotonic()
    stage.move()
    figures.add("from apply to the edge's server listening", time.monotonic() - began, "s")
    figures.add("memory of the server at rest", memory(stage, "VmRSS"), "MiB")
    measure(stage, figures, "edge", compared)
    answers = stage.send(photos)
    accuracy(figures, answers, known, whose)
    figures.add("reading a photo", [a["processing_time_ms"] for a in answers], "ms")
    figures.add("memory of the server at most", memory(stage, "VmHWM"), "MiB")
    outage(stage, figures, compared)
    stage.stage.viscum("disable", "plates")
    measure(stage, figures, "cloud", compared)
    served = Counter(row[0] for row in stage.database.rows("site"))
    print(f"    plates in the database: {dict(served)}")


def own_pictures(words: str) -> Pictures:
    """Exits with words if they can't be used."""
    try:
        own = pictures_in(words)
    except Unusable as error:
        sys.exit(f"plates: {error}")
    for note in own.notes:
        print(f"  left out: {note}")
    return own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", metavar="DIRECTORY", help="pictures of your own")
    parser.add_argument("--seed", type=int, default=SEED, help="of photos that are drawn")
    words = parser.parse_args()
    own = own_pictures(words.photos) if words.photos is not None else None
    figures = Figures("plates")
    with scene() as made:
        play(made, figures, own, words.seed)
    print(f"\nkept in {figures.save()}")


if __name__ == "__main__":
    run(main)
