"""Who was refused, noted in the audit log: counted first, so that a flood of it fills no log.

Once a minute there is one entry for each principal (or address, of who has not shown who it is) and
status. A tenant that is refused again and again gets fewer, and what is not told yet goes on being
counted. So do all strangers together.
"""

from __future__ import annotations

import asyncio

from viscum.clock import now
from viscum.controller.who.access import Principal
from viscum.controller.who.audit import Audit, Deed
from viscum.controller.who.turns import Ration
from viscum.errors import ViscumError

STATUSES = frozenset({401, 403, 429})
EVERY = 60.0  # seconds between two entries of the same
BURST, LATER = 60, 600.0  # entries in a row of a tenant, or of all strangers; seconds for one more
KINDS = 16  # of a tenant, or of all strangers, that are counted apart
OTHERS = "others"


class _Count:
    """Of one principal and status. what: the last one."""

    def __init__(self) -> None:
        self.count, self.what, self.since = 0, "", now()


class _Source:
    """A tenant, the host's own, or all strangers."""

    def __init__(self) -> None:
        self.ration = Ration(BURST, LATER)
        self.counts: dict[tuple[Principal, int], _Count] = {}


class Refusals:
    """The part that tells of them."""

    name = "refusals"

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self._sources: dict[str | None, _Source] = {}  # by tenant, "": the host's, None: strangers

    def count(self, who: Principal | None, peer: str, status: int, what: str) -> None:
        """what: the method and the route, never what was given: that may be a secret."""
        if status not in STATUSES:
            return
        whose = None if who is None else who.tenant or ""
        source = self._sources.setdefault(whose, _Source())
        who = who or Principal(peer, None, "viewer", "nobody")
        if (who, status) not in source.counts and len(source.counts) >= KINDS:
            who = Principal(OTHERS, who.tenant, "viewer", who.how)
        one = source.counts.setdefault((who, status), _Count())
        one.count += 1
        one.what = what

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(EVERY)
                await self.tell()
        finally:
            await self.tell(all_of_it=True)

    async def tell(self, *, all_of_it: bool = False) -> None:
        """What was counted, as far as there is a ration for it."""
        for source in list(self._sources.values()):
            for (who, status), one in list(source.counts.items()):
                if not (source.ration.take() or all_of_it):
                    break
                del source.counts[who, status]
                times = "once" if one.count == 1 else f"{one.count} times"
                said = f"{times} within {max(1, round(now() - one.since))} s, last {one.what}"
                try:
                    deed = Deed(who, "api.refused", str(status), who.tenant or "")
                    await self.audit.note(deed, said)
                except ViscumError:  # the first change says so
                    one.count += source.counts.pop((who, status), _Count()).count
                    source.counts[who, status] = one
                    return
