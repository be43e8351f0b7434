"""What can't be used is refused in words, in the shape of OpenALPR's errors; the server goes on.
What it has of `serving` is tested there."""

from __future__ import annotations

import base64
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.stranger import curl, refused
from plates.scene import Scene, plate_of, scene
from viscum.lab import CLOUD4, CLOUD6

pytestmark = pytest.mark.req("U1")

KEY = "sk_lab"
MOST = 2 << 20
QUERY = f"country=eu&secret_key={KEY}"
URL = f"http://{CLOUD4}/v2/recognize"


@pytest.fixture(scope="module")
def made() -> Iterator[Scene]:
    with scene(wan_rtt=0) as it:
        it.move(PLATES_KEY=KEY, PLATES_MAX_BYTES=str(MOST))
        yield it


@pytest.fixture
def unshaken(made: Scene, photos: Path) -> Iterator[None]:
    """Whatever a test has sent, the same process serves the next client, and has stored nothing."""
    first = made.status()
    assert first["delivered"] + first["waiting"] > 0  # of another process it would be none
    yield
    after = made.status()
    assert after["delivered"] + after["waiting"] == first["delivered"] + first["waiting"]


refusing = pytest.mark.usefixtures("unshaken")


def png(width: int, height: int) -> bytes:
    """A small file that says it is large: gray, all zero."""
    rows = zlib.compress(bytes((width + 1) * 64)) * 1

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_both_methods_give_the_same_and_what_openalpr_gives(made: Scene, photos: Path) -> None:
    image = photos / "plain-1.jpg"
    coded = photos / "plain-1.base64"
    coded.write_bytes(base64.encodebytes(image.read_bytes()))
    _, form = curl(made.lab, "-F", f"image=@{image}", f"{URL}?{QUERY}&topn=3")
    status, told = curl(made.lab, "--data-binary", f"@{coded}", f"{URL}_bytes?{QUERY}&topn=3")
    assert status == 200
    assert told["data_type"] == "alpr_results"
    assert (told["img_width"], told["img_height"]) == (1600, 1200)
    assert told["processing_time_ms"] > 0
    assert abs(told["epoch_time"] / 1000 - time.time()) < 60
    [plate] = told["results"]
    assert plate["plate"] == plate_of(photos, "plain-1.jpg")
    assert 80 < plate["confidence"] <= 100
    assert plate["candidates"][0]["plate"] == plate["plate"]
    assert 1 <= len(plate["candidates"]) <= 3
    assert plate["region"] == "eu"
    corners = [(corner["x"], corner["y"]) for corner in plate["coordinates"]]
    assert len(corners) == 4
    assert corners[0][0] < corners[1][0]
    assert corners[0][1] < corners[3][1]
    assert all(0 <= x < 1600 and 600 < y < 1000 for x, y in corners)
    changing = ("epoch_time", "processing_time_ms", "processing_time")
    for name in set(told) - {*changing, "results"}:
        assert form[name] == told[name]
    assert form["results"][0]["coordinates"] == plate["coordinates"]


def test_over_ipv6_too(made: Scene, photos: Path) -> None:
    image = f"image=@{photos / 'plain-1.jpg'}"
    status, told = curl(
        made.lab, "-g", "-F", image, f"http://[{CLOUD6}]/v3/recognize?{QUERY}&camera=x6"
    )
    assert (status, len(told["results"])) == (200, 1)


@refusing
@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("country=eu", 401, "invalid secret_key"),
        ("country=eu&secret_key=sk_guess", 401, "invalid secret_key"),
        (f"secret_key={KEY}", 400, "country is missing"),
        (f"{QUERY}&topn=0", 400, "topn is a number from 1 to 1000"),
        (f"{QUERY}&topn=many", 400, "topn is a number from 1 to 1000"),
        (f"{QUERY}&topn=01000{'0' * 5000}", 400, "topn is a number from 1 to 1000"),
        (f"{QUERY}&return_image=yes", 400, "return_image is 0 or 1"),
        (f"{QUERY}&camera={'c' * 65}", 400, "camera has at most 64"),
        (f"{QUERY}&camera=%0a", 400, "camera has at most 64"),
        (f"{QUERY}&camera=%ff", 400, "can't be read"),
        (f"{QUERY}&state=%27;drop", 400, "country and state"),
        (f"{QUERY}&state=%C3%BC", 400, "country and state"),
        (f"{QUERY}&{'&'.join('abcdefghijklmnopqrstuvwxyz0123456')}=", 400, "can't be read"),
    ],
)
def test_parameters(made: Scene, photos: Path, query: str, status: int, words: str) -> None:
    image = f"image=@{photos / 'plain-1.jpg'}"
    refused(curl(made.lab, "-F", image, f"{URL}?{query}"), status, words)


def broken(photos: Path) -> dict[str, bytes]:
    whole = (photos / "plain-1.jpg").read_bytes()
    middle = bytearray(whole)
    middle[1000:1400] = bytes(400)
    return {
        "text": b"not a picture at all " * 100,
        "page": b"<!doctype html><script>alert(1)</script>",
        "gif": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
        "head": whole[:20],
        "half": whole[: len(whole) // 2],
        "bomb": png(30_000, 30_000),
        "dot": png(1, 1),
    }


@refusing
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("text", "not a JPEG, PNG or WebP"),
        ("page", "not a JPEG, PNG or WebP"),
        ("gif", "not a JPEG, PNG or WebP"),
        ("head", "not a JPEG, PNG or WebP"),
        ("half", "broken"),
        ("bomb", "pixels"),
        ("dot", "too few to read"),
    ],
)
@pytest.mark.parametrize("method", ["recognize", "recognize_bytes"])
def test_images(
    made: Scene, photos: Path, tmp_path: Path, what: str, words: str, method: str
) -> None:
    data = broken(photos)[what]
    file = tmp_path / "file"
    file.write_bytes(data if method == "recognize" else base64.b64encode(data))
    how = ("-F", f"image=@{file}") if method == "recognize" else ("--data-binary", f"@{file}")
    refused(curl(made.lab, *how, f"http://{CLOUD4}/v2/{method}?{QUERY}"), 400, words)


@refusing
def test_a_picture_without_a_plate_is_no_error(made: Scene, tmp_path: Path) -> None:
    (tmp_path / "gray.png").write_bytes(png(64, 64))
    told = curl(made.lab, "-F", f"image=@{tmp_path / 'gray.png'}", f"{URL}?{QUERY}")
    assert told[0] == 200
    assert told[1]["results"] == []


@refusing
@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (("-d", "image=1"), 415, "multipart/form-data"),
        (("-H", "Content-Type: multipart/form-data", "-d", "x"), 400, "no boundary"),
        (("-F", "picture=1"), 400, "no part named image"),
        (("-F", "image="), 400, "part named image is empty"),
        (("-H", "Content-Type: multipart/form-data; boundary=b", "-d", "--b--"), 400, "no part"),
    ],
)
def test_bodies(made: Scene, argv: tuple[str, ...], status: int, words: str) -> None:
    refused(curl(made.lab, *argv, f"{URL}?{QUERY}"), status, words)


@refusing
@pytest.mark.parametrize("body", ["%%%", "abc", '{"image": 1}', '""'])
def test_bytes_that_are_not_base64(made: Scene, body: str) -> None:
    refused(curl(made.lab, "-d", body, f"{URL}_bytes?{QUERY}"), 400, "image_bytes")


@refusing
@pytest.mark.parametrize(
    "path", ["", "v1/recognize", "v2/recognize_url", "../server.py", "etc/passwd"]
)
def test_other_paths(made: Scene, path: str) -> None:
    url = f"http://{CLOUD4}/{path}"
    refused(curl(made.lab, "--path-as-is", "-d", "x", f"{url}?{QUERY}"), 404, "POST /v2")
    if path:
        refused(curl(made.lab, "--path-as-is", url), 404, "POST /v2")


@refusing
def test_it_takes_no_more_than_it_is_told_to(made: Scene, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(MOST + 1))
    told = curl(made.lab, "-F", f"image=@{tmp_path / 'large'}", f"{URL}?{QUERY}")
    refused(told, 413, f"at most {MOST}")


@refusing
def test_a_log_of_all_that_holds_no_failure(made: Scene) -> None:
    """Nothing that was sent is a failure of the server's."""
    assert "Traceback" not in made.stage.viscum("logs", "plates").stdout
