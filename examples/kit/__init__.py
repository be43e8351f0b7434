"""What the examples share: where things are, the lab they run in, and the figures they report."""

from __future__ import annotations

from kit.figures import Figure, Figures
from kit.run import run
from kit.stage import (
    EXAMPLES,
    RADIO,
    RTT,
    WAN,
    Stage,
    await_listening,
    example_dir,
    installed,
    spec_of,
    stage,
    with_environment,
)

__all__ = [
    "EXAMPLES",
    "RADIO",
    "RTT",
    "WAN",
    "Figure",
    "Figures",
    "Stage",
    "await_listening",
    "example_dir",
    "installed",
    "run",
    "spec_of",
    "stage",
    "with_environment",
]
