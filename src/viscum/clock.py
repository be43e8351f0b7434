"""The clock of every deadline."""

from __future__ import annotations

import time


def now() -> float:
    """CLOCK_BOOTTIME, seconds: runs while the box sleeps, and is what BPF reads too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
