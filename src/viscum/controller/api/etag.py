"""Entity tags: of what was asked for, so that what a service does never changes its own."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import msgspec

from viscum.controller.api.route import Differs
from viscum.store import Record

# Else who may not see the values of an environment could try which ones have this tag. A controller
# that was started anew has other tags: what was asked for with an old one is asked for again.
_KEY = secrets.token_bytes(16)


def of_record(record: Record, spec: dict[str, Any]) -> str:
    """Strong; the same for the same spec (as plain data), owner and state asked for."""
    state = (record.enabled, record.until_ns, record.running, record.removing)
    return of_bytes(msgspec.json.encode((spec, record.tenant, state)))


def of_bytes(data: bytes) -> str:
    return f'"{hashlib.blake2b(data, digest_size=12, key=_KEY).hexdigest()}"'


def _tags(header: str) -> list[str]:
    """Of If-Match or If-None-Match: ["*"], or the tags in their quotes; [] for what is none."""
    if header.strip() == "*":
        return ["*"]
    found = [tag.strip() for tag in header.split(",")]
    return found if all(map(_is_tag, found)) else []


def _is_tag(tag: str) -> bool:
    opaque = tag.removeprefix("W/")
    return len(opaque) > 1 and opaque[0] == opaque[-1] == '"' and '"' not in opaque[1:-1]


def matches(header: str, tag: str | None, *, weak: bool = False) -> bool:
    """Whether the header names `tag` (None: there is nothing). weak: If-None-Match of a GET."""
    found = _tags(header)
    if found == ["*"]:
        return tag is not None
    return tag in ([t.removeprefix("W/") for t in found] if weak else found)


def require(tag: str | None, if_match: str | None, if_none_match: str | None) -> None:
    """For a change. Raises Differs, also for headers that are no entity tags: who gives one does
    not want a change whatever there is."""
    now = f"its ETag is {tag}" if tag else "it does not exist"
    for header in (if_match, if_none_match):
        if header is not None and not _tags(header):
            raise Differs(
                f"{header[:80]!r} is no entity tag",
                state=f"nothing was changed; {now}",
                hint="write the ETag as it was sent, in its quotes",
            )
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
