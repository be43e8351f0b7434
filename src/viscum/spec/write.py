"""Spec → plain data → TOML, in one canonical form: stable order, only what is not the default."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo

from viscum.spec.types import fields
from viscum.spec.values import network_text

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def to_mapping(spec: Struct, *, defaults: bool = False) -> dict[str, Any]:
    """The spec (or another table that is read as one) as nested dicts, lists, strings and numbers
    (what `from_mapping` and JSON take).

    Without `defaults` only what differs from them; with, every key that has a value.
    """
    return _table(spec, defaults)


def to_toml(spec: Struct) -> str:
    """The canonical TOML; `from_toml` of it is the same spec."""
    return toml_of(to_mapping(spec))


def toml_of(mapping: Mapping[str, Any]) -> str:
    """Nested dicts, lists, strings and numbers as TOML."""
    lines: list[str] = []
    _write(lines, mapping, "")
    return "\n".join(lines) + "\n"


def _table(table: Any, defaults: bool) -> dict[str, Any]:
    result = {}
    for info in fields(type(table)):
        value = getattr(table, info.name)
        if value is None or (not defaults and value == _default(info)):
            continue
        result[info.encode_name] = (
            _table(value, defaults) if is_table(type(value)) else plain(value)
        )
    return result


def is_table(cls: Any) -> bool:
    """A table of keys, not the type of a value that is a struct for us (a port)."""
    if not isinstance(cls, type) or not issubclass(cls, Struct):
        return False
    return cls.__struct_config__.forbid_unknown_fields


def _default(info: FieldInfo) -> Any:
    return info.default if info.default_factory is NODEFAULT else info.default_factory()


def plain(value: Any) -> Any:
    """A field's value as TOML and JSON have it."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: value[key] for key in sorted(value)}
    if isinstance(value, (IPv4Network, IPv6Network)):
        return network_text(value)
    if value is True or value is False or type(value) in (str, int, float):
        return value
    return str(value)  # Seconds, Bytes, Port, EgressRule


def _write(lines: list[str], table: Mapping[str, Any], path: str) -> None:
    for key, value in table.items():
        if not isinstance(value, Mapping):
            lines.append(_pair(key, value))
    for key, value in table.items():
        if isinstance(value, Mapping):
            where = f"{path}.{_key(key)}" if path else _key(key)
            if not value or any(not isinstance(inner, Mapping) for inner in value.values()):
                lines.extend(("", f"[{where}]"))
            _write(lines, value, where)


def _pair(key: str, value: Any) -> str:
    line = f"{_key(key)} = {toml_value(value)}"
    if not isinstance(value, list) or len(line) <= 88:
        return line
    items = "".join(f"    {toml_value(item)},\n" for item in value)
    return f"{_key(key)} = [\n{items}]"


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "a").replace("_", "a").isalnum()
    return key if bare else toml_value(key)


def toml_value(value: Any) -> str:
    """Plain data as a TOML value on one line."""
    if isinstance(value, str):
        return '"' + "".join(_escaped(c) for c in value) + '"'
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(k)} = {toml_value(v)}" for k, v in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _escaped(c: str) -> str:
    if c in _ESCAPES:
        return _ESCAPES[c]
    return f"\\u{ord(c):04x}" if c < " " or c == "\x7f" else c
