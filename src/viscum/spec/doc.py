"""The spec's documentation and JSON Schema, both from the types.

`python -m viscum.spec.doc > docs/spec.md` writes the document; a test keeps it up to date.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from msgspec import NODEFAULT, Meta
from msgspec.structs import FieldInfo, fields

from viscum.spec.types import FIXED, Spec
from viscum.spec.values import Kind
from viscum.spec.write import is_table, plain, toml_value

_PLAIN: Final = {bool: "boolean", int: "integer", float: "number", str: "string"}

EXAMPLE: Final = """\
name = "plates"
command = ["/usr/local/bin/plate-server", "--port", "443"]

[steer]
interfaces = ["wlan0"]
targets = ["plates.example.com", "203.0.113.7", "2001:db8::/64"]
ports = ["443/tcp", "443/udp", "8000-8010/tcp"]

[run]
user = "plates"
environment = { RUST_LOG = "info" }

[limits]
cpu = 0.5
memory = "256M"
"""

_INTRO: Final = """\
<!-- Written by `python -m viscum.spec.doc`; change src/viscum/spec/types.py instead. -->
# The spec

One TOML file is one service. `viscum apply FILE|DIRECTORY` makes it so, `viscum export NAME` prints
it, `viscum schema` prints the JSON Schema of it. Only `name`, `command` and two keys of `[steer]`
must be there:

```toml
"""

_VALUES: Final = """\
```

A key that is not listed here is an error, as is anything else that can't be used: all problems are
reported at once, each with its place, the value and the fix, and before anything is changed.

A change of a key marked **new** starts a new generation of the service: new processes, beside the
old ones or after them (`upgrade`). Every other key is changed in place.

## How values are written

| value | written as |
|---|---|
| duration | `"500ms"`, `"10s"`, `"5m"`, `"1h30m"`, or a number of seconds; whole milliseconds |
| size | `"64K"`, `"256M"`, `"1G"` (multiples of 1024), or a number of bytes |
| port | `"443/tcp"`, `"443/udp"`, `"8000-8010/tcp"`; `"tcp/443"` is read as `"443/tcp"` |
| network | an address or a prefix: `"10.1.0.0/16"`, `"2001:db8::7"`; no host bits, no zone |
| target | a network or a host name; never loopback, link-local, multicast or broadcast |
| egress rule | `"internet"`, `"router"`, `"lan"` or a network; maybe a port: `"10.0.0.5 53/udp"` |

Two services may have a target in common as long as their ports differ.
"""


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a spec. A spec that Viscum accepts is valid by it; what needs
    more than one key (overlaps) or a host only Viscum itself can check."""
    root = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Viscum service"}
    return root | table_schema(Spec)


def description(path: str) -> str:
    """One sentence on a field ("steer.share-by"), as for --help. Raises KeyError."""
    for where, info in _walk(Spec, ""):
        if where == path:
            return _meta(info).description or ""
    raise KeyError(path)


def document() -> str:
    """docs/spec.md."""
    return "".join([_INTRO, EXAMPLE, _VALUES, *keys(Spec)])


def keys(root: type[Any], but: frozenset[str] = frozenset(), depth: int = 2) -> Iterator[str]:
    """The keys of a table and of those in it, but some, as Markdown below headings of `depth`."""
    for cls, path in _tables(root, ""):
        title = f"`[{path}]`" if path else "At the top"
        yield f"\n{'#' * depth} {title}\n\n{cleandoc(cls.__doc__ or '')}\n\n"
        yield "| key | value | default | |\n|---|---|---|---|\n"
        for info in fields(cls):
            where = f"{path}.{info.encode_name}" if path else info.encode_name
            if _struct(info) is None and where not in but:
                yield _row(info, new=root is Spec and where in FIXED)


def _row(info: FieldInfo, *, new: bool) -> str:
    meta = _meta(info)
    words = (meta.description or "").replace("|", "\\|")
    if meta.examples:
        words += " Example: " + ", ".join(f"`{toml_value(one)}`" for one in meta.examples) + "."
    if info.required:
        default = "*required*"
    else:
        given = _default(info)
        default = "" if given is None else f"`{toml_value(plain(given))}`"
    value = _in_words(info.type, meta)
    return f"| `{info.encode_name}` | {value} | {default} | {'**new** ' if new else ''}{words} |\n"


def _in_words(hint: Any, meta: Meta) -> str:
    hint, kind = _stripped(hint)
    if get_origin(hint) is tuple:
        return f"array of {_in_words(get_args(hint)[0], Meta())}"
    if get_origin(hint) is dict:
        return "table of strings"
    if get_origin(hint) is Literal:
        return " or ".join(f'`"{choice}"`' for choice in get_args(hint))
    if kind is not None:
        return kind.name
    span = ""
    if meta.ge is not None and meta.le is not None:
        span = f", {meta.ge} to {meta.le}"
    return _PLAIN[hint] + span


def table_schema(cls: type[Any]) -> dict[str, Any]:
    """Of one table, or of any other that `read_table` reads."""
    infos = fields(cls)
    return {
        "type": "object",
        "description": (cls.__doc__ or "").strip(),
        "additionalProperties": False,
        "required": [info.encode_name for info in infos if info.required],
        "properties": {info.encode_name: _field_schema(info) for info in infos},
    }


def _field_schema(info: FieldInfo) -> dict[str, Any]:
    struct = _struct(info)
    if struct is not None:
        return table_schema(struct)
    meta = _meta(info)
    result = _type_schema(info.type)
    if _is_optional(info.type):  # in JSON; TOML can't say it
        kinds = result.pop("type", [])
        result["type"] = [*([kinds] if isinstance(kinds, str) else kinds), "null"]
        if "enum" in result:
            result = {"enum": [*result["enum"], None]}
    result["description"] = meta.description
    if meta.examples:
        result["examples"] = meta.examples
    if not info.required and _default(info) is not None:
        result["default"] = plain(_default(info))
    bounds = {
        "exclusiveMinimum": meta.gt,
        "minimum": meta.ge,
        "maximum": meta.le,
        "minItems": meta.min_length,
        "maxItems": meta.max_length,
    }
    result |= {word: bound for word, bound in bounds.items() if bound is not None}
    return result | (meta.extra_json_schema or {})


def _type_schema(hint: Any) -> dict[str, Any]:
    hint, kind = _stripped(hint)
    if kind is not None:
        return dict(kind.schema)
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _type_schema(get_args(hint)[0])}
    if get_origin(hint) is dict:
        key, value = get_args(hint)
        return {
            "type": "object",
            "propertyNames": _type_schema(key),
            "additionalProperties": _type_schema(value),
        }
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    return {"type": _PLAIN[hint]}


def _stripped(hint: Any) -> tuple[Any, Kind | None]:
    """The type without Annotated and None, and its Kind."""
    kind = None
    while True:
        if get_origin(hint) is Annotated:
            hint, *notes = get_args(hint)
            kind = next((note for note in notes if isinstance(note, Kind)), kind)
        elif get_origin(hint) in (Union, UnionType) and type(None) in get_args(hint):
            (hint,) = (arg for arg in get_args(hint) if arg is not type(None))
        else:
            return hint, kind


def _is_optional(hint: Any) -> bool:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_origin(hint) in (Union, UnionType) and type(None) in get_args(hint)


def _meta(info: FieldInfo) -> Meta:
    return next(note for note in get_args(info.type) if isinstance(note, Meta))


def _struct(info: FieldInfo) -> type[Any] | None:
    hint, _ = _stripped(info.type)
    return hint if is_table(hint) else None


def _default(info: FieldInfo) -> Any:
    return info.default if info.default_factory is NODEFAULT else info.default_factory()


def _tables(cls: type[Any], path: str) -> Iterator[tuple[type[Any], str]]:
    yield cls, path
    for info in fields(cls):
        struct = _struct(info)
        if struct is not None:
            yield from _tables(struct, f"{path}.{info.encode_name}" if path else info.encode_name)


def _walk(cls: type[Any], path: str) -> Iterator[tuple[str, FieldInfo]]:
    for table, where in _tables(cls, path):
        for info in fields(table):
            yield (f"{where}.{info.encode_name}" if where else info.encode_name), info


if __name__ == "__main__":
    import sys

    sys.stdout.write(document())
