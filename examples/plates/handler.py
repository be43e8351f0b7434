"""One connection of a client's: HTTP in, HTTP out."""

from __future__ import annotations

import io
import json
import socket
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from plates.intake import Refused, image_of_base64, image_of_form, query
from plates.limits import Patience, client_of
from plates.service import Answer

if TYPE_CHECKING:
    from plates.server import Server

PAGE = Path(__file__).with_name("page")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
LINGER = 2.0  # s in which the rest of a refused upload is thrown away, so that the words arrive


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server_version = "plates"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        self.request.settimeout(self.server.service.config.upload_seconds)
        super().setup()
        if self.server.tls:
            self.request.do_handshake()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._patience = Patience(self.connection)
        self.rfile = io.BufferedReader(self._patience)

    def handle_one_request(self) -> None:
        seconds = self.server.service.config.upload_seconds
        self._patience.until = time.monotonic() + seconds
        super().handle_one_request()

    # --- what is asked for ----------------------------------------------------------------------

    def do_POST(self) -> None:
        with self.server.busy:
            self._answer(self._recognize)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/status":
            self._answer(lambda: (200, self.server.service.status()))
        elif (name := path[1:] or "index.html") in _pages():
            self._send_file(PAGE / name)
        else:
            self._answer(_nothing_here)

    def _recognize(self) -> tuple[int, Answer]:
        service = self.server.service
        where = urlsplit(self.path)
        version, _, method = where.path.strip("/").rpartition("/")
        if version not in ("v2", "v3") or method not in ("recognize", "recognize_bytes"):
            return _nothing_here()
        asked = query(where.query, service.config.key, self.client_address[0])
        length = self._length(service.config.max_bytes)
        with service.uploads.lent(client_of(self.client_address[0]), length) as free:
            if not free:
                raise Refused(503, "too many uploads at once; try again")
            body = self._body(length)
            if method == "recognize":
                image = image_of_form(body, self.headers.get("Content-Type", ""))
            else:
                image = image_of_base64(body)
            del body
            return 200, service.recognize(image, asked)

    def _length(self, most: int) -> int:
        """Of the body. Raises Refused."""
        if "Transfer-Encoding" in self.headers:
            raise Refused(411, "send the body with a Content-Length, not in chunks")
        words = self.headers.get("Content-Length", "")
        if not (words.isascii() and words.isdigit()):
            raise Refused(411, "the request has no Content-Length")
        if len(words) > 12 or int(words) > most:
            raise Refused(413, f"the request has {words[:20]} bytes; at most {most}")
        return int(words)

    def _body(self, length: int) -> bytes:
        """Raises Refused."""
        self._unread = length
        try:
            body = self.rfile.read(length)
        except TimeoutError:
            seconds = self.server.service.config.upload_seconds
            raise Refused(408, f"the upload took more than {seconds:g} s") from None
        self._unread = 0
        if len(body) < length:
            raise Refused(400, f"the upload ended after {len(body)} of {length} bytes")
        return body

    def handle_expect_100(self) -> bool:
        """Who asks first whether to send the body is told at once that it is too long."""
        try:
            self._length(self.server.service.config.max_bytes)
        except Refused as refused:
            self._send(refused.status, refused.answer)
            self.close_connection = True
            return False
        return super().handle_expect_100()

    # --- and what is answered -------------------------------------------------------------------

    def _answer(self, make: Callable[[], tuple[int, Answer]]) -> None:
        self._unread = -1  # the body, if there is one, has not been looked at
        try:
            status, answer = make()
        except Refused as refused:
            status, answer = refused.status, refused.answer
        except ConnectionError:
            raise
        except Exception:
            traceback.print_exc()
            status, answer = 500, Refused(500, "the server has failed; its log says more").answer
        rest = self._unread != 0 and self.command == "POST"
        if rest:
            self.close_connection = True
        self._send(status, answer)
        if rest:
            self._linger()

    def _send(self, status: int, answer: Answer) -> None:
        self._send_bytes(status, json.dumps(answer).encode(), "application/json")

    def _send_bytes(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.connection.settimeout(self.server.service.config.upload_seconds)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if status in (503,):
            self.send_header("Retry-After", "5")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, path: Path) -> None:
        policy = "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:"
        self._send_bytes(
            200,
            path.read_bytes(),
            KINDS[path.suffix],
            Cache_Control="no-cache",
            Content_Security_Policy=policy,
        )

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses: bad request lines, methods that are not there."""
        self.close_connection = True
        self._send(int(code), Refused(int(code), message or "bad request").answer)

    def _linger(self) -> None:
        """A connection closed with unread bytes is reset, and the answer is lost with it."""
        self.connection.shutdown(socket.SHUT_WR)
        self._patience.until = time.monotonic() + LINGER
        try:
            while self.rfile.read1(1 << 16):
                pass
        except OSError:
            pass

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """One line a request would fill the log of a box."""


def _pages() -> set[str]:
    """Names of files, so that nothing else can be asked for."""
    return {path.name for path in PAGE.iterdir() if path.suffix in KINDS}


def _nothing_here() -> tuple[int, Answer]:
    raise Refused(404, "POST /v2/recognize or /v2/recognize_bytes, GET / or /status")
