"""U4: a camera streams to the cloud's name. Faces are found at the edge, and frames stay there.

make example-faces [ARGS="--frames DIRECTORY|VIDEO"]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from faces.measure import accuracy, each, posts, sizes, stream, too_many
from faces.scene import ENVIRONMENT, Scene, draw, known, python, scene
from kit import Figures, run
from viscum.lab import CLOUD4

SEED = 4
SMALL, LARGE = "640x480", "1920x1080"
SHOTS = {SMALL: 4, LARGE: 1}  # of every kind
FPS, SECONDS = 25, 10
PATIENCE = 60  # seconds of a stream that is ended when what it is for has been seen
MANY = 60  # frames a second, more than can be looked at


def switched_off(made: Scene, figures: Figures, frames: Path) -> None:
    """`viscum disable` while a stream is open: it stays at the edge; the next goes to the cloud."""
    old = made.camera(frames, FPS, FPS * SECONDS // 2)
    old.read(FPS)
    made.stage.viscum("disable", "faces")
    new = made.camera(frames, FPS, FPS)
    end = old.end()
    new.end()
    left = sum(answer["site"] != "edge" for answer in old.answers)
    stayed = sum(answer["site"] != "cloud" for answer in new.answers)
    add = figures.add
    add("disable: the open stream's frames answered elsewhere than at the edge", left,
        f"of {len(old.answers)}")  # fmt: skip
    add("disable: the open stream's connections", end["connections"], "")
    add("disable: the open stream's frames lost", end["lost"], "")
    add("disable: a new stream's frames answered elsewhere than in the cloud", stayed,
        f"of {len(new.answers)}")  # fmt: skip
    made.stage.viscum("enable", "faces")


def killed(made: Scene, figures: Figures, frames: Path) -> None:
    """The edge's server is killed while a stream is open: the camera's next one is the cloud's."""
    camera = made.camera(frames, FPS, FPS * PATIENCE)
    camera.read(FPS)
    os.kill(made.instance()["pid"], signal.SIGKILL)
    camera.read_from("cloud")
    camera.read(3 * FPS)
    end = camera.stop()
    edge, cloud = ([a["at"] for a in camera.answers if a["site"] == s] for s in ("edge", "cloud"))
    figures.add("killed: frames answered by the cloud afterwards", len(cloud), "")
    figures.add("killed: time without an answer", (cloud[0] - edge[-1]) * 1000, "ms")
    without, count = end["lost"] + end["skipped"], end["sent"] + end["skipped"]
    figures.add("killed: frames without an answer", without, f"of {count}")
    made.stage.viscum("start", "faces")


def play(made: Scene, figures: Figures, own: Path | None) -> None:
    small, large = own or made.stage.directory / SMALL, made.stage.directory / LARGE
    truth = known(small) if own else draw(small, SHOTS[SMALL], SEED, SMALL)
    if not own:
        figures.add("seed of the frames", SEED, "", given=True)
    sizes(figures, "a frame", small)
    if not own:
        draw(large, SHOTS[LARGE], SEED, LARGE)
        sizes(figures, f"a frame, {LARGE}", large)
    made.serve()
    made.move()
    told = {}
    for where in ("edge", "cloud"):
        given = where == "cloud"
        if given:
            made.stage.viscum("disable", "faces")
        ping = f"ping {CLOUD4}"
        figures.add(f"RTT, {where}", made.stage.ping(), "ms", given=given, command=ping)
        stream(made, figures, small, where, FPS, SECONDS)
        if not own:
            stream(made, figures, large, f"{where}, {LARGE}", FPS, SECONDS)
            posts(made, figures, small / "plain-1-1.jpg", where)
        told[where] = each(made, figures, small, where)
    edge, cloud = told["edge"], told["cloud"]
    same = sum(edge[name] == cloud[name] for name in edge)
    figures.add("frames on which edge and cloud find the same", same, f"of {len(edge)}")
    accuracy(figures, edge, truth)
    made.stage.viscum("enable", "faces")
    too_many(made, figures, small, MANY, SECONDS // 2)
    switched_off(made, figures, small)
    instance, answered = made.instance(), made.status()["answered"]
    figures.add("the edge's server: memory", instance["memory"] / (1 << 20), "MiB")
    figures.add("the edge's server: CPU per frame", instance["cpu"] / answered * 1000, "ms")
    killed(made, figures, small)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, help="a directory of JPEGs, or a video, of your own")
    own = parser.parse_args().frames
    if own:
        own = own.absolute()
        words = python("-m", "faces.own", str(own))
        done = subprocess.run(words, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"faces: {done.stderr.strip()}")
    figures = Figures("faces")
    with scene() as made:
        play(made, figures, own)
    print(f"\nkept in {figures.save()}")


if __name__ == "__main__":
    run(main)
