"""Whatever ends a play early lets it take away what it has made, but for SIGKILL (see place.py)."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(main: Callable[[], None]) -> None:
    """Exits with 128 and the signal's number, as a shell says it. A second signal is not heeded: it
    would end the clearing up."""
    for number in SIGNALS:
        signal.signal(number, _end)
    main()


def _end(number: int, _: object) -> NoReturn:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)
