"""Number-plate recognition as an HTTP server, with requests and answers as OpenALPR's Cloud API.

    python -m plates.server --port 80 --spool DIRECTORY --database HOST:3306 …

It listens when its models are loaded. An answer of 200 says that what is in it is on the disk and
will come to the database, whatever becomes of this process or of the way there.
"""

from __future__ import annotations

import ssl

from plates.config import Config
from plates.handler import Handler
from plates.service import Service
from serving.limits import Room
from serving.options import configured
from serving.server import Server as BaseServer
from serving.server import serve


class Server(BaseServer):
    def __init__(
        self, service: Service, room: Room, port: int, tls: ssl.SSLContext | None = None
    ) -> None:
        self.service = service
        super().__init__(Handler, room, port, tls)


def servers(service: Service) -> list[Server]:
    """Raises OSError if the certificate can't be used."""
    config = service.config
    room = Room(config)
    made = [Server(service, room, config.port)]
    if config.tls_certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.tls_certificate, config.tls_key or None)
        made.append(Server(service, room, config.tls_port, context))
    return made


def main() -> None:
    service = Service(configured(Config, "PLATES", __doc__ or ""))
    serve("plates", servers(service))
    service.courier.end(3)


if __name__ == "__main__":
    main()
