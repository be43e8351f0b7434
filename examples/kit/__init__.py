"""What the examples share: where things are, the lab they run in, and the figures they report."""

from __future__ import annotations

from kit.figures import Figure, Figures
from kit.stage import (
    Stage,
    await_listening,
    example_dir,
    installed,
    spec_of,
    stage,
    with_environment,
)

__all__ = [
    "Figure",
    "Figures",
    "Stage",
    "await_listening",
    "example_dir",
    "installed",
    "spec_of",
    "stage",
    "with_environment",
]
