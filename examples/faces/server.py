"""Face detection as an HTTP server: a picture by POST, a camera's stream by WebSocket.

python -m faces.server --port 80
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import asdict

from websockets.frames import CloseCode

from faces.config import Config
from faces.detector import Detector, Unreadable
from faces.stream import Stream
from serving.handler import Answer, Refused
from serving.handler import Handler as BaseHandler
from serving.limits import Room, Share, client_of
from serving.options import configured
from serving.server import Server as BaseServer
from serving.server import serve

KINDS = ("image/jpeg", "application/octet-stream")


class Service:
    """What is behind the requests."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._detector = Detector(config)
        self._lock = threading.Lock()
        self._room = Share(config.max_streams, config.client_streams)
        self._streams: set[Stream] = set()
        self._answered = self._dropped = 0
        self._ending = False

    def detect(self, jpeg: bytes) -> Answer:
        """Raises Refused."""
        try:
            found = self._detector.detect(jpeg)
        except Unreadable as error:
            raise Refused(400, str(error)) from None
        with self._lock:
            self._answered += 1
        return {
            "site": self.config.site,
            "width": found.width,
            "height": found.height,
            "processing_time_ms": round(found.milliseconds, 2),
            "faces": [asdict(face) for face in found.faces],
        }

    def passed(self, frames: int) -> None:
        """So many frames of a stream were not looked at."""
        with self._lock:
            self._dropped += frames

    @contextlib.contextmanager
    def streams(self, stream: Stream, client: str) -> Iterator[None]:
        """For as long as the context lasts. Raises Refused if there are too many."""
        with self._room.lent(client, 1) as free:
            if not free:
                raise Refused(503, "too many streams; try again")
            with self._lock:
                if self._ending:
                    raise Refused(503, "the server ends; try again")
                self._streams.add(stream)
            try:
                yield
            finally:
                with self._lock:
                    self._streams.discard(stream)

    def end(self) -> None:
        """Every camera is told to go, so that it can come again elsewhere."""
        with self._lock:
            self._ending = True
            for stream in self._streams:
                stream.end(CloseCode.GOING_AWAY, "the server ends")

    def status(self) -> Answer:
        with self._lock:
            return {
                "site": self.config.site,
                "streams": len(self._streams),
                "answered": self._answered,
                "dropped": self._dropped,
            }


class Server(BaseServer):
    def __init__(self, service: Service) -> None:
        self.service = service
        super().__init__(Handler, Room(service.config), service.config.port)


class Handler(BaseHandler):
    server_version = "faces"
    server: Server

    def do_POST(self) -> None:
        with self.server.busy:
            self.answer(self._detect)

    def do_GET(self) -> None:
        path = self.target.path
        if path == "/status":
            self.answer(lambda: (200, self.server.service.status()))
        elif path == "/stream":
            with self.server.busy:
                self._stream()
        else:
            self.answer(_nothing_here)

    def _detect(self) -> tuple[int, Answer]:
        if self.target.path != "/detect":
            return _nothing_here()
        if self.headers.get_content_type() not in KINDS:
            raise Refused(415, "send one JPEG as the body, with Content-Type: image/jpeg")
        return 200, self.server.service.detect(self.body())

    def _stream(self) -> None:
        stream = Stream(self)
        try:
            with self.server.service.streams(stream, client_of(self.client_address[0])):
                stream.accept()
                self.close_connection = True
                stream.run()
        except Refused as refused:
            self.refuse(refused)


def _nothing_here() -> tuple[int, Answer]:
    raise Refused(404, "POST /detect, GET /stream (WebSocket) or /status")


def main() -> None:
    service = Service(configured(Config, "FACES", __doc__ or ""))
    serve("faces", [Server(service)], service.end)


if __name__ == "__main__":
    main()
