"""What keeps every command, and the controller, from giving a tenant more than its file allows.

The last door is `within`: no world is committed in which a tenant has more than it may, whatever
led there (a spec, a name that resolves to something else now, a restart beside what still drains).
"""

from __future__ import annotations

from viscum.errors import InputError, Problem
from viscum.names import MAX_SLOTS
from viscum.spec import Spec
from viscum.store import World
from viscum.tenancy import kept, quota, rules
from viscum.tenancy.files import Tenants, slots


class Guard:
    """Of one host's tenants."""

    def __init__(self, config_dir: str) -> None:
        self.tenants = Tenants(config_dir)
        self.config_dir = config_dir

    def named(self, service: str) -> str:
        """The tenant whose services are called so, by its file; "": they are the operator's."""
        name = service.partition("-")[0]
        return name if name in self.tenants.names() else ""

    def admit(self, name: str, spec: Spec, world: World, addresses: tuple[str, ...] = ()) -> Spec:
        """The spec as the tenant may have it, with what is imposed on it. addresses: what its
        targets resolved to, once that is known. Raises InputError with everything that is beyond
        the allowance."""
        spec = rules.imposed(spec)
        tenant = self.tenants.get(name)
        old = world.services.get(spec.name)
        problems = [*rules.problems(tenant, spec), *rules.foreign(tenant, addresses, spec)]
        if tenant.pool is not None and world.host.pool4:
            slots(tenant, world.host.pool4)
        mine = kept.files(self.config_dir, name)
        before = quota.used(world, name, mine)
        after = quota.used(world, name, mine, but=spec.name) + quota.wanted(old, spec)
        problems += quota.over(tenant, before, after)
        if problems:
            raise InputError(*dict.fromkeys(problems))
        return spec

    def within(self, before: World, after: World) -> None:
        """Whether nobody has more than before that is beyond the allowance. Raises InputError."""
        problems: list[Problem] = []
        grown: dict[str, None] = {}
        for record in after.services.values():
            old = before.services.get(record.name)
            if old is record or (old is None and not record.tenant):
                continue
            if old is not None and old.tenant != record.tenant:
                problems.append(
                    Problem(
                        "tenant",
                        record.tenant,
                        f"{record.name} is {old.tenant or 'the operator'}'s",
                        "remove it first, or choose another name",
                    )
                )
            if not record.tenant:
                continue
            grown[record.tenant] = None
            new = set(record.addresses) - set(old.addresses if old else ())
            if new:
                tenant = self.tenants.get(record.tenant)
                problems += rules.foreign(tenant, sorted(new), record.spec)
        for name in grown:
            mine = kept.files(self.config_dir, name)
            was, will = quota.used(before, name, mine), quota.used(after, name, mine)
            if any(will.exceeds(was, field) for field in was.__struct_fields__):
                problems += quota.over(self.tenants.get(name), was, will)
        if problems:
            raise InputError(*dict.fromkeys(problems))

    def barred(self, name: str, pool4: str) -> set[int]:
        """Slots that a service of the tenant ("": the operator) can't have: those of other pools;
        with a pool of its own, all others. Raises InputError if that one can't be used."""
        usable, _ = self.tenants.usable()
        if name and self.tenants.get(name).pool is not None:
            return set(range(MAX_SLOTS)).difference(slots(usable[name], pool4))
        taken: set[int] = set()
        for tenant in usable.values():
            if tenant.pool is not None and tenant.name != name:
                try:
                    taken.update(slots(tenant, pool4))
                except InputError:
                    pass  # not in this host's pool: nobody has an address of it
        return taken
