"""Tenants made, changed and removed: by the commands and by the API alike.

A tenant is its file. Whatever would not hold together (two tenants with one prefix, a pool that is
not the host's) is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from viscum import hostconfig
from viscum.controller.who.tokens import Credential, Tokens
from viscum.errors import InputError, Problem, ViscumError
from viscum.host import Host
from viscum.kernel import files
from viscum.store import World
from viscum.tenancy import kept, quota, rules
from viscum.tenancy.files import Tenants, check_name, clashes, parse, slots
from viscum.tenancy.quota import Usage
from viscum.tenancy.types import Tenant


class Kept(ViscumError):
    """The tenant has services (409)."""


class TenantStatus(Struct, frozen=True):
    """A tenant, what its services use, and which of them have more than it may have now. kept: for
    the next boot, and not there now."""

    tenant: Tenant
    services: tuple[str, ...]
    kept: tuple[str, ...]
    used: Usage
    beyond: tuple[Problem, ...] = ()


def status(tenants: Tenants, tenant: Tenant, world: World) -> TenantStatus:
    mine = [r for r in world.services.values() if r.tenant == tenant.name]
    away = kept.files(tenants.directory.parent, tenant.name).keys() - world.services.keys()
    used = quota.used(world, tenant.name, away)
    beyond: list[Problem] = []
    for record in mine:
        found = [
            *rules.problems(tenant, record.spec),
            *rules.foreign(tenant, record.addresses, record.spec),
        ]
        beyond += [
            Problem(f"{record.name}: {p.field}", p.value, p.message, p.fix)
            for p in dict.fromkeys(found)
        ]
    beyond += quota.over(tenant, Usage(), used)
    services = tuple(r.name for r in mine)
    return TenantStatus(tenant, services, tuple(sorted(away)), used, tuple(beyond))


def put(tenants: Tenants, name: str, text: str, world: World, *, replace: bool = True) -> Tenant:
    """Writes the tenant's file, as it was given. Raises InputError with every problem."""
    if wrong := check_name(name):
        raise InputError(wrong)
    path = tenants.directory / f"{name}.toml"
    with files.exclusive(tenants.directory / "all"):
        if not replace and path.exists():
            raise InputError(
                Problem("NAME", name, "is a tenant already", "give --replace, or another name")
            )
        tenant = parse(name, text, name)
        others, _ = tenants.usable()
        with_it = {**others, name: tenant}
        problems = clashes(with_it, Path()).get(name, [])
        if tenant.pool is not None:
            problems += _pool(tenant, tenants.directory.parent, world)
        if problems:
            raise InputError(*problems)
        files.write_private(path, text.encode())
    return tenant


def _pool(tenant: Tenant, config_dir: Path, world: World) -> Iterable[Problem]:
    """Of a host without services whose pool is not fixed, nobody can tell yet."""
    pool = world.host.pool4 if world.services else hostconfig.read(str(config_dir)).pool
    if not pool:
        yield Problem(
            f"{tenant.name}: pool",
            str(tenant.pool),
            "can't be a part of this host's pool, which is not fixed",
            f'write pool = "…" into {config_dir / hostconfig.FILE}',
        )
        return
    try:
        slots(tenant, pool)
    except InputError as error:
        yield from error.problems


def remove(host: Host, tenants: Tenants, tokens: Tokens, name: str) -> list[Credential]:
    """Its file, and every token of it: who speaks for it is a stranger from then on. Raises Kept
    while it has services, InputError for a tenant that is not there.

    Under the host's lock: a service of it that is being made is there before, or is refused."""
    if name not in tenants.names():
        tenants.get(name)
    with host.changing(f"tenant rm {name}") as change:
        mine = [r.name for r in change.world.services.values() if r.tenant == name]
        if mine:
            raise Kept(
                f"tenant {name} has services: {', '.join(mine)}",
                state="nothing was changed",
                hint="remove them first, or all together: --with-services (with-services=true)",
            )
        (tenants.directory / f"{name}.toml").unlink(missing_ok=True)
        # Without the tenant the next boot would take them for the operator's own.
        for path in kept.files(tenants.directory.parent, name).values():
            path.rename(path.with_name(f"{path.name}.of-removed-tenant"))
    return tokens.remove({c.id for c in tokens.all().values() if c.tenant == name})
