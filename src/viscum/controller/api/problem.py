"""Errors as RFC 9457 problem details."""

from __future__ import annotations

from http import HTTPStatus

from msgspec import Struct

from viscum.apply import OpFailed
from viscum.controller import log
from viscum.controller.api.route import Refused
from viscum.controller.engine import Busy
from viscum.controller.who.access import Denied
from viscum.errors import Held, InConflict, InputError, Problem, ViscumError
from viscum.start import StartFailed

MEDIA = "application/problem+json"
TYPES = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    405: "method",
    408: "too-slow",
    409: "conflict",
    412: "precondition",
    413: "too-large",
    415: "media-type",
    422: "input",
    429: "busy",
    431: "too-large",
    500: "failed",
    503: "ending",
}


class ProblemDetails(Struct, omit_defaults=True):
    """What failed (detail), what is true now (state) and what to do next (hint).

    problems: each thing wrong with what was given, with its place; log: what the server said last.
    """

    type: str
    title: str
    status: int
    detail: str = ""
    state: str = ""
    hint: str = ""
    problems: tuple[Problem, ...] = ()
    log: tuple[str, ...] = ()


def details(status: int, detail: str = "", *, state: str = "", hint: str = "") -> ProblemDetails:
    return ProblemDetails(
        type=f"urn:viscum:problem:{TYPES.get(status, 'other')}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        state=state,
        hint=hint,
    )


def of(error: Exception, *, to_tenant: bool = False) -> tuple[ProblemDetails, dict[str, str]]:
    """The problem that says `error`, and the headers that go with it.

    to_tenant: a step that failed, or a command that holds the lock, may be about others' services,
    which are not named to a tenant.
    """
    headers: dict[str, str] = {}
    if isinstance(error, InputError):
        status = 409 if isinstance(error, InConflict) else 422
        found = details(status, str(error), state="nothing was changed")
        found.problems = error.problems
        return found, headers
    if not isinstance(error, ViscumError):
        log.trace(error)
        return details(
            500, "this is a fault of viscum's", hint="please report it with the controller's log"
        ), headers
    status, after = 500, 0
    if isinstance(error, Refused):
        status, after = error.status, error.after
    elif isinstance(error, Denied):
        status = 403
    elif isinstance(error, StartFailed):
        status = 422
    elif isinstance(error, Held):
        status, after = 429, 5
    elif isinstance(error, Busy):
        status, after = 429, error.after
    if after:
        headers["retry-after"] = str(after)
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="viscum"'
    found = details(status, error.message, state=error.state, hint=error.hint)
    if to_tenant and isinstance(error, (OpFailed, Held)):
        held = isinstance(error, Held)
        found.detail = "another change is being made" if held else "the box could not make it so"
        found.state = "nothing was changed"
        found.hint = "try again" if held else "tell the operator of this box, whose log says why"
    found.log = tuple(getattr(error, "log", ()))
    return found, headers
