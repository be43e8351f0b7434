"""One connection of a client's: HTTP in, HTTP out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from plates.intake import image_of_base64, image_of_form, query
from serving.handler import Answer, Refused
from serving.handler import Handler as BaseHandler

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


class Handler(BaseHandler):
    server_version = "plates"
    server: Server

    def do_POST(self) -> None:
        with self.server.busy:
            self.answer(self._recognize)

    def do_GET(self) -> None:
        path = self.target.path
        if path == "/status":
            self.answer(lambda: (200, self.server.service.status()))
        elif (name := path[1:] or "index.html") in _pages():
            self._send_file(PAGE / name)
        else:
            self.answer(_nothing_here)

    def _recognize(self) -> tuple[int, Answer]:
        service = self.server.service
        version, _, method = self.target.path.strip("/").rpartition("/")
        if version not in ("v2", "v3") or method not in ("recognize", "recognize_bytes"):
            return _nothing_here()
        asked = query(self.target.query, service.config.key, self.client_address[0])
        if method == "recognize":
            image = image_of_form(self.body(), self.headers.get("Content-Type", ""))
        else:
            image = image_of_base64(self.body())
        return 200, service.recognize(image, asked)

    def _send_file(self, path: Path) -> None:
        policy = "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:"
        self.send_bytes(
            200,
            path.read_bytes(),
            KINDS[path.suffix],
            Cache_Control="no-cache",
            Content_Security_Policy=policy,
        )


def _pages() -> set[str]:
    """Names of files, so that nothing else can be asked for."""
    return {path.name for path in PAGE.iterdir() if path.suffix in KINDS}


def _nothing_here() -> tuple[int, Answer]:
    raise Refused(404, "POST /v2/recognize or /v2/recognize_bytes, GET / or /status")
