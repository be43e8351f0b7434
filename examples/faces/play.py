"""U4: a camera streams to the cloud's name. Faces are found at the edge, and frames stay there.

make example-faces [ARGS="--frames DIRECTORY|VIDEO"]
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from faces.accuracy import Score, score
from faces.scene import URL, Scene, Told, draw, known, scene
from kit import Figures, run
from viscum.lab import CLOUD4

RADIO, WAN, WAN_RTT = 300e6, 50e6, 0.06  # bit/s, bit/s, s
SEED = 4
SMALL, LARGE = "640x480", "1920x1080"
SHOTS = {SMALL: 4, LARGE: 1}  # of every kind
FPS, SECONDS = 25, 10
MANY = 60  # frames a second, more than can be looked at
POSTS = 20


def stream(made: Scene, figures: Figures, frames: Path, where: str, size: str = "") -> None:
    """Ten seconds of a camera's frames, wherever they are looked at."""
    name = f"{where}, {size}" if size else where
    before = made.stage.wan_bytes()
    camera = made.camera(frames, FPS, FPS * SECONDS)
    end = camera.end()
    crossed = made.stage.wan_bytes() - before
    answers = camera.answers
    assert {answer["site"] for answer in answers} == {where}, answers[0]
    command = f"camera.py {URL} frames --fps {FPS}"
    add = figures.add
    add(f"frame to answer, {name}", [a["ms"] for a in answers], "ms", command=command)
    add(f"… of that, without looking, {name}",
        [a["ms"] - a["processing_time_ms"] for a in answers], "ms")  # fmt: skip
    seconds = answers[-1]["at"] - answers[0]["at"]
    add(f"frames/s, {name}", (len(answers) - 1) / seconds, "/s", command=command)
    dropped = sum(answer["dropped"] for answer in answers)
    add(f"frames the server passed over, {name}", dropped, f"of {end['sent']}")
    add(f"frames the network had no room for, {name}", end["skipped"], f"of {FPS * SECONDS}")
    add(f"WAN bytes per frame, {name}", crossed / end["sent"], "B")


def each(made: Scene, figures: Figures, frames: Path, where: str) -> dict[str, Told]:
    """Every frame once, the next when the last was answered."""
    camera = made.camera(frames, 0)
    camera.end()
    answers = camera.answers
    assert {answer["site"] for answer in answers} == {where}
    figures.add(f"one after the other: frame to answer, {where}", [a["ms"] for a in answers], "ms")
    figures.add(
        f"one after the other: frames/s, {where}",
        (len(answers) - 1) / (answers[-1]["at"] - answers[0]["at"]), "/s",
    )  # fmt: skip
    return {answer["picture"]: answer for answer in answers}


def accuracy(figures: Figures, told: dict[str, Told], truth: dict[str, Told]) -> None:
    """By what makes it hard."""
    scores: dict[str, Score] = {}
    alarms: dict[str, int] = {}
    frames: dict[str, int] = {}
    for name, there in truth.items():
        kind = there["kind"]
        one = score(told[name]["faces"], there)
        scores[kind] = scores.get(kind, Score()) + one
        frames[kind] = frames.get(kind, 0) + 1
        alarms[kind] = alarms.get(kind, 0) + (one.wrong > 0)
    for kind, total in scores.items():
        if total.faces:
            figures.add(f"faces found: {kind}", total.found, f"of {total.faces}")
            figures.add(f"found where none is: {kind}", total.wrong, f"of {total.found}")
        else:
            figures.add(f"frames with a face found where none is: {kind}", alarms[kind],
                        f"of {frames[kind]}")  # fmt: skip


def posts(made: Scene, figures: Figures, picture: Path, where: str) -> None:
    """One picture, each time by a new connection."""
    words = ["curl", "-sS", "-m", "20", "-o", "/dev/null", "-w", "%{time_total}", "-H",
             "Content-Type: image/jpeg", "--data-binary", f"@{picture}",
             f"http://{CLOUD4}/detect"]  # fmt: skip
    took = [float(made.lab.run("ue", words, check=True).stdout) * 1000 for _ in range(POSTS)]
    figures.add(f"a picture by POST, {where}", took, "ms", command="curl --data-binary @frame.jpg")


def too_many(made: Scene, figures: Figures, frames: Path) -> None:
    """More frames than can be looked at: the newest are, and answers do not get late."""
    camera = made.camera(frames, MANY, MANY * SECONDS // 2)
    end = camera.end()
    answers = camera.answers
    seconds = answers[-1]["at"] - answers[0]["at"]
    figures.add(f"{MANY} frames/s sent: answered", (len(answers) - 1) / seconds, "/s")
    dropped = sum(answer["dropped"] for answer in answers)
    figures.add(f"{MANY} frames/s sent: passed over", dropped, f"of {end['sent']}")
    figures.add(f"{MANY} frames/s sent: neither answered nor passed over",
                end["sent"] - dropped - len(answers), f"of {end['sent']}")  # fmt: skip
    figures.add(f"{MANY} frames/s sent: frame to answer", [a["ms"] for a in answers], "ms")


def switched_off(made: Scene, figures: Figures, frames: Path) -> None:
    """`viscum disable` while a stream is open: it stays at the edge; the next goes to the cloud."""
    old = made.camera(frames, FPS, FPS * SECONDS // 2)
    old.read(FPS)
    made.stage.viscum("disable", "faces")
    new = made.camera(frames, FPS, FPS)
    end = old.end()
    new.end()
    figures.add(
        "disable: the open stream's frames answered elsewhere than at the edge",
        sum(a["site"] != "edge" for a in old.answers),
        f"of {len(old.answers)}",
    )
    figures.add("disable: the open stream's connections", end["connections"], "")
    figures.add("disable: the open stream's frames lost", end["lost"], "")
    figures.add(
        "disable: a new stream's frames answered elsewhere than in the cloud",
        sum(a["site"] != "cloud" for a in new.answers),
        f"of {len(new.answers)}",
    )
    made.stage.viscum("enable", "faces")


def killed(made: Scene, figures: Figures, frames: Path) -> None:
    """The edge's server is killed while a stream is open: the camera's next one is the cloud's."""
    camera = made.camera(frames, FPS, FPS * SECONDS // 2)
    camera.read(FPS)
    os.kill(made.instance()["pid"], signal.SIGKILL)
    end = camera.end()
    edge = [a for a in camera.answers if a["site"] == "edge"]
    cloud = [a for a in camera.answers if a["site"] == "cloud"]
    figures.add("killed: frames answered by the cloud afterwards", len(cloud), "")
    figures.add("killed: time without an answer", (cloud[0]["at"] - edge[-1]["at"]) * 1000, "ms")
    figures.add("killed: frames without an answer", end["lost"] + end["skipped"],
                f"of {FPS * SECONDS // 2}")  # fmt: skip
    made.stage.viscum("start", "faces")


def play(made: Scene, figures: Figures, own: Path | None) -> None:
    directory = made.stage.directory
    frames = {SMALL: own} if own else {size: directory / size for size in SHOTS}
    truth = known(own) if own else {}
    for size, shots in {} if own else SHOTS.items():
        drawn = draw(directory / size, shots, SEED, size)
        truth = truth or drawn
        sizes = [float(path.stat().st_size) for path in (directory / size).glob("*.jpg")]
        figures.add(f"a frame, {size}", sizes, "B", given=True)
    small = frames[SMALL]
    assert small is not None
    made.serve()
    answers = {}
    for where in ("edge", "cloud"):
        if where == "edge":
            made.move()
        else:
            made.stage.viscum("disable", "faces")
        figures.add(
            f"RTT, {where}",
            made.stage.ping(),
            "ms",
            given=where == "cloud",
            command=f"ping {CLOUD4}",
        )
        stream(made, figures, small, where)
        if not own:
            stream(made, figures, frames[LARGE], where, LARGE)
            posts(made, figures, small / "plain-1-1.jpg", where)
        answers[where] = each(made, figures, small, where)
    same = sum(
        answers["edge"][name]["faces"] == answers["cloud"][name]["faces"]
        for name in answers["edge"]
    )
    figures.add("frames on which edge and cloud find the same", same, f"of {len(answers['edge'])}")
    accuracy(figures, answers["edge"], truth)
    made.stage.viscum("enable", "faces")
    too_many(made, figures, small)
    switched_off(made, figures, small)
    instance = made.instance()
    status = made.status()
    figures.add("the edge's server: memory", instance["memory"] / (1 << 20), "MiB")
    figures.add(
        "the edge's server: CPU per frame", instance["cpu"] / status["answered"] * 1000, "ms"
    )
    killed(made, figures, small)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, help="a directory of JPEGs, or a video, of your own")
    own = parser.parse_args().frames
    figures = Figures("faces")
    with scene(radio_rate=RADIO, wan_rate=WAN, wan_rtt=WAN_RTT) as made:
        play(made, figures, own.resolve() if own else None)
    print(f"\nkept in {figures.save()}")


if __name__ == "__main__":
    run(main)
