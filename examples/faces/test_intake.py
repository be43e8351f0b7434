"""A picture by POST: what can't be used is refused in words, and the server goes on. What it has of
`serving` is tested there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.stranger import curl, refused
from faces.scene import ENVIRONMENT, Scene, draw, known, python, scene
from viscum.lab import CLOUD4, CLOUD6

pytestmark = pytest.mark.req("U4")

MOST = 1 << 20
URL = f"http://{CLOUD4}/detect"
JPEG = ("-H", "Content-Type: image/jpeg")
# Turns, colours and sizes that a JPEG may have, and damage, made of the one that is given.
OTHERS = """
import sys
from PIL import Image
source, directory = sys.argv[1:]
image = Image.open(source)
turned = Image.Exif()
turned[0x0112] = 6  # "turn me clockwise"
image.transpose(Image.Transpose.ROTATE_90).save(f"{directory}/turned.jpg", exif=turned)
image.convert("L").save(f"{directory}/gray.jpg")
image.convert("CMYK").save(f"{directory}/cmyk.jpg")
image.save(f"{directory}/progressive.jpg", progressive=True)
image.save(f"{directory}/png.png")
image.save(f"{directory}/gif.gif")
Image.new("RGB", (4000, 4000)).save(f"{directory}/flat.jpg", progressive=True)
image.crop((0, 0, 15, 15)).save(f"{directory}/dot.jpg")
image.crop((0, 0, 640, 16)).save(f"{directory}/strip.jpg")
image.resize((16, 60_000)).save(f"{directory}/needle.jpg")
data = bytearray(open(source, "rb").read())
at = data.index(b"\\xff\\xc0")  # where a baseline JPEG says how large it is
for name, side in ("large", 8_000), ("bomb", 30_000):
    data[at + 5 : at + 9] = side.to_bytes(2, "big") * 2
    open(f"{directory}/{name}.jpg", "wb").write(data)
"""


@pytest.fixture(scope="module")
def made() -> Iterator[Scene]:
    with scene(wan_rtt=0) as it:
        it.move(FACES_MAX_BYTES=str(MOST))
        yield it


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("frames")
    draw(directory, 3, 9)
    source = directory / "plain-1-1.jpg"
    words = python("-c", OTHERS, str(source), str(directory))
    subprocess.run(words, check=True, env=ENVIRONMENT)
    whole = source.read_bytes()
    (directory / "head.jpg").write_bytes(whole[:20])
    (directory / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (directory / "text.jpg").write_bytes(b"not a picture at all " * 100)
    (directory / "page.jpg").write_bytes(b"<!doctype html><script>alert(1)</script>")
    (directory / "none.jpg").write_bytes(b"")
    return directory


@pytest.fixture
def unshaken(made: Scene) -> Iterator[None]:
    """Whatever a test has sent, the same process serves the next client."""
    before = made.instance()["pid"]
    yield
    assert made.status()["streams"] == 0
    assert made.instance()["pid"] == before
    assert "Traceback" not in made.stage.viscum("logs", "faces").stdout


refusing = pytest.mark.usefixtures("unshaken")


def post(made: Scene, path: Path, url: str = URL) -> tuple[int, Any]:
    return curl(made.lab, *JPEG, "--data-binary", f"@{path}", url)


def the_face(told: tuple[int, Any]) -> dict[str, Any]:
    assert told[0] == 200, told
    [face] = told[1]["faces"]
    return dict(face)


def near(face: dict[str, Any], box: list[float]) -> bool:
    there = [face[name] for name in ("x", "y", "width", "height")]
    return all(abs(a - b) < 0.25 * box[3] for a, b in zip(there, box, strict=True))


def test_an_answer_says_where_the_face_is(made: Scene, frames: Path) -> None:
    told = post(made, frames / "plain-1-1.jpg")
    face = the_face(told)
    assert near(face, known(frames)["plain-1-1.jpg"]["faces"][0])
    assert 0.6 <= face["confidence"] <= 1
    assert all(isinstance(face[name], int) for name in ("x", "y", "width", "height"))
    assert (told[1]["width"], told[1]["height"], told[1]["site"]) == (640, 480, "edge")
    assert told[1]["processing_time_ms"] > 0


def test_over_ipv6_too(made: Scene, frames: Path) -> None:
    the_face(post(made, frames / "plain-1-1.jpg", f"http://[{CLOUD6}]/detect"))


@pytest.mark.parametrize("name", ["turned", "gray", "cmyk", "progressive"])
def test_every_jpeg_is_seen_as_people_see_it(made: Scene, frames: Path, name: str) -> None:
    """One with an Exif turn as well: boxes are in the upright picture."""
    told = post(made, frames / f"{name}.jpg")
    assert near(the_face(told), known(frames)["plain-1-1.jpg"]["faces"][0])
    assert (told[1]["width"], told[1]["height"]) == (640, 480)


def test_boxes_stay_within_the_picture(made: Scene, frames: Path) -> None:
    names = [name for name, there in known(frames).items() if there["uncounted"]]
    assert names
    for name in names[:20]:
        _, told = post(made, frames / name)
        for face in told["faces"]:
            assert min(face["x"], face["y"]) >= 0 < min(face["width"], face["height"])
            assert face["x"] + face["width"] <= told["width"]
            assert face["y"] + face["height"] <= told["height"]


@refusing
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text.jpg", "not a JPEG"),
        ("page.jpg", "not a JPEG"),
        ("none.jpg", "not a JPEG"),
        ("png.png", "not a JPEG"),
        ("gif.gif", "not a JPEG"),
        ("head.jpg", "not a JPEG"),
        ("half.jpg", "broken"),
        ("large.jpg", "8000 x 8000 pixels; at most 16000000"),
        ("bomb.jpg", "900000000 pixels"),
        ("dot.jpg", "15 x 15 pixels, too few"),
    ],
)
def test_images(made: Scene, frames: Path, name: str, words: str) -> None:
    refused(post(made, frames / name), 400, words)


@refusing
@pytest.mark.parametrize("name", ["strip", "needle", "flat"])
def test_a_picture_without_a_face_is_no_error(made: Scene, frames: Path, name: str) -> None:
    """Nor is one of a strange form, nor one that takes as much memory as any may."""
    told = post(made, frames / f"{name}.jpg")
    assert (told[0], told[1]["faces"]) == (200, [])


@refusing
@pytest.mark.parametrize(
    "argv", [("-d", "image=1"), ("-F", "image=1"), ("-H", "Content-Type: ;;;", "-d", "x")]
)
def test_other_bodies(made: Scene, argv: tuple[str, ...]) -> None:
    refused(curl(made.lab, *argv, URL), 415, "send one JPEG as the body")


@refusing
@pytest.mark.parametrize("path", ["", "detect/", "v1/detect", "../server.py", "etc/passwd"])
def test_other_paths(made: Scene, path: str) -> None:
    for more in (("-d", "x"), ()):
        url = f"http://{CLOUD4}/{path}"
        refused(curl(made.lab, "--path-as-is", *more, url), 404, "POST /detect")


@refusing
def test_it_takes_no_more_than_it_is_told_to(made: Scene, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(MOST + 1))
    refused(post(made, tmp_path / "large"), 413, f"at most {MOST}")


@refusing
def test_it_may_connect_to_nobody(made: Scene) -> None:
    dial = f"import socket; socket.create_connection(({CLOUD4!r}, 7), 2)"
    done = made.stage.viscum("exec", "faces", "--", "python3", "-c", dial, ok=False)
    assert done.returncode != 0
