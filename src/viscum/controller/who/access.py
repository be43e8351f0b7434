"""Who asks, what they see and what they may: the one place the API asks before it does anything.

A principal is of the host (tenant None: the operator's own people) or of one tenant. What is a
stranger's is answered as if it were not there.
"""

from __future__ import annotations

import grp
from collections.abc import Collection
from typing import Literal

from msgspec import Struct

from viscum.controller.who.tokens import Credential, Role, Tokens
from viscum.errors import InputError, Problem, ViscumError
from viscum.spec import Spec
from viscum.store import World
from viscum.tenancy import rules
from viscum.tenancy.guard import Guard

How = Literal["socket", "token", "certificate", "command", "outside", "nobody"]
RANK: dict[Role, int] = {"viewer": 0, "operator": 1, "admin": 2}


class Principal(Struct, frozen=True):
    """Who asks. how: by what it was recognised; id: of the token or certificate, "" without."""

    name: str
    tenant: str | None
    role: Role
    how: How
    id: str = ""

    @property
    def of_host(self) -> bool:
        return self.tenant is None


#: Whoever used a command on the box: root, and more can't be told.
OUTSIDE = Principal("root", None, "admin", "outside")


class Denied(ViscumError):
    """The principal may not do it (403)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, state="nothing was changed", hint=hint)


class Access:
    """Of one host. Files are read again when they have changed."""

    def __init__(self, config_dir: str, group: str = "viscum") -> None:
        self.guard = Guard(config_dir)
        self.tenants = self.guard.tenants
        self.tokens = Tokens(config_dir)
        self.group = group

    # ---- who it is

    def by_token(self, token: str) -> Principal | None:
        return self._principal(self.tokens.by_token(token), "token")

    def by_certificate(self, subject: str) -> Principal | None:
        """By the common name of a subject that TLS has verified."""
        return self._principal(self.tokens.by_certificate(subject), "certificate")

    def by_socket(self, uid: int, groups: Collection[int]) -> Principal | None:
        """By the peer's user and groups (numbers, its own and the supplementary ones)."""
        if uid == 0:
            return Principal("root", None, "admin", "socket")
        try:
            member = grp.getgrnam(self.group).gr_gid in groups
        except KeyError:
            member = False
        return Principal(f"uid {uid}", None, "operator", "socket") if member else None

    def valid(self, principal: Principal) -> bool:
        """Whether what it came with still counts: asked again and again while a stream is open."""
        if principal.how == "socket":
            return True
        return self._principal(self.tokens.by_id(principal.id), principal.how) == principal

    def _principal(self, known: Credential | None, how: How) -> Principal | None:
        """None also for who speaks for a tenant that is no more."""
        if known is None or (known.tenant is not None and known.tenant not in self.tenants.names()):
            return None
        return Principal(known.name, known.tenant, known.role, how, known.id)

    # ---- what it sees, and may

    def sees(self, principal: Principal, owner: str) -> bool:
        """owner: of a service or an event; "" is the operator's own."""
        return principal.of_host or (owner != "" and principal.tenant == owner)

    def require(self, principal: Principal, role: Role) -> None:
        """Raises Denied below `role`: viewer reads, operator changes services, admin also tenants
        and tokens (of its own tenant, if it is of one)."""
        if RANK[principal.role] < RANK[role]:
            raise Denied(
                f"{principal.name} is {principal.role}, and this needs {role}",
                "ask who gave you the token for another",
            )

    def owner(self, principal: Principal, name: str, world: World) -> str:
        """Of whom the service `name` is, or will be if this principal makes it."""
        record = world.services.get(name)
        if record is not None:
            return record.tenant
        return principal.tenant or self.guard.named(name)

    def admit(self, principal: Principal, spec: Spec, world: World) -> Spec:
        """The spec as it may be applied: with what is imposed on a tenant. Raises Denied, and
        InputError with everything that is beyond the tenant's allowance.

        What names resolve to is seen only when it is applied: `Host` checks that (`tenancy`).
        """
        self.require(principal, "operator")
        tenant = principal.tenant
        if tenant is not None and not rules.owns_service(tenant, spec.name):
            # The same whether there is such a service or not: that is not for it to know.
            raise InputError(rules.not_its_name(tenant, spec.name))
        owner = self.owner(principal, spec.name, world)
        if not self.sees(principal, owner):  # only the operator can have taken it
            raise InputError(
                Problem(
                    "name",
                    spec.name,
                    "is not to be had",
                    f"choose another, beginning with {tenant}-",
                )
            )
        if owner == "":
            return spec
        if not principal.of_host and owner in self.tenants.usable()[1]:
            raise ViscumError(  # what is wrong may name other tenants
                f"the settings of tenant {owner} can't be used just now",
                state="nothing was changed; what runs goes on",
                hint="tell the operator of this box, who sees what is wrong with them",
            )
        return self.guard.admit(owner, spec, world)
