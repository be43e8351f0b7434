"""What this process uses."""

from __future__ import annotations

import os
import resource
import time
from functools import cache

from msgspec import Struct

from viscum.kernel.knobs import read


class Usage(Struct, frozen=True):
    """cpu: seconds; memory: resident bytes; started: seconds since 1970."""

    cpu: float
    memory: int
    descriptors: int
    started: float


def usage() -> Usage:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(
        used.ru_utime + used.ru_stime,
        int(read("/proc/self/statm").split()[1]) * resource.getpagesize(),
        len(os.listdir("/proc/self/fd")) - 1,  # without the one that reads the directory
        _started(),
    )


@cache
def _started() -> float:
    """From the start in ticks since boot: proc_pid_stat(5), starttime (22)."""
    ticks = int(read("/proc/self/stat").rpartition(")")[2].split()[19])
    since_boot = ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
