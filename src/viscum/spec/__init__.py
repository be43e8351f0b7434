"""Specs: reading, checking, comparing and writing them. No kernel, no host: plain data only.

The front door to this package: types (the fields), values, read, rules, write, changes, files,
doc. Whatever could not be used raises InputError with every problem at once.
"""

from __future__ import annotations

from viscum.errors import InputError, Problem
from viscum.spec.changes import FieldChange, diff, needs_new_generation
from viscum.spec.files import BadFiles, specs_from_paths
from viscum.spec.limits import limits_in_force
from viscum.spec.read import BadSpec, from_mapping, from_toml, read_table
from viscum.spec.rules import Claim, Overlap, check_against, overlaps
from viscum.spec.types import Egress, Guard, Limits, Probe, Run, Spec, Steer, TargetNames, Udp
from viscum.spec.values import BadValue, Bytes, EgressRule, Port, Seconds
from viscum.spec.write import to_mapping, to_toml, toml_value

__all__ = [
    "BadFiles",
    "BadSpec",
    "BadValue",
    "Bytes",
    "Claim",
    "Egress",
    "EgressRule",
    "FieldChange",
    "Guard",
    "Limits",
    "Overlap",
    "Port",
    "Probe",
    "Run",
    "Seconds",
    "Spec",
    "Steer",
    "TargetNames",
    "Udp",
    "check",
    "check_against",
    "diff",
    "from_mapping",
    "from_toml",
    "limits_in_force",
    "needs_new_generation",
    "overlaps",
    "read_table",
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
