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
BURST, EVERY = 60, 1.0  # changes in a row; seconds for one more
# In the long run fewer are noted, so that a tenant can't push others' entries out of the audit log.
NOTED_BURST, NOTED_EVERY = 500, 60.0


class Ration:
    """So many in a row, and in the long run one every so many seconds."""

    def __init__(self, burst: int, every: float) -> None:
        self.burst, self.every = burst, every
        self._left, self._at = float(burst), now()

    def wait(self) -> float:
        """Seconds until there is one; 0: there is."""
        moment = now()
        self._left = min(float(self.burst), self._left + (moment - self._at) / self.every)
        self._at = moment
        return max(0.0, (1 - self._left) * self.every)

    def take(self) -> bool:
        """Takes one, if there is one."""
        if self.wait() > 0:
            return False
        self._left -= 1
        return True


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
        self._rations: dict[str, tuple[Ration, Ration]] = {}

    @contextmanager
    def turn(self, who: Principal, *, noted: bool = True) -> Iterator[None]:
        """One change, or a look at what one would do, which is not noted. Raises Hurried."""
        tenant = who.tenant
        if tenant is None:
            yield
            return
        if self._open.get(tenant, 0) >= AT_ONCE:
            raise Hurried(tenant, f"has {AT_ONCE} changes under way already", 2)
        if tenant not in self._rations:
            self._rations[tenant] = Ration(BURST, EVERY), Ration(NOTED_BURST, NOTED_EVERY)
        rations = self._rations[tenant] if noted else self._rations[tenant][:1]
        wait = max(ration.wait() for ration in rations)
        if wait > 0:
            raise Hurried(tenant, "has made many changes", max(1, round(wait)))
        for ration in rations:
            ration.take()
        self._open[tenant] = self._open.get(tenant, 0) + 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
