"""One connection of HTTP/1.1 from a stranger, with limits on its bytes and its time. Whatever can't
be used is refused in words: `{"error": "…", "error_code": 400}`."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from serving.limits import Patience, client_of

if TYPE_CHECKING:
    from serving.server import Server

LINGER = 2.0  # s in which the rest of a refused upload is thrown away, so that the words arrive
Answer = dict[str, Any]


class Refused(Exception):
    """Answered with this status and these words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.answer: Answer = {"error": words, "error_code": status}


class Handler(BaseHTTPRequestHandler):
    """One connection. Of a subclass, the do_… methods call `answer`. target: what is asked for."""

    sys_version = ""
    protocol_version = "HTTP/1.1"
    server: Server
    target: SplitResult

    def setup(self) -> None:
        self.limits = self.server.room.limits
        self.request.settimeout(self.limits.upload_seconds)
        super().setup()
        if self.server.tls:
            self.request.do_handshake()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._patience = Patience(self.connection)
        self.rfile = io.BufferedReader(self._patience)

    def handle_one_request(self) -> None:
        self.patient(self.limits.upload_seconds)
        self._unread = True  # more of it may be on its way
        super().handle_one_request()

    def patient(self, seconds: float) -> None:
        """What the client sends is waited for so long from now on."""
        self._patience.until = time.monotonic() + seconds

    # --- what is asked for ----------------------------------------------------------------------

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        self._unread = "Content-Length" in self.headers or "Transfer-Encoding" in self.headers
        try:
            self.target = urlsplit(self.path)
        except ValueError:
            self.send_error(400, "the path can't be read")
            return False
        return True

    def body(self) -> bytes:
        """It counts among what is uploaded until the answer has been sent. Raises Refused."""
        length = self._length()
        client = client_of(self.client_address[0])
        if not self._lent.enter_context(self.server.room.uploads.lent(client, length)):
            raise Refused(503, "too many uploads at once; try again")
        return self._read(length)

    def _read(self, length: int) -> bytes:
        """Raises Refused."""
        try:
            body = self.rfile.read(length)
        except TimeoutError:
            seconds = self.limits.upload_seconds
            raise Refused(408, f"the upload took more than {seconds:g} s") from None
        if len(body) < length:
            raise Refused(400, f"the upload ended after {len(body)} of {length} bytes")
        self._unread = False
        return body

    def _length(self) -> int:
        """Of the body. Raises Refused."""
        most = self.limits.max_bytes
        if "Transfer-Encoding" in self.headers:
            raise Refused(411, "send the body with a Content-Length, not in chunks")
        words = ",".join(self.headers.get_all("Content-Length", ()))  # two are none
        if not (words.isascii() and words.isdigit()):
            raise Refused(411, "the request has no Content-Length")
        if len(words) > 12 or int(words) > most:
            raise Refused(413, f"the request has {words[:20]} bytes; at most {most}")
        return int(words)

    def handle_expect_100(self) -> bool:
        """Who asks first whether to send the body is told at once that it is too long."""
        try:
            self._length()
        except Refused as refused:
            self.refuse(refused)
            return False
        return super().handle_expect_100()

    # --- and what is answered -------------------------------------------------------------------

    def answer(self, make: Callable[[], tuple[int, Answer]]) -> None:
        """What `make` returns or refuses; it may call `body`."""
        with contextlib.ExitStack() as self._lent:
            self._answer(make)

    def _answer(self, make: Callable[[], tuple[int, Answer]]) -> None:
        try:
            status, answer = make()
        except Refused as refused:
            status, answer = refused.status, refused.answer
        except ConnectionError:
            raise
        except Exception:
            traceback.print_exc()
            status, answer = 500, Refused(500, "the server has failed; its log says more").answer
        self.send(status, answer)

    def refuse(self, refused: Refused) -> None:
        self.send(refused.status, refused.answer)

    def send(self, status: int, answer: Answer) -> None:
        self.send_bytes(status, json.dumps(answer).encode(), "application/json")

    def send_bytes(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.connection.settimeout(self.limits.upload_seconds)
        if self._unread:  # what comes next may be the rest of a body
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if status == 503:
            self.send_header("Retry-After", "5")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        if self.close_connection:
            self.linger()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses: bad request lines, methods that are not there."""
        self.close_connection = True
        self.refuse(Refused(int(code), message or "bad request"))

    def linger(self) -> None:
        """A connection closed with unread bytes is reset, and the answer is lost with it."""
        self.patient(LINGER)
        try:
            self.connection.shutdown(socket.SHUT_WR)
            while self.rfile.read1(1 << 16):
                pass
        except OSError:
            pass

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """One line a request would fill the log of a box."""
