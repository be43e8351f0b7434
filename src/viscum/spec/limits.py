"""The limits that hold for a service, also where its spec names none."""

from __future__ import annotations

from msgspec.structs import replace

from viscum.spec.types import Limits, Spec
from viscum.spec.values import Bytes

# Without them a fork bomb or a memory bomb would be the whole box's. Enough for nginx, or a small
# server in Go, Python or Node; little enough for a router of 256 MB.
SANDBOX_MEMORY = Bytes(128 << 20)
SANDBOX_PROCESSES = 128


def limits_in_force(spec: Spec) -> Limits:
    """A sandboxed service always has a limit of memory and of processes."""
    limits = spec.limits
    if spec.run.sandbox == "off":
        return limits
    return replace(
        limits,
        memory=SANDBOX_MEMORY if limits.memory is None else limits.memory,
        processes=SANDBOX_PROCESSES if limits.processes is None else limits.processes,
    )
