"""Who asks: by a bearer token, else by the Unix socket's peer, else by a client certificate."""

from __future__ import annotations

from collections.abc import Mapping

from viscum.controller.api.route import ROLES, Forbidden, Route, Unauthenticated
from viscum.controller.who.access import Access, Principal
from viscum.kernel.endpoint import Peer


def principal(
    access: Access, headers: Mapping[str, str], peer: Peer | None, subject: str | None
) -> Principal | None:
    """None: nobody has said who it is. Raises Unauthenticated for a token that does not count."""
    given = headers.get("authorization")
    if given is not None:
        scheme, _, token = given.partition(" ")
        found = access.by_token(token.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise Unauthenticated(
                "the Authorization header holds no token that counts here",
                hint="`Authorization: Bearer TOKEN`; it may have expired or been taken away",
            )
        return found
    if peer is not None:
        return access.by_socket(peer.uid, peer.groups)
    return access.by_certificate(subject) if subject else None


def require(who: Principal | None, route: Route) -> None:
    """The one place where a route's role is held against the principal's."""
    if route.role == "anyone":
        return
    if who is None:
        raise Unauthenticated(
            "nobody you have shown to be may do this",
            hint="give `Authorization: Bearer TOKEN`, a client certificate, or use the Unix socket "
            "as root or a member of its group",
        )
    if ROLES.index(who.role) < ROLES.index(route.role):
        raise Forbidden(
            f"{who.name} is {who.role}, and this needs {route.role}",
            state="nothing was changed",
            hint="ask an admin for another token",
        )
    if route.host and who.tenant is not None:
        raise Forbidden(
            "this is of the host, not of a tenant's", state="nothing was changed",
            hint="ask the operator of the box",
        )  # fmt: skip
