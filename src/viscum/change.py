"""One change of the world: save what is wanted, make it so, or go back to what was wanted before.

Level-triggered: `commit` observes, plans and applies the difference, whatever an earlier command
left. A failing Op is rolled back by committing the previous world, the same way (architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from viscum import names, ops
from viscum.apply import OpFailed, apply, apply_all
from viscum.errors import ViscumError
from viscum.kernel import director
from viscum.kernel.observe import observe
from viscum.model import Observed, Steering
from viscum.plan import plan, steering
from viscum.store import Store, World


class Change:
    """Made under the host's lock; `world` is what is wanted now."""

    def __init__(
        self,
        host: names.HostNames,
        store: Store,
        world: World,
        told: Callable[[ops.Op], None] = lambda op: None,
        attach: str = "auto",
    ) -> None:
        self.host = host
        self.store = store
        self.world = world
        self.told = told
        self.attach = attach

    def observe(self) -> Observed:
        return observe(self.host)

    def ops(
        self,
        world: World,
        seen: Observed,
        start: frozenset[str] = frozenset(),
        foreground: bool = False,
    ) -> tuple[ops.Op, ...]:
        """What would be done to make `world` so."""
        return plan(
            world,
            seen,
            self.host,
            self.store.logs,
            [
                op
                for by in director.installed(attach=self.attach)
                for op in by.plan(self._share(world, seen, by.name), _links(self.host, seen))
            ],
            start,
            foreground,
        )

    def commit(
        self, world: World, start: frozenset[str] = frozenset(), foreground: bool = False
    ) -> Observed:
        """Makes `world` what is wanted, and so. Raises OpFailed after rolling back."""
        before = self.world
        self.store.save(world)
        self.world = world
        seen = self.observe()
        try:
            apply(self.ops(world, seen, start, foreground), self.told)
        except OpFailed as failed:
            self.roll_back(before, failed)
            raise
        self.tidy()
        return seen

    def roll_back(self, before: World, failed: ViscumError) -> None:
        """Back to `before`; what could not be taken back is added to the error."""
        self.store.save(before)
        self.world = before
        left: Sequence[ViscumError] = apply_all(self.ops(before, self.observe()))
        self.tidy()
        if left:
            failed.state = "taking back what was done failed too: " + "; ".join(
                e.message for e in left
            )
            failed.hint = failed.hint or "`viscum rm --all` tries again"
        elif not failed.state:
            failed.state = "everything this command did was taken back"

    def _share(self, world: World, seen: Observed, name: str) -> Steering:
        """The services one director is to steer."""
        mine = {
            sid
            for record in world.services.values()
            if director.chosen(record.spec.director) == name
            for sid in record.sids
        }
        return tuple(s for s in steering(world, seen) if s.sid in mine)

    def tidy(self) -> None:
        """Without services the state directory goes too."""
        if not self.world.services:
            self.store.tidy()


def _links(host: names.HostNames, seen: Observed) -> tuple[str, ...]:
    return tuple(
        link.name for link in seen.links.values() if link.alias.startswith(f"{host.prefix}:")
    )
