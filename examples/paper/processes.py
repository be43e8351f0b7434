"""What a service runs: finding it, killing it and nothing else, what it costs."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from pathlib import Path

from kit import Stage


def pids(scene: Stage, service: str) -> list[int]:
    """Of every process in the namespaces of a service."""
    said = json.loads(scene.viscum("status", service, "--json").stdout)
    first = [i["pid"] for g in said["generations"] for i in g["instances"] if i["pid"]]
    return [pid for one in first for pid in (one, *below(one))]


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            pass  # the thread is gone meanwhile
    return found


def below(pid: int) -> list[int]:
    """Its children and theirs."""
    return [one for child in children(pid) for one in (child, *below(child)) if not has_ended(one)]


def has_ended(pid: int) -> bool:
    """Also of one that waits for its parent (a zombie): it has no program any more."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return True
    return False


def kill_service(scene: Stage, service: str) -> tuple[float, float]:
    """SIGKILL for each; when the first was sent and when the last was dead (CLOCK_MONOTONIC, s)."""
    handles = [os.pidfd_open(pid) for pid in reversed(pids(scene, service))]
    begun = time.monotonic()
    for handle in handles:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    for handle in handles:
        select.select([handle], [], [])
        os.close(handle)
    return begun, time.monotonic()
