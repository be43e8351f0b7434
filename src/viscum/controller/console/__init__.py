"""The web console: static files, and how they are sent. All it shows it asks the API for, with the
token its user gives it; so that these files are for anyone.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from viscum.controller.api import etag
from viscum.controller.api.route import Call, NotFound, Reply, Route, Text

PLACE = Path(__file__).with_name("static")
MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}
# Nothing from elsewhere, nothing inline, no text made into markup (trusted types; "viscum" is the
# one policy, for the address of uPlot), and no page of others around ours.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types viscum"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


class _File(NamedTuple):
    data: bytes
    media: str
    tag: str


_files: dict[str, _File] = {}


def _read() -> dict[str, _File]:
    """By name; read when first asked for, for most controllers are never looked at this way.
    `vendor` is what scripts/build-console has fetched, and may not be there."""
    if not _files:
        for path in (*PLACE.iterdir(), *PLACE.glob("vendor/*")):
            if path.suffix in MEDIA:
                data = path.read_bytes()
                _files[path.name] = _File(data, MEDIA[path.suffix], etag.of_bytes(data))
    return _files


async def send(call: Call) -> Reply:
    name = call.path.get("file", "index.html")
    found = _read().get(name)
    if found is None:
        raise NotFound(f"the console has no file {name[:80]}", hint="scripts/build-console")
    headers = HEADERS | {"etag": found.tag}
    unless = call.headers.get("if-none-match")
    if unless is not None and etag.matches(unless, found.tag, weak=True):
        return Reply(None, 304, headers)
    return Reply(found.data, 200, headers, found.media)


ROUTES = tuple(
    Route(
        method="GET",
        path=path,
        role="anyone",
        summary="The web console.",
        handler=send,
        documented=False,
        answers={200: Text("*/*"), 304: None},
    )
    for path in ("/", "/console/{file}")
)
