"""A stream: in order, nothing passed over in silence; what a stranger sends ends no other."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.net import sock
from faces.scene import Camera, Scene, draw, scene
from faces.wire import CLOSE, CONTINUED, PING, PONG, TEXT, UPGRADE, Wire, frame
from support import wait_until
from viscum.lab import CLOUD4

pytestmark = pytest.mark.req("U4")

MOST, SECONDS, STREAMS, EACH = 1 << 20, 2, 3, 2


@pytest.fixture(scope="module")
def made() -> Iterator[Scene]:
    with scene(wan_rtt=0, clients=2) as it:
        it.move(
            FACES_MAX_BYTES=str(MOST),
            FACES_UPLOAD_SECONDS=str(SECONDS),
            FACES_MAX_STREAMS=str(STREAMS),
            FACES_CLIENT_STREAMS=str(EACH),
        )
        yield it


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("frames")
    draw(directory, 1, 9)
    return directory


@pytest.fixture(scope="module")
def jpeg(frames: Path) -> bytes:
    return (frames / "plain-1-1.jpg").read_bytes()


@pytest.fixture
def unshaken(made: Scene, jpeg: bytes) -> Iterator[None]:
    """Whatever a test has sent, the same process serves a camera afterwards, and has no stream left
    over."""
    before = made.instance()["pid"]
    yield
    wait_until(lambda: made.status()["streams"] == 0, "no stream is left", SECONDS + 5)
    assert made.instance()["pid"] == before
    with wire(made) as camera:
        camera.send(frame(jpeg))
        assert len(camera.answer()["faces"]) == 1
    assert "Traceback" not in made.stage.viscum("logs", "faces").stdout


alone = pytest.mark.usefixtures("unshaken")


def wire(made: Scene, upgrade: bytes = UPGRADE, role: str = "ue") -> Wire:
    connection = sock(made.lab, role, CLOUD4)
    connection.connect((CLOUD4, 80))
    return Wire(connection, upgrade)


@alone
def test_every_frame_is_answered_in_order_or_told_to_be_passed_over(
    made: Scene, jpeg: bytes
) -> None:
    with wire(made) as camera:
        for _ in range(20):
            camera.send(frame(jpeg))
        next_one = 0
        while next_one < 20:
            answer = camera.answer()
            assert answer["frame"] == next_one + answer["dropped"]
            assert (answer["width"], answer["height"]) == (640, 480)
            next_one = answer["frame"] + 1
        camera.send(frame(b"\x03\xe8", CLOSE))
        assert camera.closed() == (1000, "")


@alone
def test_a_frame_in_fragments_is_one_frame(made: Scene, jpeg: bytes) -> None:
    with wire(made) as camera:
        camera.send(frame(jpeg[:1000], fin=False), frame(b"are you there", PING))
        assert camera.read() == (PONG, b"are you there")
        camera.send(frame(jpeg[1000:2000], CONTINUED, fin=False), frame(jpeg[2000:], CONTINUED))
        assert camera.answer()["frame"] == 0


@alone
@pytest.mark.parametrize("what", ["text", "half", "nothing"])
def test_a_frame_that_is_no_picture_is_said_and_the_next_is_looked_at(
    made: Scene, jpeg: bytes, what: str
) -> None:
    data = {"text": b"not a picture", "half": jpeg[: len(jpeg) // 2], "nothing": b""}[what]
    with wire(made) as camera:
        camera.send(frame(data))
        told = camera.answer()
        assert (told["frame"], told["error_code"]) == (0, 400)
        assert told["error"].startswith("the image is broken" if what == "half" else "not a JPEG")
        camera.send(frame(jpeg))
        assert len(camera.answer()["faces"]) == 1


@alone
@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        (lambda: frame(b"hello", TEXT), 1003, "send JPEGs, as binary messages"),
        (lambda: frame(bytes(MOST + 1)), 1009, ""),
        (lambda: frame(bytes(MOST), fin=False) + frame(b"more", CONTINUED), 1009, ""),
        (lambda: frame(b"a picture", masked=False), 1002, "incorrect masking"),
        (lambda: frame(b"", 5), 1002, "invalid opcode"),
        (lambda: frame(b"", CONTINUED), 1002, "unexpected continuation frame"),
        (lambda: b"GET / HTTP/1.1\r\n\r\n" * 9, 1002, ""),
    ],
)
def test_what_is_no_frame_ends_the_stream_with_a_reason(
    made: Scene, sent: Callable[[], bytes], code: int, words: str
) -> None:
    with wire(made) as camera:
        camera.send(sent())
        told = camera.closed()
        assert told[0] == code
        assert words in told[1]


@alone
def test_a_slow_frame_and_silence_end_it(made: Scene, jpeg: bytes) -> None:
    for start in (frame(jpeg)[:1000], b""):
        with wire(made) as camera:
            began = time.monotonic()
            camera.connection.settimeout(SECONDS + 5)
            camera.send(start)
            assert camera.closed() == (1008, f"no whole frame came in {SECONDS} s")
            assert time.monotonic() - began > SECONDS - 0.5


@alone
def test_pings_do_not_prolong_a_slow_frame(made: Scene, jpeg: bytes) -> None:
    with wire(made) as camera:
        camera.send(frame(jpeg[:1000], fin=False))
        end = time.monotonic() + 3 * SECONDS
        opcode = PONG
        while opcode == PONG:
            assert time.monotonic() < end, "nobody minded"
            camera.send(frame(b"", PING))
            opcode, _ = camera.read()
            time.sleep(0.1)  # so slowly
        assert opcode == CLOSE


@alone
def test_a_camera_that_pauses_may_ping(made: Scene, jpeg: bytes) -> None:
    with wire(made) as camera:
        end = time.monotonic() + 1.5 * SECONDS
        while time.monotonic() < end:
            camera.send(frame(b"", PING))
            assert camera.read()[0] == PONG
            time.sleep(0.1)  # what is tested is time that passes
        camera.send(frame(jpeg))
        assert camera.answer()["frame"] == 0


@alone
def test_one_that_goes_in_the_middle_of_a_frame_is_forgotten(made: Scene, jpeg: bytes) -> None:
    with wire(made) as camera:
        camera.send(frame(jpeg), frame(jpeg)[:5000])
        assert made.status()["streams"] == 1


def flood(camera: Wire, data: bytes) -> None:
    """Sends and never reads. Raises ConnectionError when it is hung up on, as it should be."""
    camera.connection.settimeout(4 * SECONDS)
    end = time.monotonic() + 4 * SECONDS
    while time.monotonic() < end:
        camera.send(data)
    raise AssertionError("nobody minded")


@alone
def test_one_that_does_not_read_is_hung_up_on(made: Scene) -> None:
    """It holds no more than what the kernel keeps for it, and not for long."""
    with wire(made) as camera, pytest.raises(ConnectionError):
        flood(camera, frame(bytes(125), PING) * 1000)


@alone
def test_one_that_sends_many_messages_delays_others_by_little(made: Scene, jpeg: bytes) -> None:
    with wire(made) as many, wire(made, role="ue2") as camera:
        many.connection.settimeout(0.01)
        for _ in range(20):
            with contextlib.suppress(TimeoutError):
                many.send(frame(b"x") * 10_000)
            camera.send(frame(jpeg))
            assert len(camera.answer()["faces"]) == 1


@alone
def test_too_many_streams_are_told_to_come_again(made: Scene, jpeg: bytes) -> None:
    def refused(role: str) -> None:
        with wire(made, role=role) as other:
            assert (other.status, b"too many streams" in other.body) == (503, True)

    held = [wire(made) for _ in range(EACH)]
    refused("ue")  # who has enough
    held.append(wire(made, role="ue2"))
    refused("ue2")  # there are no more
    assert [one.status for one in held] == [101] * STREAMS
    for one in held:  # who has one is served all the same
        one.send(frame(jpeg))
    assert [one.answer()["frame"] for one in held] == [0] * STREAMS
    held.pop().connection.close()
    wait_until(lambda: made.status()["streams"] < STREAMS, "one has gone")
    with wire(made, role="ue2") as other:
        assert other.status == 101
    for one in held:
        one.connection.close()


@alone
@pytest.mark.parametrize(
    ("line", "other", "status"),
    [
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 7", 400),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Key: guess", 400),
        (b"Upgrade: websocket\r\n", b"", 426),
        (b"Upgrade: websocket", b"Upgrade: h2c", 426),
    ],
)
def test_what_is_no_handshake(made: Scene, line: bytes, other: bytes, status: int) -> None:
    with wire(made, UPGRADE.replace(line, other)) as refused:
        assert refused.status == status
        assert b'"error_code": ' in refused.body


@alone
def test_two_cameras_at_once(made: Scene, frames: Path) -> None:
    cameras = [made.camera(frames, 10, 30) for _ in range(2)]
    for camera in cameras:
        end = camera.end()
        told = sum(1 + answer["dropped"] for answer in camera.answers)
        assert told == end["sent"] > 20
        assert end["lost"] == 0


def closings(camera: Camera) -> list[str]:
    return [line["closed"] for line in camera.lines if "closed" in line]


def test_a_server_that_is_told_to_end_tells_its_cameras(made: Scene, frames: Path) -> None:
    camera = made.camera(frames, 10, 60)
    camera.read(5)
    os.kill(made.instance()["pid"], signal.SIGTERM)
    camera.read_until("closed")
    wait_until(lambda: made.stage.status("faces")["state"] == "dead", "it has ended")
    made.stage.viscum("start", "faces")
    end = camera.end()
    assert "1001 (going away) the server ends" in closings(camera)[0]
    assert end["connections"] == 2
    assert end["lost"] <= 1


def test_an_upgrade_moves_a_stream_that_does_not_end(made: Scene, frames: Path) -> None:
    """When its drain is over it is reset, and the camera's next one is the new generation's."""
    camera = made.camera(frames, 10, 60)
    camera.read(5)
    made.move(FACES_SITE="edge, upgraded", drain="1s")
    end = camera.end()
    assert {answer["site"] for answer in camera.answers} == {"edge", "edge, upgraded"}
    assert end["connections"] == 2
    assert end["lost"] <= 1
