"""/v1/tenants, /v1/tokens and /v1/audit: who else may use this box, and what was done."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from viscum.controller.api.context import Context
from viscum.controller.api.read import Flag
from viscum.controller.api.route import Call, Conflict, Forbidden, NotFound, Reply, Route
from viscum.controller.api.services import PageQuery
from viscum.controller.who import tenants
from viscum.controller.who.access import Principal
from viscum.controller.who.audit import Entry
from viscum.controller.who.tenants import Kept, TenantStatus
from viscum.controller.who.tokens import Credential, Kind, Role
from viscum.errors import InputError, Problem
from viscum.spec import to_mapping, to_toml
from viscum.spec.types import Duration, Text
from viscum.tenancy.quota import Usage
from viscum.tenancy.types import Tenant

SECRET = {"cache-control": "no-store"}


class TenantView(Struct, frozen=True):
    """A tenant. allowance: what its file says, with the defaults; used: of its quotas, by all its
    services; kept: for the next boot, and not there now; beyond: what of its services it may not
    have any more."""

    name: str
    allowance: dict[str, Any]
    services: tuple[str, ...]
    kept: tuple[str, ...]
    used: Usage
    beyond: tuple[Problem, ...]


class TenantPage(Struct, frozen=True):
    """In the order of their names. unusable: tenants whose files can't be used, and why."""

    items: tuple[TenantView, ...]
    next: str | None = None
    unusable: tuple[Problem, ...] = ()


class CredentialView(Struct, frozen=True, omit_defaults=True):
    """A token or a client certificate; times in seconds since 1970. token: the secret itself, told
    once, when it is made."""

    id: str
    name: str
    role: Role
    tenant: str | None
    kind: Kind
    created: float
    expires: float | None
    token: str = ""


class CredentialPage(Struct, frozen=True):
    """In the order of their ids."""

    items: tuple[CredentialView, ...]
    next: str | None = None


class AuditPage(Struct, frozen=True):
    """The newest first. next: give it as `after` to get older ones."""

    items: tuple[Entry, ...]
    next: str | None = None


class RemoveQuery(Struct, frozen=True, kw_only=True, rename="kebab"):
    with_services: Annotated[Flag, Meta(description="And its services, with all their flows.")] = (
        False
    )


class NewCredential(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A token, or a certificate that counts from now on."""

    name: Annotated[
        Text,
        Meta(
            description="Of the principal; of a certificate, the common name of its subject.",
            examples=["deployer"],
        ),
    ]
    role: Annotated[
        Literal["viewer", "operator", "admin"],
        Meta(description="viewer looks, operator changes services, admin also tokens."),
    ] = "viewer"
    tenant: Annotated[
        Text | None,
        Meta(description="Whose; none: of who asks, or the host's own.", examples=["blue"]),
    ] = None
    kind: Annotated[Literal["token", "certificate"], Meta(description="What it is.")] = "token"
    expires: Annotated[
        Duration | None,
        Meta(description="Counts for so long; none: for ever.", examples=["90d"], gt=0),
    ] = None


# ---- tenants -----------------------------------------------------------------------------------


async def listed(call: Call) -> Reply:
    query: PageQuery = call.query
    who = _who(call)
    usable, wrong = call.context.access.tenants.usable()
    mine = [t for n, t in sorted(usable.items()) if who.of_host or n == who.tenant]
    rest = [t for t in mine if query.after is None or t.name > query.after]
    shown = rest[: query.limit]
    problems = tuple(p for found in wrong.values() for p in found) if who.of_host else ()
    return Reply(
        TenantPage(
            tuple(_view(call.context, t) for t in shown),
            shown[-1].name if len(rest) > len(shown) else None,
            tuple(dict.fromkeys(problems)),
        )
    )


async def one(call: Call) -> Reply:
    return Reply(_view(call.context, _mine(call)))


def _mine(call: Call) -> Tenant:
    """Raises NotFound, also for another tenant: that it exists is not told."""
    name, who = call.path["tenant"], _who(call)
    found = call.context.access.tenants.usable()[0].get(name)
    if found is None or not (who.of_host or who.tenant == name):
        raise NotFound(f"{name[:80]}: no such tenant", hint="see /v1/tenants")
    return found


def _view(context: Context, tenant: Tenant) -> TenantView:
    status: TenantStatus = tenants.status(context.access.tenants, tenant, context.engine.world)
    allowance = to_mapping(tenant, defaults=True)
    del allowance["name"]
    return TenantView(
        tenant.name, allowance, status.services, status.kept, status.used, status.beyond
    )


async def put(call: Call) -> Reply:
    context, name = call.context, call.path["tenant"]
    body: Tenant = call.body
    if body.name not in ("", name):
        raise InputError(
            Problem("name", body.name[:80], "is not the name in the path", "leave it out")
        )
    known = context.access.tenants
    made = name not in known.names()
    text = to_toml(replace(body, name=""))
    call.noting.changes = tuple(filter(None, text.splitlines()))
    tenant = await asyncio.to_thread(tenants.put, known, name, text, context.engine.world)
    return Reply(_view(context, tenant), 201 if made else 200)


async def remove(call: Call) -> Reply:
    context, tenant = call.context, _mine(call)
    engine, access = context.engine, context.access
    query: RemoveQuery = call.query
    if query.with_services:
        mine = {c.id for c in access.tokens.all().values() if c.tenant == tenant.name}
        await asyncio.to_thread(access.tokens.remove, mine)  # nobody adds any meanwhile
        for record in list(engine.world.services.values()):
            if record.tenant == tenant.name:
                await engine.act(engine.host.begin_remove, record.name, at_once=True)
    status = _view(context, tenant)
    try:
        await engine.act(tenants.remove, engine.host, access.tenants, access.tokens, tenant.name)
    except Kept as kept:
        raise Conflict(kept.message, state=kept.state, hint=kept.hint) from None
    return Reply(status)


# ---- tokens ------------------------------------------------------------------------------------


async def tokens(call: Call) -> Reply:
    query: PageQuery = call.query
    rest = [c for c in _credentials(call) if query.after is None or c.id > query.after]
    shown = rest[: query.limit]
    return Reply(
        CredentialPage(
            tuple(map(_credential, shown)), shown[-1].id if len(rest) > len(shown) else None
        )
    )


def _credentials(call: Call) -> list[Credential]:
    who = _who(call)
    known = call.context.access.tokens.all().values()
    return sorted((c for c in known if who.of_host or c.tenant == who.tenant), key=lambda c: c.id)


def _credential(c: Credential, token: str = "") -> CredentialView:
    return CredentialView(c.id, c.name, c.role, c.tenant, c.kind, c.created, c.expires, token)


async def add_token(call: Call) -> Reply:
    """An admin of a tenant gives out tokens of its own tenant, and of no other."""
    context, body, who = call.context, call.body, _who(call)
    wanted: NewCredential = body
    tenant = who.tenant if wanted.tenant is None else wanted.tenant
    if not who.of_host and tenant != who.tenant:
        raise Forbidden(
            f"{who.name} is of tenant {who.tenant}", state="nothing was changed",
            hint="leave `tenant` out",
        )  # fmt: skip
    if wanted.kind == "certificate" and not who.of_host:
        raise Forbidden(  # a subject could be somebody else's, whose certificate comes first
            "certificates are for the operator of the box to name", state="nothing was changed",
            hint="make a token, or ask the operator",
        )  # fmt: skip
    if tenant is not None and tenant not in context.access.tenants.names():
        raise InputError(Problem("tenant", tenant[:80], "no such tenant", "see /v1/tenants"))
    lifetime = None if wanted.expires is None else float(wanted.expires)
    if not who.of_host:
        lifetime = _no_longer(call, lifetime)
    call.noting.changes = (f"role: {wanted.role}", f"kind: {wanted.kind}", f"tenant: {tenant}")
    made, secret = await asyncio.to_thread(
        context.access.tokens.add, wanted.name, wanted.role, tenant, lifetime, wanted.kind
    )
    call.noting.thing = made.name
    if tenant is not None and tenant not in context.access.tenants.names():
        await asyncio.to_thread(context.access.tokens.remove, {made.id})  # gone meanwhile
        raise InputError(Problem("tenant", tenant[:80], "no such tenant", "see /v1/tenants"))
    return Reply(_credential(made, secret), 201, SECRET | {"location": f"/v1/tokens/{made.id}"})


MOST_TOKENS = 100  # of a tenant


def _no_longer(call: Call, lifetime: float | None) -> float | None:
    """What a tenant's admin gives out ends with what it was asked for with at the latest: else one
    that has leaked would outlive its end. Raises Forbidden, for too many."""
    known = call.context.access.tokens.all()
    who = _who(call)
    if sum(c.tenant == who.tenant for c in known.values()) >= MOST_TOKENS:
        raise Forbidden(
            f"tenant {who.tenant} has {MOST_TOKENS} tokens", state="nothing was changed",
            hint="remove those that nobody uses",
        )  # fmt: skip
    own = known.get(who.id)
    if own is None or own.expires is None:
        return lifetime
    left = max(1.0, own.expires - time.time())
    return left if lifetime is None else min(lifetime, left)


async def remove_token(call: Call) -> Reply:
    number = call.path["id"]
    if number not in {c.id for c in _credentials(call)}:
        raise NotFound(f"{number[:80]}: no such token", hint="see /v1/tokens")
    gone = await asyncio.to_thread(call.context.access.tokens.remove, {number})
    if not gone:
        raise NotFound(f"{number[:80]}: was removed just now")
    call.noting.thing = gone[0].name
    return Reply(_credential(gone[0]))


# ---- audit -------------------------------------------------------------------------------------


async def audited(call: Call) -> Reply:
    query: PageQuery = call.query
    before = None
    if query.after is not None:
        if not query.after.isascii() or not query.after.isdigit():
            raise InputError(
                Problem("after", query.after[:80], "is no cursor", "give one as it was sent")
            )
        before = int(query.after[:18])
    with call.context.asking(call.who):
        found = await asyncio.to_thread(
            call.context.controller.audit.newest, query.limit + 1, _who(call).tenant, before
        )
    shown = found[-query.limit :][::-1]
    return Reply(AuditPage(tuple(shown), str(shown[-1].n) if len(found) > query.limit else None))


def _who(call: Call) -> Principal:
    assert call.who is not None
    return call.who


ROUTES = (
    Route(
        method="GET",
        path="/v1/tenants",
        role="viewer",
        summary="The tenants of this box; to a tenant itself alone.",
        handler=listed,
        query=PageQuery,
        answers={200: TenantPage},
        errors=(422,),
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant}",
        role="viewer",
        summary="One tenant: what it may have and has.",
        handler=one,
        answers={200: TenantView},
        errors=(404,),
    ),
    Route(
        method="PUT",
        path="/v1/tenants/{tenant}",
        role="admin",
        host=True,
        action="tenant.put",
        summary="Make a tenant what the body says.",
        description="Services that have more than it may have then go on; they can't be changed "
        "but to what it may have (`beyond`).",
        handler=put,
        body=Tenant,
        answers={200: TenantView, 201: TenantView},
        errors=(422,),
    ),
    Route(
        method="DELETE",
        path="/v1/tenants/{tenant}",
        role="admin",
        host=True,
        action="tenant.remove",
        summary="Take a tenant away, with every token of it.",
        handler=remove,
        query=RemoveQuery,
        answers={200: TenantView},
        errors=(404, 409, 422),
    ),
    Route(
        method="GET",
        path="/v1/tokens",
        role="admin",
        summary="The tokens and certificates that count or have counted: never a secret.",
        handler=tokens,
        query=PageQuery,
        answers={200: CredentialPage},
        errors=(422,),
    ),
    Route(
        method="POST",
        path="/v1/tokens",
        role="admin",
        action="token.add",
        summary="Make a token, and tell it once.",
        handler=add_token,
        body=NewCredential,
        answers={201: CredentialView},
        errors=(422,),
    ),
    Route(
        method="DELETE",
        path="/v1/tokens/{id}",
        role="admin",
        action="token.remove",
        summary="Take a token away; it counts no more at once, and its streams end.",
        handler=remove_token,
        answers={200: CredentialView},
        errors=(404,),
    ),
    Route(
        method="GET",
        path="/v1/audit",
        role="admin",
        summary="Who changed what, the newest first.",
        handler=audited,
        query=PageQuery,
        answers={200: AuditPage},
        errors=(422,),
    ),
)
