"""The document and the JSON Schema say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from spec_strategies import MAPPINGS, SPECS
from viscum.errors import InputError
from viscum.spec import Spec, from_mapping, to_mapping
from viscum.spec.doc import description, document, schema

pytestmark = pytest.mark.req("N4")

SCHEMA = schema()
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
}


def valid(rule: dict[str, Any], value: Any) -> bool:
    """Whether `value` is valid by the part of JSON Schema that `schema()` uses; else KeyError."""
    return all(KEYWORDS[word](arg, value, rule) for word, arg in rule.items())


def of_type(arg: str | list[str], value: Any) -> bool:
    names = [arg] if isinstance(arg, str) else arg
    return not isinstance(value, bool) and any(isinstance(value, TYPES[name]) for name in names)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


KEYWORDS: dict[str, Any] = {
    "$schema": lambda arg, value, rule: True,
    "title": lambda arg, value, rule: True,
    "description": lambda arg, value, rule: True,
    "default": lambda arg, value, rule: True,
    "examples": lambda arg, value, rule: True,
    "type": lambda arg, value, rule: of_type(arg, value),
    "enum": lambda arg, value, rule: value in arg,
    "pattern": lambda arg, value, rule: not isinstance(value, str) or bool(re.search(arg, value)),
    "minimum": lambda arg, value, rule: not is_number(value) or value >= arg,
    "exclusiveMinimum": lambda arg, value, rule: not is_number(value) or value > arg,
    "maximum": lambda arg, value, rule: not is_number(value) or value <= arg,
    "minItems": lambda arg, value, rule: len(value) >= arg,
    "maxItems": lambda arg, value, rule: len(value) <= arg,
    "uniqueItems": lambda arg, value, rule: len(set(map(repr, value))) == len(value),
    "items": lambda arg, value, rule: all(valid(arg, item) for item in value),
    "required": lambda arg, value, rule: set(arg) <= set(value),
    "properties": lambda arg, value, rule: all(valid(arg[k], value[k]) for k in arg if k in value),
    "propertyNames": lambda arg, value, rule: all(valid(arg, key) for key in value),
    "additionalProperties": lambda arg, value, rule: all(
        arg is not False and valid(arg, value[key])
        for key in value
        if key not in rule.get("properties", ())
    ),
}


def test_docs_spec_md_is_up_to_date() -> None:
    path = Path(__file__).parents[2] / "docs" / "spec.md"
    assert path.read_text() == document(), "run: python -m viscum.spec.doc > docs/spec.md"


@given(SPECS)
def test_every_spec_is_valid_by_the_schema(spec: Spec) -> None:
    assert valid(SCHEMA, to_mapping(spec, defaults=True))


@given(MAPPINGS)
def test_what_the_schema_refuses_is_refused(data: dict[str, Any]) -> None:
    """The other direction of the same: nothing that is read is invalid by the schema."""
    try:
        from_mapping(data)
    except InputError:
        return
    without_null = {
        key: {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
        for key, value in data.items()
    }
    assert valid(SCHEMA, without_null)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("", "colour", "red"),
        ("", "name", "Web"),
        ("", "command", []),
        ("", "instances", 9),
        ("", "upgrade", "rolling"),
        ("steer", "ports", ["443"]),
        ("steer", "ports", ["443/tcp", "443/tcp"]),
        ("steer", "interfaces", ["a/b"]),
        ("steer", "share", "all"),
        ("run", "drain", "a while"),
        ("run", "start-timeout", 0),
        ("run", "environment", {"A=B": "x"}),
        ("limits", "memory", 1),
        ("limits", "cpu", 0),
    ],
)
def test_the_schema_refuses(table: str, key: str, value: object) -> None:
    data: dict[str, Any] = {
        "name": "web",
        "command": ["nginx"],
        "steer": {"interfaces": ["wlan0"], "targets": ["203.0.113.7"]},
    }
    assert valid(SCHEMA, data)
    (data.setdefault(table, {}) if table else data)[key] = value
    assert not valid(SCHEMA, data)


def test_every_key_is_described_and_its_default_and_examples_are_valid() -> None:
    def walk(rule: dict[str, Any], path: str) -> None:
        for key, inner in rule["properties"].items():
            where = f"{path}{key}"
            if "properties" in inner:
                walk(inner, f"{where}.")
                continue
            assert inner["description"] == description(where)
            assert inner["description"].endswith(".")
            given_ = list(inner.get("examples", ()))
            if "default" in inner:
                given_.append(inner["default"])
            for value in given_:
                assert valid(inner, value), where
            assert f"| `{key}` |" in document()

    walk(SCHEMA, "")
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    with pytest.raises(KeyError):
        description("steer.colour")
