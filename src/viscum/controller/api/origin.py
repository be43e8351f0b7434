"""Pages of others, in the browser of somebody who is let in, may not act in their name.

A bearer token is sent only by who knows it. But the Unix socket (reached by a browser through
`ssh -L`) and a client certificate speak for themselves, whichever page makes the browser ask.
"""

from __future__ import annotations

from collections.abc import Mapping

from viscum.controller.api.route import Forbidden

LOOPBACK = frozenset({"", "localhost", "127.0.0.1", "[::1]"})


def require_own(headers: Mapping[str, str], *, by_socket: bool) -> None:
    """Raises Forbidden for a request that another site's page has made.

    Sec-Fetch-Site tells, of browsers since 2023; Origin, of older ones where something is changed.
    A page whose own name was made to lead to a forwarded socket (DNS rebinding) gives its name.
    """
    host = headers.get("host", "")
    site = headers.get("sec-fetch-site", "none")
    origin = headers.get("origin")
    if site not in ("none", "same-origin") or (
        origin is not None and origin.partition("://")[2] != host
    ):
        raise Forbidden(
            "a page of another site has asked for this",
            state="nothing was changed",
            hint="open the console itself",
        )
    if by_socket and _name(host) not in LOOPBACK:
        raise Forbidden(
            f"the Unix socket does not answer to the name {host[:80]!r}",
            state="nothing was changed",
            hint="use localhost, as in http://localhost/v1/services",
        )


def _name(host: str) -> str:
    """Without the port, in small letters."""
    head, colon, port = host.rpartition(":")
    return (head if colon and port.isdigit() else host).lower()
