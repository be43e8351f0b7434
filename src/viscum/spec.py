"""Reading, checking, comparing and writing specs. No kernel, no host: plain data only."""

from __future__ import annotations

from viscum.spectypes import Egress, Limits, Run, Spec, Steer, Udp
from viscum.values import Bytes, EgressRule, Port, Seconds

__all__ = [
    "Bytes",
    "Egress",
    "EgressRule",
    "Limits",
    "Port",
    "Run",
    "Seconds",
    "Spec",
    "Steer",
    "Udp",
]
