"""Whatever ends a play early lets it take away what it has made, but for SIGKILL (see place.py)."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable


def run(main: Callable[[], None]) -> None:
    """Exits with 128 and the signal's number, as a shell says it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    main()
