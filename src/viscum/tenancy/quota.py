"""What a tenant's services use, as asked for: held against its quotas."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from msgspec import Struct

from viscum.errors import Problem
from viscum.spec import Spec, limits_in_force, needs_new_generation
from viscum.spec.values import Bytes
from viscum.store import Record, World
from viscum.tenancy.types import Tenant

LIMITED = ("cpu", "memory", "processes")


class Usage(Struct, frozen=True):
    """The sum of what instances may use; a limit that is not set counts 0 (rules refuse it)."""

    services: int = 0
    instances: int = 0
    cpu: float = 0.0
    memory: int = 0
    processes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f) + getattr(other, f) for f in self.__struct_fields__))

    def exceeds(self, other: Usage, field: str) -> bool:
        return bool(getattr(self, field) > getattr(other, field) + 1e-9)


def of(spec: Spec, instances: int) -> Usage:
    """Of a service with so many instances, of whatever generation: they all have its limits."""
    limits = limits_in_force(spec)
    return Usage(
        1,
        instances,
        (limits.cpu or 0.0) * instances,
        int(limits.memory or 0) * instances,
        (limits.processes or 0) * instances,
    )


def of_record(record: Record) -> Usage:
    """Of every generation there is, also one that drains: they really run beside each other."""
    return of(record.spec, sum(len(g.slots) for g in record.generations))


def used(world: World, tenant: str, kept: Collection[str] = (), but: str = "") -> Usage:
    """By all services of the tenant, `but` one. kept: for the next boot; also those that are not
    there now are services."""
    mine = (r for r in world.services.values() if r.tenant == tenant and r.name != but)
    away = len(set(kept) - world.services.keys() - {but})
    return sum((of_record(r) for r in mine), Usage(services=away))


def wanted(old: Record | None, spec: Spec) -> Usage:
    """By the service, once `spec` was applied to `old`, while the generations are side by side."""
    there = 0
    if old is not None and not (spec.upgrade == "replace" and needs_new_generation(old.spec, spec)):
        there = sum(len(g.slots) for g in old.generations)
    runs = old is not None and old.running and any(g.state != "draining" for g in old.generations)
    if old is None or not runs or needs_new_generation(old.spec, spec):
        there += spec.instances
    return of(spec, there)


def limits_missing(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    """A quota can only be kept where every service has a limit."""
    limits = limits_in_force(spec)
    for name in LIMITED:
        if getattr(tenant.quotas, name) is not None and getattr(limits, name) is None:
            yield Problem(
                f"limits.{name}",
                "",
                f"is missing, and tenant {tenant.name} has a quota of it",
                "set it",
            )


def over(tenant: Tenant, before: Usage, after: Usage) -> Iterable[Problem]:
    """Where `after` is more than the quota, and not less than what was before anyway."""
    for name in ("services", *LIMITED):
        quota = getattr(tenant.quotas, name)
        value = getattr(after, name)
        if quota is None or value <= quota + 1e-9 or not after.exceeds(before, name):
            continue
        field = "name" if name == "services" else f"limits.{name}"
        yield Problem(
            field,
            _words(name, value),
            f"all in all is more than tenant {tenant.name}'s quota of {_words(name, quota)}"
            + ("" if name == "services" else ", with every instance and what still drains"),
            "remove a service first (one that is kept for the next boot counts)"
            if name == "services"
            else 'lower it, wait for what drains, or write upgrade = "replace"',
        )


def _words(name: str, value: float) -> str:
    return str(Bytes(value)) if name == "memory" else f"{value:g}"
