"""What would be done, without doing it: every spec checked against the box and the others, and the
steps that applying them begins with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from viscum import evolve, ops, validate
from viscum.change import Change
from viscum.errors import InputError, Problem, located
from viscum.spec import Spec

if TYPE_CHECKING:
    from viscum.host import Host


def check_all(host: Host, specs: list[Spec], sources: Mapping[str, str] | None = None) -> None:
    """Validates every spec against the box and the others, before the first is applied.

    sources: by service name, where its spec was read; problems begin with it. Raises InputError.
    """
    change = Change(host.names, host.store, host.load(), attach=host.attach)
    world, seen = host.with_pool(change), change.observe()
    problems: list[Problem] = []
    for spec in specs:
        try:
            addresses = validate.resolve(spec)
            old = world.services.get(spec.name)
            owner = host.named(spec.name) if old is None else old.tenant
            if owner:
                spec = host.guard.admit(owner, spec, world, addresses)
            validate.validate(spec, addresses, world, seen, owner)
            if old is None:
                world = evolve.create(world, spec, addresses, ())
                made = replace(world.services[spec.name], tenant=owner)
                world = world.with_record(made)  # it counts for the next one's quota
            else:
                world = world.with_record(replace(old, spec=spec, addresses=addresses))
        except InputError as error:
            source = (sources or {}).get(spec.name, spec.name)
            problems += [located(p, source) for p in error.problems]
    if problems:
        raise InputError(*problems)


def plan(
    host: Host,
    specs: list[Spec],
    sources: Mapping[str, str] | None = None,
    gone: Iterable[str] = (),
) -> tuple[ops.Op, ...]:
    """The steps that `up` of each spec would begin with, and those that take the services `gone`
    away once they have drained. Changes nothing. Raises InputError, ViscumError."""
    check_all(host, specs, sources)
    change = Change(host.names, host.store, host.load(), attach=host.attach)
    world, seen = host.with_pool(change), change.observe()
    for spec in specs:
        old = world.services.get(spec.name)
        addresses = validate.resolve(spec)
        taken = host.taken(seen, world, old.tenant if old else host.named(spec.name))
        if old is None:
            world = evolve.create(world, spec, addresses, taken)
            continue
        world = evolve.change_spec(world, old, spec, addresses, None)
        if evolve.is_upgrade(old.spec, spec):
            world = evolve.add_generation(world, world.services[spec.name], spec, taken)
    for name in gone:
        world = world.without(name)
    return change.ops(world, seen, frozenset(s.name for s in specs))
