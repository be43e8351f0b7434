"""The controller's own log: every event as one line of JSON on standard error."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import msgspec

from viscum.controller.events import Event


def sink() -> Callable[[Event], None]:
    encoder = msgspec.json.Encoder()

    def write(event: Event) -> None:
        try:
            sys.stderr.buffer.write(encoder.encode(event) + b"\n")
            sys.stderr.buffer.flush()
        except OSError:
            pass  # nobody reads it; the work goes on

    return write


def trace(error: BaseException) -> None:
    """Where a fault of ours came from."""
    traceback.print_exception(error, file=sys.stderr)
