"""The least that can be made of it, for its tests: a server that answers a body with its length.

python -m serving.tiny --port 80
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from serving.handler import Answer
from serving.handler import Handler as BaseHandler
from serving.limits import Room
from serving.options import configured
from serving.server import Server, serve


@dataclass(frozen=True)
class Config:
    """certificate: with its key, for TLS; limits as `serving.limits` has them."""

    port: int = 80
    tls_port: int = 443
    certificate: str = ""
    max_bytes: int = 1 << 20
    max_uploads: int = 3 << 20
    max_connections: int = 6
    client_connections: int = 4
    upload_seconds: float = 60.0


class Handler(BaseHandler):
    server_version = "tiny"

    def do_POST(self) -> None:
        with self.server.busy:
            print("an upload", flush=True)
            self.answer(self._upload)

    def do_GET(self) -> None:
        if self.target.path == "/large":
            self.send_bytes(200, bytes(64 << 20), "application/octet-stream")
        else:
            self.answer(lambda: (200, {"client": self.client_address[0]}))

    def _upload(self) -> tuple[int, Answer]:
        body = self.body()
        if body == b"fail":
            raise RuntimeError("as it was asked to")
        return 200, {"bytes": len(body)}


def main() -> None:
    config = configured(Config, "TINY", __doc__ or "")
    room = Room(config)
    servers = [Server(Handler, room, config.port)]
    if config.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.certificate)
        servers.append(Server(Handler, room, config.tls_port, context))
    serve("tiny", servers, lambda: print("takes no more", flush=True))


if __name__ == "__main__":
    main()
