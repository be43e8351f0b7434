"""The user's own pictures: what can't be used is said before anything is started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit import Figures, example_dir
from plates.own import pictures_in
from plates.play import play
from plates.scene import plate_of, scene

pytestmark = pytest.mark.req("U1")

PLAY = example_dir("plates") / "play.py"


@pytest.fixture
def mine(tmp_path: Path, photos: Path) -> Path:
    """One picture, with an odd name."""
    directory = tmp_path / "my pictures"
    directory.mkdir()
    shutil.copy(photos / "plain-1.jpg", directory / "my car; rm -rf 'x' ü.JPG")
    return directory


def refused(directory: Path | str, cwd: Path | None = None) -> str:
    """What the play says. AssertionError if it goes on, or says it in several lines."""
    there = os.environ | {"PYTHONPATH": str(example_dir("plates").parent)}
    words = [sys.executable, str(PLAY), "--photos", str(directory)]
    done = subprocess.run(words, cwd=cwd, env=there, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("plates: ")
    return line


def test_a_directory_without_pictures(tmp_path: Path, photo: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    shutil.copy(photo, tmp_path / "deep" / "er")
    shutil.copy(photo, tmp_path / "deep" / ".hidden.jpg")
    (tmp_path / "deep" / "directory.jpg").mkdir()
    (tmp_path / "deep" / "photo.heic").write_bytes(b"x")
    for name in ("empty", "deep"):
        said = refused(tmp_path / name)
        assert f"{tmp_path / name}: no pictures; next: put some there, called .jpg, .jpeg" in said
        assert "sub-directories are not looked into" in said
    assert refused("deep", cwd=tmp_path) == said


def test_what_is_no_directory(tmp_path: Path, photo: Path) -> None:
    said = refused(tmp_path / "nowhere")
    assert f"{tmp_path}/nowhere: No such file or directory; next: name a directory" in said
    assert f"{photo}: Not a directory; next: name a directory" in refused(photo)
    assert "/~/pictures: No such file or directory; next: " in refused("~/pictures")
    assert "with a space before the ~" in refused("~/pictures")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"not a picture", "not a JPEG, PNG or WebP image"),
        (b"", "not a JPEG, PNG or WebP image"),
        (bytes(13 << 20), "the file has 13631488 bytes; at most 12582912"),
    ],
)
def test_a_picture_that_the_server_would_not_take(mine: Path, data: bytes, words: str) -> None:
    (mine / "other.png").write_bytes(data)
    assert refused(mine) == f"plates: {mine}/other.png: {words}; next: repair it or take it away"


def test_half_a_picture(mine: Path, photo: Path) -> None:
    (mine / "half.jpg").write_bytes(photo.read_bytes()[:50_000])
    assert f"{mine}/half.jpg: the image is broken" in refused(mine)


def test_a_name_that_can_not_be_printed(mine: Path, photo: Path) -> None:
    shutil.copy(photo, mine / "two\nlines.jpg")
    assert r"two\nlines.jpg': an unprintable name; next: rename it" in refused(mine)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"car.jpg": "AB123CD"', "is not JSON: Expecting ',' delimiter: line 1 column 22"),
        ("", "is not JSON: Expecting value"),
        ("\udcff", "is not JSON: 'utf-8' codec"),
        ('["car.jpg"]', "is not an object"),
        ('{"car.jpg": "AB123CD"}', "names 'car.jpg', which is no picture there"),
        ("{\"my car; rm -rf 'x' ü.JPG\": 7}", "7, no plate"),
        ('{"my car; rm -rf \'x\' ü.JPG": " - "}', "' - ', no plate"),
    ],
)
def test_a_plates_json_that_can_not_be_used(mine: Path, text: str, words: str) -> None:
    (mine / "plates.json").write_bytes(text.encode(errors="surrogateescape"))
    said = refused(mine)
    assert f"{mine}/plates.json {words}" in said or f"{mine}/plates.json says" in said
    assert words in said
    assert "; next: " in said


def test_they_are_played(mine: Path, photos: Path) -> None:
    """Whatever they are called; and one that is there twice counts once."""
    [car] = (path.name for path in mine.iterdir())
    shutil.copy(photos / "aslant-1.jpg", mine / "-n.jpeg")
    shutil.copy(photos / "aslant-1.jpg", mine / "the same.jpeg")
    (mine / "notes.txt").write_text("")
    plate = plate_of(photos, "plain-1.jpg")
    known = {car: f"{plate[:2].lower()}-{plate[2:]}", "-n.jpeg": "WRONG1"}
    (mine / "plates.json").write_text(json.dumps(known))
    own = pictures_in(str(mine))
    assert list(own.names) == ["-n.jpeg", car]
    assert own.notes[0] == "the same.jpeg is the same as -n.jpeg"
    assert own.notes[1].startswith("1 more that are not files called")
    figures = Figures("plates")
    with scene() as made:
        play(made, figures, own)
        assert len(made.database.rows(where="site = 'edge'")) == 4  # here, and with the WAN cut
        assert len(made.database.rows(where="site = 'cloud'")) == 2
    units = {row.claim: row.unit for row in figures.rows}
    wanted = {"read without a mistake, yours: own": 1, "WAN back: plates in the database": 2}
    for claim, value in wanted.items():
        assert (figures.value(claim), units[claim]) == (value, "of 2")
