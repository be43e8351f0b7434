"""The C library's allocator, for a process that lives long."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # malloc.h of glibc


def one_arena() -> None:
    """All threads share one heap: what one of them frees another can use. Each has one of its own
    otherwise, of which little is ever given back. Nothing happens where there is no mallopt(3)
    (musl has one heap anyway)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_ARENA_MAX, 1)
