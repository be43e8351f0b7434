"""A picture by POST: what can't be used is refused in words, and the server goes on."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from e2e.stranger import connect, curl, drip, refused, whole
from faces.scene import ENVIRONMENT, Scene, draw, known, python, scene
from support import wait_until
from viscum.lab import CLOUD4, CLOUD6

pytestmark = pytest.mark.req("U4")

MOST, SECONDS, CONNECTIONS, EACH = 1 << 20, 2, 6, 4
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
    with scene(wan_rtt=0, clients=2) as it:
        it.move(
            FACES_MAX_BYTES=str(MOST),
            FACES_UPLOAD_SECONDS=str(SECONDS),
            FACES_MAX_CONNECTIONS=str(CONNECTIONS),
            FACES_CLIENT_CONNECTIONS=str(EACH),
        )
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
    ("argv", "status", "words"),
    [
        (("-d", "image=1"), 415, "send one JPEG as the body"),
        (("-F", "image=1"), 415, "send one JPEG as the body"),
        (("-H", "Content-Type: ;;;", "-d", "x"), 415, "send one JPEG as the body"),
        ((*JPEG, "-X", "POST"), 411, "no Content-Length"),
        ((*JPEG, "-X", "POST", "-H", "Content-Length: -5"), 411, "no Content-Length"),
        ((*JPEG, "-X", "POST", "-H", "Content-Length: 1e9"), 411, "no Content-Length"),
        ((*JPEG, "-H", "Transfer-Encoding: chunked", "-d", "x"), 411, "not in chunks"),
        (("-X", "PUT"), 501, "Unsupported method"),
    ],
)
def test_bodies(made: Scene, argv: tuple[str, ...], status: int, words: str) -> None:
    refused(curl(made.lab, *argv, URL), status, words)


@refusing
@pytest.mark.parametrize("path", ["", "detect/", "v1/detect", "../server.py", "etc/passwd"])
def test_other_paths(made: Scene, path: str) -> None:
    for more in (("-d", "x"), ()):
        url = f"http://{CLOUD4}/{path}"
        refused(curl(made.lab, "--path-as-is", *more, url), 404, "POST /detect")


@refusing
@pytest.mark.parametrize("asks_first", [True, False])
def test_too_large_an_upload_is_told_so(made: Scene, tmp_path: Path, asks_first: bool) -> None:
    """Also when the client sends all of it without waiting for an answer."""
    large = tmp_path / "large"
    large.write_bytes(bytes(MOST * 4))
    expect = ("-H", "Expect: 100-continue" if asks_first else "Expect:")
    told = curl(made.lab, *JPEG, *expect, "--data-binary", f"@{large}", URL)
    refused(told, 413, f"at most {MOST}")


def head(length: int) -> bytes:
    return (
        f"POST /detect HTTP/1.1\r\nHost: {CLOUD4}\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


@refusing
def test_a_slow_upload_is_told_so(made: Scene) -> None:
    with connect(made.lab) as slow:
        slow.send(head(1000))
        began = time.monotonic()
        answer = drip(slow, b"A" * 1000)
        assert time.monotonic() - began > SECONDS - 1
    start, _, body = answer.partition(b"\r\n\r\n")
    assert b" 408 " in start
    assert json.loads(body)["error"] == f"the upload took more than {SECONDS} s"


@refusing
def test_a_slow_request_is_hung_up_on(made: Scene) -> None:
    with connect(made.lab) as slow:
        assert drip(slow, head(1000)) == b""


@refusing
def test_a_client_that_goes_in_the_middle_of_its_upload_is_forgotten(made: Scene) -> None:
    with connect(made.lab) as gone:
        gone.send(head(1000) + b"AAAA")
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@refusing
def test_half_an_upload_is_not_taken_for_a_whole(made: Scene) -> None:
    with connect(made.lab) as half:
        half.send(head(1000) + b"AAAA")
        half.shutdown(socket.SHUT_WR)
        assert b"ended after 4 of 1000 bytes" in whole(half)


def status(made: Scene, role: str) -> int:
    return curl(made.lab, f"http://{CLOUD4}/status", role=role)[0]


@refusing
def test_who_takes_many_connections_takes_them_from_nobody_else(made: Scene) -> None:
    """And loses them after a while."""
    held = [connect(made.lab) for _ in range(EACH)]
    for one in held:
        one.send(head(1000))
    wait_until(lambda: status(made, "ue") == 503, "its share is taken", 1)
    assert status(made, "ue2") == 200
    held += [connect(made.lab, "ue2") for _ in range(CONNECTIONS - EACH)]
    wait_until(lambda: status(made, "ue2") == 503, "all are taken", 1)
    for role in ("ue", "ue2"):
        wait_until(partial(has_room, made, role), f"{role} has room again", SECONDS + 3)
    for one in held:
        one.close()


def has_room(made: Scene, role: str) -> bool:
    return status(made, role) == 200


@refusing
def test_uploads_of_one_client_leave_memory_for_anothers(made: Scene) -> None:
    """What an upload says it has counts, before it has come."""
    held = [connect(made.lab) for _ in range(2)]
    for one in held:
        one.send(head(MOST))
    picture = (*JPEG, "-d", "x", URL)
    wait_until(lambda: curl(made.lab, *picture)[0] == 503, "its share is taken", 1)
    refused(curl(made.lab, *picture), 503, "too many uploads")
    refused(curl(made.lab, *picture, role="ue2"), 400, "not a JPEG")
    for one in held:
        one.close()


@refusing
def test_it_may_connect_to_nobody(made: Scene) -> None:
    dial = f"import socket; socket.create_connection(({CLOUD4!r}, 7), 2)"
    done = made.stage.viscum("exec", "faces", "--", "python3", "-c", dial, ok=False)
    assert done.returncode != 0
