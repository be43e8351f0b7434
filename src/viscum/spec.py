"""Specs: reading, checking, comparing and writing them. No kernel, no host: plain data only.

The front door to the modules that begin with `spec`: types (the fields), read, check, write, diff,
files. Whatever could not be used raises InputError with every problem at once.
"""

from __future__ import annotations

from viscum.errors import InputError, Problem
from viscum.speccheck import Claim, Overlap, check_against, overlaps
from viscum.specdiff import FieldChange, diff, needs_new_generation
from viscum.specfiles import BadFiles, specs_from_paths
from viscum.specread import BadSpec, from_mapping, from_toml
from viscum.spectypes import Egress, Limits, Run, Spec, Steer, Udp
from viscum.specwrite import to_mapping, to_toml, toml_value
from viscum.values import BadValue, Bytes, EgressRule, Port, Seconds

__all__ = [
    "BadFiles",
    "BadSpec",
    "BadValue",
    "Bytes",
    "Claim",
    "Egress",
    "EgressRule",
    "FieldChange",
    "Limits",
    "Overlap",
    "Port",
    "Run",
    "Seconds",
    "Spec",
    "Steer",
    "Udp",
    "check",
    "check_against",
    "diff",
    "from_mapping",
    "from_toml",
    "needs_new_generation",
    "overlaps",
    "specs_from_paths",
    "to_mapping",
    "to_toml",
    "toml_value",
]


def check(spec: Spec) -> tuple[Problem, ...]:
    """Everything wrong with a spec built in Python; one that was read has nothing wrong."""
    try:
        from_mapping(to_mapping(spec))
    except InputError as error:
        return error.problems
    return ()
