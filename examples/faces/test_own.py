"""Frames of the user's own: what can't be used is said before anything is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faces.measure import accuracy
from faces.play import play
from faces.scene import ENVIRONMENT, draw, known, python, scene
from kit import Figures, example_dir

pytestmark = pytest.mark.req("U4")

FILM = """
import cv2, pathlib, sys
film = cv2.VideoWriter(sys.argv[2], cv2.VideoWriter_fourcc(*"MJPG"), 25, (640, 480))
for path in sorted(pathlib.Path(sys.argv[1]).glob("plain*.jpg")):
    film.write(cv2.imread(str(path)))
"""


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("frames")
    draw(directory, 1, 9)
    return directory


@pytest.fixture
def film(frames: Path, tmp_path: Path) -> Path:
    path = tmp_path / "my film.avi"
    subprocess.run(python("-c", FILM, str(frames), str(path)), check=True, env=ENVIRONMENT)
    return path


def refused(source: Path) -> str:
    """What the play says. AssertionError if it goes on, or says it in several lines."""
    words = [sys.executable, str(example_dir("faces") / "play.py"), "--frames", str(source)]
    there = os.environ | {"PYTHONPATH": str(example_dir("faces").parent)}
    done = subprocess.run(words, env=there, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jpg", b"not a picture", "a.jpg: not a JPEG image"),
        ("a.jpg", bytes(5 << 20), "a.jpg has 5242880 bytes; at most 4194304"),
        ("a.txt", b"words", "no frames in"),
        ("faces.json", b"{", "faces.json is not JSON"),
        ("faces.json", b"[]", "faces.json can't be used; next: write"),
        ("faces.json", b'{"one.jpg": [[1, 2, 3]]}', "faces.json can't be used; next: write"),
        ("faces.json", b'{"one.jpg": [[1, 2, 3, 0]]}', "faces.json can't be used; next: write"),
        ("faces.json", b'{"two.jpg": []}', "names 'two.jpg', which is no frame there"),
    ],
)
def test_directories(frames: Path, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    if name != "a.txt":
        (tmp_path / "one.jpg").write_bytes((frames / "plain-1-1.jpg").read_bytes())
    (tmp_path / name).write_bytes(content)
    assert said in refused(tmp_path)


def test_what_is_not_there_or_no_video(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "film.avi").write_bytes(b"not a film")
    assert "no frames in" in refused(tmp_path / "film.avi")


def test_a_video_is_played(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = Figures("faces")
    monkeypatch.setattr("faces.play.SECONDS", 4)
    with scene(wan_rtt=0.02) as made:
        play(made, figures, film)
    assert figures.value("frames on which edge and cloud find the same") == 6
    assert figures.value("WAN bytes per frame, edge") < 50
    assert figures.value("killed: frames answered by the cloud afterwards") > 0


def test_what_is_known_of_ones_own_is_compared(frames: Path, tmp_path: Path) -> None:
    """Boxes as somebody writes them down."""
    faces = known(frames)["plain-1-1.jpg"]["faces"]
    for number in (1, 2):
        name = f"plain-1-{number}.jpg"
        (tmp_path / name).write_bytes((frames / name).read_bytes())
    words = {"plain-1-1.jpg": faces, "plain-1-2.jpg": []}
    (tmp_path / "faces.json").write_text(json.dumps(words))
    figures = Figures("faces")
    with scene(wan_rtt=0) as made:
        made.move()
        camera = made.camera(tmp_path, 0)
        camera.end()
    accuracy(figures, {a["picture"]: a["faces"] for a in camera.answers}, known(tmp_path))
    assert figures.value("faces found: own") == 1
    assert figures.value("found where none is: own") == 1
