"""What a request gives: its query and its body, as tables read the way a spec is."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from viscum.controller.api.route import Malformed
from viscum.errors import InputError, Problem
from viscum.spec import read_table
from viscum.spec.types import fields
from viscum.spec.values import BadValue, Kind, kind_of, shown

MAX_BODY = 1 << 20  # bytes, as of a spec's file
MAX_PARAMETERS = 32


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise BadValue(f"must be true or false, not {kind_of(value)}", "write true or false")


_FLAG = Kind("true or false", _flag)
_FLAG.schema = {"type": "boolean"}

#: A bool in a table of a request.
Flag = Annotated[bool, _FLAG]


def query(cls: type[Struct], raw: bytes) -> Any:
    """Raises InputError naming the parameters, Malformed."""
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )  # fmt: skip
    except ValueError as error:
        raise Malformed(f"the query can't be read: {error}", hint="see /openapi.json") from None
    given: dict[str, object] = {}
    problems = []
    for key, value in pairs:
        if key in given:
            problems.append(Problem(shown(key), shown(value), "is given twice", "give it once"))
        given[key] = value
    if problems:
        raise InputError(*problems)
    for info in fields(cls):
        text = given.get(info.encode_name)
        if isinstance(text, str) and _is_whole(info.type) and text.isascii() and text.isdigit():
            given[info.encode_name] = int(text[:20])
    return read_table(cls, given)


def _is_whole(hint: Any) -> bool:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint is int or int in get_args(hint)


def decode(raw: bytes) -> Any:
    """JSON as plain data. Raises Malformed."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"the body is not JSON: {error}", hint="send JSON in UTF-8") from None
    except RecursionError:
        raise Malformed("the body is nested too deeply", hint="see /openapi.json") from None


def body(cls: type[Struct], raw: bytes) -> Any:
    """Raises InputError naming the keys, Malformed. Nothing at all is an empty table."""
    return read_table(cls, decode(raw) if raw.strip() else {})


__all__ = ["MAX_BODY", "Flag", "Meta", "body", "decode", "query"]
