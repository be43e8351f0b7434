"""What differs between two specs, and what a change needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from viscum.spec.types import FIXED, Spec
from viscum.spec.write import to_mapping, toml_value


class FieldChange(Struct, frozen=True):
    """One field that differs: its path, and both values as TOML ("" where it has none)."""

    path: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.path}: {self.old or '(none)'} -> {self.new or '(none)'}"


def diff(old: Spec | None, new: Spec | None) -> list[FieldChange]:
    """Every field that differs, defaults counted as values, in the order of the spec's keys.

    Against None: what a new service sets, or a removed one had, beyond the defaults.
    """
    before, after = _flat(old, new), _flat(new, old)
    paths = list(after) + [path for path in before if path not in after]
    return [
        FieldChange(path, before.get(path, ""), after.get(path, ""))
        for path in paths
        if before.get(path) != after.get(path)
    ]


def needs_new_generation(old: Spec, new: Spec) -> bool:
    """Whether the processes must be started anew; everything else is changed in place."""
    return any(_get(old, path) != _get(new, path) for path in FIXED)


def _get(spec: Spec, path: str) -> Any:
    value: Any = spec
    for key in path.split("."):
        value = getattr(value, key.replace("-", "_"))
    return value


def _flat(spec: Spec | None, other: Spec | None) -> dict[str, str]:
    flat: dict[str, str] = {}

    def walk(table: Mapping[str, Any], path: str) -> None:
        for key, value in table.items():
            if isinstance(value, Mapping):
                walk(value, f"{path}{key}.")
            else:
                flat[path + key] = toml_value(value)

    if spec is not None:
        walk(to_mapping(spec, defaults=other is not None), "")
    return flat
