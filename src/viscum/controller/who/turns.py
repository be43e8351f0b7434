"""How many changes a tenant may make: they all queue at the one lock of the host, and each one is
noted on the disk. The operator is not held back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from viscum.clock import now
from viscum.controller.engine import Busy
from viscum.controller.who.access import Principal
from viscum.errors import ViscumError

AT_ONCE = 4  # changes of one tenant that may wait or be made
BURST = 60  # changes in a row
RATE = 1.0  # changes a second, in the long run


class Hurried(Busy):
    """A tenant asks for more changes than it may make."""

    def __init__(self, tenant: str, what: str, after: int) -> None:
        ViscumError.__init__(
            self, f"tenant {tenant} {what}", state="nothing was changed", hint="try again later"
        )
        self.after = after


class Turns:
    """Of one controller."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._left: dict[str, tuple[float, float]] = {}  # changes left, as of when

    @contextmanager
    def turn(self, who: Principal) -> Iterator[None]:
        """One change. Raises Hurried."""
        tenant = who.tenant
        if tenant is None:
            yield
            return
        if self._open.get(tenant, 0) >= AT_ONCE:
            raise Hurried(tenant, f"has {AT_ONCE} changes under way already", 2)
        moment = now()
        left, at = self._left.get(tenant, (float(BURST), moment))
        left = min(float(BURST), left + (moment - at) * RATE)
        if left < 1:
            raise Hurried(tenant, "has made many changes", max(1, round((1 - left) / RATE)))
        self._left[tenant] = (left - 1, moment)
        self._open[tenant] = self._open.get(tenant, 0) + 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
