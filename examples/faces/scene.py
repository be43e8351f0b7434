"""The lab with all that belongs to it: the server in the cloud and at the edge, and cameras."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit import Stage, await_listening, example_dir, installed, spec_of, stage, with_environment
from viscum.lab import CLOUD4
from viscum.lab.plan import CLOUD_NAME

NAME = "faces"
URL = f"ws://{CLOUD_NAME}/stream"
Told = dict[str, Any]  # a line of the camera's


def python(*words: str) -> list[str]:
    """The example's own interpreter, with what it needs."""
    return [str(installed(NAME) / "bin" / "python"), *words]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(example_dir(NAME).parent)}


def draw(directory: Path, shots: int, seed: int, size: str = "640x480") -> dict[str, Told]:
    """Frames, and by name where the faces are."""
    words = ["--downloads", str(installed(NAME) / "downloads"), "--size", size]
    words += ["--shots", str(shots), "--seed", str(seed), str(directory)]
    subprocess.run(python("-m", "faces.frames", *words), check=True, env=ENVIRONMENT)
    return known(directory)


def known(directory: Path) -> dict[str, Told]:
    """Where the faces are, if that is known: as `frames.py` writes it down, or as people do."""
    path = directory / "faces.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return {
        name: {"kind": "own", "faces": there, "uncounted": []} if isinstance(there, list) else there
        for name, there in found.items()
    }


class Camera:
    """One that runs. lines: what it has said so far."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.lines: list[Told] = []
        self._child = child

    def read(self, answers: int) -> None:
        """The next so many answers, or fewer if it ends before."""
        for _ in range(answers):
            self.read_until("picture")

    def read_until(self, what: str) -> None:
        """A line that says this, or the last one."""
        assert self._child.stdout is not None
        while line := self._child.stdout.readline():
            self.lines.append(json.loads(line))
            if what in self.lines[-1]:
                return

    def read_from(self, site: str) -> None:
        """Until an answer has come from there. AssertionError if it ends before."""
        while not any(answer["site"] == site for answer in self.answers[-1:]):
            before = len(self.lines)
            self.read(1)
            assert len(self.lines) > before, f"no answer from {site}: {self.lines[-1:]}"

    def stop(self) -> Told:
        """As `end`, but at once, not when all its frames are sent."""
        self._child.terminate()
        return self.end()

    def end(self) -> Told:
        """What it says at last: sent, skipped, lost, connections. AssertionError if it fails."""
        self.read_until("sent")
        assert self._child.wait(20) == 0
        return self.lines[-1]

    @property
    def answers(self) -> list[Told]:
        return [line for line in self.lines if "picture" in line]


class Scene:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.lab = stage.lab

    def move(self, drain: str = "1m", **environment: str) -> None:
        """To the edge."""
        spec = with_environment(spec_of(NAME), **environment)
        self.stage.apply(spec.replace("[run]\n", f'[run]\ndrain = "{drain}"\n'))

    def serve(self, *words: str) -> None:
        """The same program in the cloud, started by hand: the original."""
        self.stage.server("cloud", python("-m", "faces.server", *words), env=ENVIRONMENT)
        await_listening(self.lab, "cloud", 80)

    def camera(self, frames: Path, fps: float, count: int = 0) -> Camera:
        words = python("-m", "faces.camera", URL, str(frames))
        words += ["--fps", str(fps), "--count", str(count)]
        return Camera(
            self.lab.popen("ue", words, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        )

    def status(self) -> Told:
        """What the server that is asked says of itself."""
        done = self.lab.run("ue", ["curl", "-sS", "-m", "20", f"http://{CLOUD4}/status"])
        assert done.returncode == 0, done.stderr
        found: Told = json.loads(done.stdout)
        return found

    def instance(self) -> Told:
        """Of the edge's server, as Viscum sees it."""
        [generation] = self.stage.status(NAME)["generations"]
        [instance] = generation["instances"]
        return dict(instance)


@contextlib.contextmanager
def scene(**settings: Any) -> Iterator[Scene]:
    with stage(NAME, dns=True, **settings) as made:
        yield Scene(made)
