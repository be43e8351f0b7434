"""Number-plate recognition as an HTTP server, with requests and answers as OpenALPR's Cloud API.

    python -m plates.server --port 80 --spool DIRECTORY --database HOST:3306 …

It listens when its models are loaded. An answer of 200 says that what is in it is on the disk and
will come to the database, whatever becomes of this process or of the way there.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import signal
import socket
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

from plates.config import Config, configured
from plates.courier import Courier, Database
from plates.intake import Query, Refused, image_of_base64, image_of_form, query
from plates.picture import Unreadable
from plates.reader import Plate, Reader
from plates.spool import Spool

PAGE = Path(__file__).with_name("page")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
LINGER = 2.0  # s in which the rest of a refused upload is thrown away, so that the words arrive
Answer = dict[str, Any]


class Service:
    """What is behind the requests."""

    def __init__(self, config: Config) -> None:
        """Raises OSError if the spool can't be used."""
        self.config = config
        self.spool = Spool(config.spool, config.spool_limit)
        self.courier = Courier(self.spool, Database(config), config.batch_seconds)
        self.reader = Reader(config.max_decoded, config.threads)
        if config.database:
            self.courier.start()

    def recognize(self, image: bytes, asked: Query) -> Answer:
        """Reads, stores, answers. Raises Refused."""
        began = time.time()
        try:
            reading = self.reader.read(image, asked.state)
        except Unreadable as error:
            raise Refused(400, str(error)) from None
        took = (time.time() - began) * 1000
        self._store(image, asked, reading.plates, began)
        width, height = reading.width, reading.height
        answer: Answer = {
            "version": 2,
            "data_type": "alpr_results",
            "epoch_time": int(began * 1000),
            "img_width": width,
            "img_height": height,
            "processing_time_ms": took,
            "processing_time": {"total": took, "plates": took, "vehicles": 0.0},
            "credit_cost": 0,
            "credits_monthly_used": 0,
            "credits_monthly_total": 0,
            "regions_of_interest": [{"x": 0, "y": 0, "width": width, "height": height}],
            "results": [_result(plate, asked, took) for plate in reading.plates],
        }
        if asked.return_image:
            answer["image_bytes"] = base64.b64encode(image).decode()
        return answer

    def _store(self, image: bytes, asked: Query, plates: tuple[Plate, ...], when: float) -> None:
        """The key says what was seen, so that a photo that is sent twice is one record."""
        records = []
        for number, plate in enumerate(plates):
            seen = f"{number} {plate.best.text} {asked.camera}".encode()
            records.append(
                {
                    "id": hashlib.sha256(image + seen).hexdigest()[:32],
                    "taken": _timestamp(when),
                    "camera": asked.camera,
                    "plate": plate.best.text,
                    "confidence": round(plate.best.confidence, 2),
                    "region": asked.state or asked.country,
                    "site": self.config.site,
                }
            )
        try:
            if records:
                self.spool.append(records)
        except OSError as error:
            words = f"what was read can't be stored ({error.strerror}); nothing was, send it again"
            raise Refused(503, words) from None

    def status(self) -> Answer:
        return {
            "site": self.config.site,
            "database": self.courier.trouble or "ok",
            "waiting": self.spool.count(),
            "delivered": self.courier.delivered,
        }


def _timestamp(when: float) -> str:
    """In UTC, with milliseconds, as SQL writes it."""
    seconds = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(when))
    return f"{seconds}.{int(when * 1000) % 1000:03d}"


def _result(plate: Plate, asked: Query, took: float) -> Answer:
    return {
        "plate": plate.best.text,
        "confidence": plate.best.confidence,
        "matches_template": int(plate.best.fits),
        "requested_topn": asked.topn,
        "region": asked.state or asked.country,
        "region_confidence": 0,  # nobody has looked, it is what was asked for
        "processing_time_ms": took,
        "coordinates": [{"x": x, "y": y} for x, y in plate.corners],
        "candidates": [
            {"plate": c.text, "confidence": c.confidence, "matches_template": int(c.fits)}
            for c in plate.candidates[: asked.topn]
        ],
    }


class Patience(io.RawIOBase):
    """What a connection brings, until a time that is set for each request: a client that sends one
    byte a second gets no more of it than another."""

    def __init__(self, connection: socket.socket) -> None:
        self.until = 0.0
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


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
        body = self._body(service.config.max_bytes)
        if method == "recognize":
            image = image_of_form(body, self.headers.get("Content-Type", ""))
        else:
            image = image_of_base64(body)
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

    def _body(self, most: int) -> bytes:
        """Raises Refused."""
        length = self._length(most)
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
            self._send(refused.status, _error(refused.status, str(refused)))
            self.close_connection = True
            return False
        return super().handle_expect_100()

    # --- and what is answered -------------------------------------------------------------------

    def _answer(self, make: Callable[[], tuple[int, Answer]]) -> None:
        self._unread = -1  # the body, if there is one, has not been looked at
        try:
            status, answer = make()
        except Refused as refused:
            status, answer = refused.status, _error(refused.status, str(refused))
        except ConnectionError:
            raise
        except Exception:
            traceback.print_exc()
            status, answer = 500, _error(500, "the server has failed; its log says more")
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
        self._send(int(code), _error(int(code), message or "bad request"))

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
    return 404, _error(404, "POST /v2/recognize or /v2/recognize_bytes, GET / or /status")


def _error(status: int, words: str) -> Answer:
    return {"error": words, "error_code": status}


class Busy:
    """Requests in work, to be waited for at the end."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0, seconds)


class Server(ThreadingHTTPServer):
    """IPv4 and IPv6; a thread for each connection, and not more than there may be."""

    address_family = socket.AF_INET6
    request_queue_size = 64
    daemon_threads = True

    def __init__(self, service: Service, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.service = service
        self.tls = tls
        self.busy = Busy()
        self._free = threading.Semaphore(service.config.max_connections)
        super().__init__(("::", port), Handler)

    def server_bind(self) -> None:
        """HTTPServer's own would ask DNS for our name, which may take its time to fail."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "plates", self.server_address[1]

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self.tls:
            connection = self.tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        plain = (address[0].removeprefix("::ffff:"), *address[1:])
        return connection, plain

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        words = json.dumps(_error(503, "too many connections; try again")).encode()
        head = "HTTP/1.1 503 Busy\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
        head += f"Content-Length: {len(words)}\r\nConnection: close\r\n\r\n"
        request.settimeout(0)
        try:
            if not self.tls:
                request.send(head.encode() + words)
        except OSError:
            pass
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no failure of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            traceback.print_exc()


def servers(service: Service) -> list[Server]:
    """Raises OSError."""
    config = service.config
    made = [Server(service, config.port)]
    if config.tls_certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.tls_certificate, config.tls_key or None)
        made.append(Server(service, config.tls_port, context))
    return made


def main() -> None:
    service = Service(configured())
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    running = servers(service)
    for server in running:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"plates: listens on {', '.join(str(s.server_port) for s in running)}", flush=True)
    ending.wait()
    for server in running:
        server.shutdown()
        server.server_close()  # what comes now goes to the cloud
    for server in running:
        server.busy.wait(10)
    service.courier.end(3)


if __name__ == "__main__":
    main()
