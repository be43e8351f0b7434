"""One change of the world: save what is wanted, make it so, or go back to what was wanted before.

Level-triggered: `commit` observes, plans and applies the difference, whatever an earlier command
left. A failing Op is rolled back by committing the previous world, the same way (architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from viscum import names, ops
from viscum.apply import OpFailed, apply, apply_all
from viscum.errors import InputError, Problem, ViscumError
from viscum.kernel import director, logs
from viscum.kernel.observe import observe
from viscum.model import Observed, Steering
from viscum.plan import plan, steering
from viscum.store import Store, World, remove_empty


class Change:
    """Made under the host's lock; `world` is what is wanted now."""

    def __init__(
        self,
        host: names.HostNames,
        store: Store,
        world: World,
        told: Callable[[ops.Op], None] = lambda op: None,
        attach: str = "auto",
        guard: Callable[[World, World], None] = lambda before, after: None,
    ) -> None:
        """guard: raises InputError where what was wanted may not become what is to be."""
        self.host = host
        self.store = store
        self.world = world
        self.told = told
        self.attach = attach
        self.guard = guard
        self.ended: dict[str, int] = {}  # flows that were reset, by service
        self.stuck: dict[str, str] = {}  # why what is due can't be finished, by service

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
        """Makes `world` what is wanted, and so. Raises InputError where that may not be, OpFailed
        after rolling back."""
        before = self.world
        self.guard(before, world)
        seen = self.observe()
        refuse_other_host(self.host, seen)
        steps = self.ops(world, seen, start, foreground)
        self.store.save(_with_leaving(world, before))
        self.world = world
        try:
            apply(steps, self.told)
        except OpFailed as failed:
            self.roll_back(before, failed)
            raise
        for name in before.services.keys() - world.services.keys():
            self.remove_logs(name)
        self.store.save(world)
        self.tidy()
        return seen

    def roll_back(self, before: World, failed: ViscumError) -> None:
        """Back to `before`; what could not be taken back is added to the error."""
        # A slot that was given out is not given out again at once: its namespace may linger.
        host = replace(before.host, next_slot=self.world.host.next_slot)
        before = World(host, before.services)
        left: list[str] = []

        def attempt(step: Callable[[], object]) -> None:
            try:
                step()
            except Exception as error:  # the one that began it all is the one to raise
                left.append(error.message if isinstance(error, ViscumError) else repr(error))

        attempt(lambda: self.store.save(_with_leaving(before, self.world)))
        self.world = before
        attempt(lambda: left.extend(e.message for e in apply_all(self.ops(before, self.observe()))))
        if not left:
            attempt(lambda: self.store.save(before))
        attempt(self.tidy)
        if left:
            failed.state = "taking back what was done failed too: " + "; ".join(left)
            failed.hint = failed.hint or "`viscum rm --all` tries again"
        elif not failed.state:
            failed.state = "what was begun is taken back"

    def _share(self, world: World, seen: Observed, name: str) -> Steering:
        """The services one director is to steer."""
        mine = {
            sid
            for record in world.services.values()
            if director.chosen(record.spec.director) == name
            for sid in record.sids
        }
        return tuple(s for s in steering(world, seen) if s.sid in mine)

    def remove_logs(self, name: str) -> None:
        directory = self.store.logs / name
        for path in directory.glob("*.log") if directory.is_dir() else ():
            logs.remove(str(path))
        logs.unmount_dir(str(directory))
        remove_empty(directory)

    def remove_strange_logs(self) -> None:
        """Of services that are no more: those that never started keep theirs until then."""
        directory = self.store.logs
        for path in directory.iterdir() if directory.is_dir() else ():
            if path.name not in self.world.services:
                self.remove_logs(path.name)

    def tidy(self) -> None:
        """Without services the state directory goes too."""
        if not self.world.services:
            self.store.tidy()


def refuse_other_host(host: names.HostNames, seen: Observed) -> None:
    """One network namespace has one host: two would take each other's objects for left-overs.

    Raises InputError."""
    for link in seen.links.values():
        owner, colon, label = link.alias.partition(":")
        ours = link.name.startswith(names.LINK_PREFIX) and owner.startswith("viscum")
        if ours and colon and owner != host.prefix:
            raise InputError(
                Problem(
                    "VISCUM_STATE_DIR",
                    host.state_dir,
                    f"another state directory has services in this network namespace ({label} on"
                    f" {link.name})",
                    "use that one here, or enter another namespace: "
                    f"nsenter --net={names.NETNS_DIR}/NAME viscum …",
                )
            )


def _with_leaving(world: World, before: World) -> World:
    """What the files say on the way from `before` to `world`: a service that goes is named until
    all of it is gone, so that a killed command leaves nothing that no record accounts for."""
    leaving = {
        name: replace(record, generations=(), retired=(), removing=True)
        for name, record in before.services.items()
        if name not in world.services
    }
    return World(world.host, {**world.services, **leaving})


def _links(host: names.HostNames, seen: Observed) -> tuple[str, ...]:
    return tuple(
        link.name for link in seen.links.values() if link.alias.startswith(f"{host.prefix}:")
    )
