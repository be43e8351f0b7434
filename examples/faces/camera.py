"""A camera: sends frames to be looked at, and prints what it was told, a line of JSON for each
answer. Pictures of a directory, or a video's first minute, again and again.

    python camera.py ws://cloud.example/stream FRAMES --fps 25 --count 250
    python camera.py ws://cloud.example/stream FRAMES --fps 0       each once, after the last answer

When the network takes less than the camera has, the newest frame is sent next, and those between
are never sent ("skipped"). When the stream breaks, the camera connects anew. SIGTERM ends it after
the frame it is at.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

SUFFIXES = (".jpg", ".jpeg")
QUALITY = 88  # of a video's frames, as JPEG
MOST_OF_VIDEO = 1500  # frames of a video, a minute: all are in memory
UNSENT = 1 << 14  # bytes that may wait in the kernel: more would make every frame older
PATIENCE = 10.0  # s for an answer, or for a connection
AGAIN = 0.05  # s between two tries to connect
Frame = tuple[str, bytes]  # its name, and the JPEG


def frames_of(source: Path) -> list[Frame]:
    """Of a directory, by name, or of a video. Exits if there are none."""
    if source.is_dir():
        paths = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
        found = [(path.name, path.read_bytes()) for path in paths]
    else:
        found = _frames_of_video(source)
    if not found:
        sys.exit(f"no frames in {source}: a directory of {', '.join(SUFFIXES)}, or a video")
    return found


def _frames_of_video(source: Path) -> list[Frame]:
    import cv2  # a second; not needed for pictures

    video = cv2.VideoCapture(str(source))
    found: list[Frame] = []
    while len(found) < MOST_OF_VIDEO:
        there, picture = video.read()
        if not there:
            break
        _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        found.append((f"{source.name} {len(found)}", jpeg.tobytes()))
    return found


@dataclass
class Flight:
    """What was sent by one connection: names of the frames, and when each was begun; answered: how
    many of them the server has answered or dropped."""

    names: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    answered: int = 0
    over: bool = False


class Camera:
    """skipped: never sent; lost: sent by a connection that broke before there was an answer."""

    def __init__(self, url: str, frames: list[Frame], count: int) -> None:
        """count: of frames, after which it ends."""
        self.count = count
        self._url = resolved(url)
        self._frames = frames
        self._changed = threading.Condition()
        self._flight = Flight()
        self._taken = 0
        self._began = time.monotonic()
        self.sent = self.skipped = self.lost = self.connections = 0

    def run(self, fps: float) -> None:
        """fps 0: the next frame when the last was answered. Raises OSError if there is nobody for
        long."""
        while self._taken < self.count:
            with self._connected() as connection:
                reader = threading.Thread(target=self._read, args=(connection,))
                reader.start()
                try:
                    while self._pace(fps) < self.count and not self._flight.over:
                        self._send(connection, *self._frames[self._taken % len(self._frames)])
                        self._taken += 1
                    self._await_answers()
                except ConnectionClosed:
                    pass
                connection.close()
                reader.join()
            self.lost += len(self._flight.names) - self._flight.answered

    def _connected(self) -> ClientConnection:
        end = time.monotonic() + PATIENCE
        where = urlsplit(self._url)
        while True:
            plain = None
            try:
                plain = socket.create_connection((where.hostname, where.port or 80), PATIENCE)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
                made = connect(
                    self._url, sock=plain, compression=None, open_timeout=PATIENCE,
                    proxy=None, close_timeout=1,
                )  # fmt: skip
                break
            except (OSError, InvalidHandshake, EOFError):
                if plain is not None:
                    plain.close()
                if time.monotonic() > end:
                    raise
                time.sleep(AGAIN)
        if not self.connections:
            self._began = time.monotonic()
        self.connections += 1
        self._flight = Flight()
        self._say(connected=self.connections)
        return made

    def _pace(self, fps: float) -> int:
        """Waits until there is a next frame; its number. A camera does not wait for the network."""
        if not fps:
            self._await_answers()
            return self._taken
        passed = time.monotonic() - self._began
        late = int(passed * fps) - self._taken
        if late > 0:
            self.skipped += late
            self._taken += late
        time.sleep(max(0.0, self._taken / fps - passed))
        return self._taken

    def _send(self, connection: ClientConnection, name: str, jpeg: bytes) -> None:
        with self._changed:
            self._flight.names.append(name)
            self._flight.times.append(time.monotonic())
        connection.send(jpeg)
        self.sent += 1

    def _await_answers(self) -> None:
        """To all that was sent. The server always looks at the newest."""
        flight = self._flight
        with self._changed:
            self._changed.wait_for(
                lambda: flight.over or flight.answered == len(flight.names), PATIENCE
            )

    def _read(self, connection: ClientConnection) -> None:
        flight = self._flight
        try:
            while True:
                answer: dict[str, Any] = json.loads(connection.recv())
                now, number = time.monotonic(), answer["frame"]
                with self._changed:
                    flight.answered = number + 1
                    self._changed.notify()
                took = (now - flight.times[number]) * 1000
                self._say(picture=flight.names[number], ms=took, **answer)
        except ConnectionClosed as closed:
            self._say(closed=str(closed))
        with self._changed:
            flight.over = True
            self._changed.notify()

    def _say(self, **what: Any) -> None:
        print(json.dumps({"at": time.monotonic(), **what}), flush=True)


def resolved(url: str) -> str:
    """With an address for the name, asked for once. Raises OSError."""
    where = urlsplit(url)
    address = socket.gethostbyname(where.hostname or "")
    return f"ws://{address}:{where.port or 80}{where.path}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Sends frames to be looked at.")
    parser.add_argument("url", help="for example ws://cloud.example/stream")
    parser.add_argument("frames", type=Path, help="a directory of JPEGs, or a video")
    parser.add_argument("--fps", type=float, default=25, help="0: one after the other")
    parser.add_argument("--count", type=int, default=0, help="of frames; by default each once")
    words = parser.parse_args()
    frames = frames_of(words.frames)
    camera = Camera(words.url, frames, words.count or len(frames))

    def end(*_: object) -> None:
        camera.count = 0

    signal.signal(signal.SIGTERM, end)
    camera.run(words.fps)
    told = {name: getattr(camera, name) for name in ("sent", "skipped", "lost", "connections")}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
