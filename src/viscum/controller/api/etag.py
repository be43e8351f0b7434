"""Entity tags: of what was asked for, so that what a service does never changes its own."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from viscum.controller.api.route import Differs, Malformed
from viscum.store import Record


def of_record(record: Record, spec: dict[str, Any]) -> str:
    """Strong; the same for the same spec (as plain data), owner and state asked for."""
    state = (record.enabled, record.until_ns, record.running, record.removing)
    return of_bytes(msgspec.json.encode((spec, record.tenant, state)))


def of_bytes(data: bytes) -> str:
    return f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'


def tags(header: str) -> list[str]:
    """Of If-Match or If-None-Match: ["*"], or the tags in their quotes. Raises Malformed."""
    if header.strip() == "*":
        return ["*"]
    found = [tag.strip() for tag in header.split(",")]
    for tag in found:
        opaque = tag.removeprefix("W/")
        if len(opaque) < 2 or opaque[0] != '"' or opaque[-1] != '"' or '"' in opaque[1:-1]:
            raise Malformed(
                f"{tag[:80]!r} is no entity tag",
                hint="write the ETag as it was sent, in its quotes",
            )
    return found


def matches(header: str, tag: str | None, *, weak: bool = False) -> bool:
    """Whether the header names `tag` (None: there is nothing). weak: If-None-Match of a GET."""
    found = tags(header)
    if found == ["*"]:
        return tag is not None
    return tag in ([t.removeprefix("W/") for t in found] if weak else found)


def require(tag: str | None, if_match: str | None, if_none_match: str | None) -> None:
    """For a change. Raises Differs, Malformed."""
    now = f"its ETag is {tag}" if tag else "it does not exist"
    if if_match is not None and not matches(if_match, tag):
        raise Differs(
            "If-Match does not hold: somebody else has changed it",
            state=f"nothing was changed; {now}",
            hint="read it again, and change what is there now",
        )
    if if_none_match is not None and matches(if_none_match, tag):
        raise Differs(
            "If-None-Match does not hold: it is there already",
            state=f"nothing was changed; {now}",
            hint="leave If-None-Match out to replace it",
        )
