"""The processes of a network namespace: found by the namespace, never by name."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path

NETNS_DIR = Path("/run/netns")


def processes_in(namespace: Path) -> list[int]:
    """Ids of the processes whose main thread is in the namespace (empty if there is none)."""
    try:
        wanted = os.stat(namespace)
    except FileNotFoundError:
        return []
    return [
        int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _is_in(entry, wanted)
    ]


def _is_in(pid: str, wanted: os.stat_result) -> bool:
    try:
        found = os.stat(f"/proc/{pid}/ns/net")
    except OSError:
        return False  # gone, or a zombie
    return (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)


def kill_all(namespaces: Iterable[Path], timeout: float = 10.0) -> None:
    """SIGKILL every process of these namespaces and wait until there is none.

    Raises OSError (ETIMEDOUT) if one survives the timeout, in seconds.
    """
    deadline = time.monotonic() + timeout
    for namespace in namespaces:
        while pids := processes_in(namespace):
            # children started meanwhile are found by the next round
            handles = [fd for pid in pids if (fd := _kill(pid, namespace)) is not None]
            try:
                for fd in handles:
                    left = deadline - time.monotonic()
                    if left <= 0 or not select.select([fd], [], [], left)[0]:
                        raise TimeoutError(110, "processes survive SIGKILL", str(namespace))
            finally:
                for fd in handles:
                    os.close(fd)


def _kill(pid: int, namespace: Path) -> int | None:
    """A pidfd of the killed process; the look after opening it rules out a reused number."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        if _is_in(str(pid), os.stat(namespace)):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            return fd
    except (ProcessLookupError, FileNotFoundError):
        pass
    os.close(fd)
    return None
