"""Number-plate recognition as an HTTP server, with requests and answers as OpenALPR's Cloud API.

    python -m plates.server --port 80 --spool DIRECTORY --database HOST:3306 …

It listens when its models are loaded. An answer of 200 says that what is in it is on the disk and
will come to the database, whatever becomes of this process or of the way there.
"""

from __future__ import annotations

import json
import signal
import socket
import ssl
import sys
import threading
import traceback
from http.server import ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from plates.config import configured
from plates.handler import Handler
from plates.intake import Refused
from plates.limits import client_of
from plates.service import Service


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
        client = client_of(client_address[0])
        if self.service.connections.take(client):
            try:
                super().process_request(request, client_address)
            except BaseException:  # no more threads
                self.service.connections.give(client)
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
            self.service.connections.give(client_of(client_address[0]))

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
