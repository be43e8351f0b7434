"""An HTTP server with a thread for each connection, and not more of them than there may be."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from http.server import ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from serving.handler import Handler, Refused
from serving.limits import Room, client_of

ENDING = 10.0  # s for requests in work when the server is told to end


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
    """Of IPv4 and IPv6."""

    address_family = socket.AF_INET6
    request_queue_size = 64
    daemon_threads = True

    def __init__(
        self, handler: type[Handler], room: Room, port: int, tls: ssl.SSLContext | None = None
    ) -> None:
        """room: for all clients; servers on several ports may have one together. Exits with words
        if the port can't be had."""
        self.room = room
        self.tls = tls
        self.busy = Busy()
        try:
            super().__init__(("::", port), handler)
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            sys.exit(f"{handler.server_version}: can't listen on port {port}: {why}")

    def server_bind(self) -> None:
        """HTTPServer's own would ask DNS for our name, which may take its time to fail."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "server", self.server_address[1]

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self.tls:
            connection = self.tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        plain = (address[0].removeprefix("::ffff:"), *address[1:])
        return connection, plain

    def process_request(self, request: Any, client_address: Any) -> None:
        client = client_of(client_address[0])
        if self.room.connections.take(client):
            try:
                super().process_request(request, client_address)
            except BaseException:  # no more threads
                self.room.connections.give(client)
                raise
            return
        words = json.dumps(Refused(503, "too many connections; try again").answer).encode()
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
            self.room.connections.give(client_of(client_address[0]))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no failure of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            traceback.print_exc()


def serve(name: str, servers: Sequence[Server], at_end: Callable[[], None] | None = None) -> None:
    """Until SIGTERM or SIGINT: then what comes is no longer taken, `at_end` is called, and requests
    in work are waited for."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"{name}: listens on {', '.join(str(s.server_port) for s in servers)}", flush=True)
    ending.wait()
    for server in servers:
        server.shutdown()
        server.server_close()  # what comes now goes to the cloud
    if at_end:
        at_end()
    for server in servers:
        server.busy.wait(ENDING)
