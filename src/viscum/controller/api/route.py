"""What a route is: all that serving it and documenting it needs to know."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from viscum.controller.who.audit import Noting
from viscum.errors import ViscumError

if TYPE_CHECKING:
    from viscum.controller.api.context import Context
    from viscum.controller.who.access import Principal

#: Who may call it at least. "anyone": also who has not shown who it is.
Role = Literal["anyone", "viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = ("anyone", "viewer", "operator", "admin")

JSON = "application/json"
EVENTS = "text/event-stream"


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No keys at all."""


@dataclass(frozen=True, slots=True)
class Text:
    """An answer that is not JSON."""

    media: str
    words: str = ""


@dataclass(frozen=True, slots=True)
class Plain:
    """A body that its handler reads itself, and its JSON Schema."""

    schema: dict[str, Any]


@dataclass(slots=True)
class Call:
    """One request, read and allowed: what a handler gets."""

    context: Context
    who: Principal | None
    path: Mapping[str, str]
    query: Any
    body: Any
    headers: Mapping[str, str]
    request: str = ""
    noting: Noting = field(default_factory=Noting)  # what the audit log is told of it
    noted: bool = False  # whether it is told


@dataclass(slots=True)
class Reply:
    """An answer. body: what is encoded as JSON; bytes are sent as they are."""

    body: object = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    media: str = JSON


@dataclass(slots=True)
class Stream:
    """An answer that goes on: chunks of server-sent events, until the client goes."""

    chunks: AsyncGenerator[bytes, None]


Handler = Callable[[Call], Awaitable[Reply | Stream]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path.

    role: of the principal, at least; host: only for who is no tenant's; query, body: tables read
    as a spec's are (body None: there is none); answers: by status, a Struct, a Text or None
    (empty); errors: the statuses this route may answer with beside those every route may;
    documented: whether it is in the OpenAPI document (files of the console are not).
    """

    method: Literal["GET", "PUT", "POST", "DELETE"]
    path: str
    role: Role
    summary: str
    handler: Handler
    description: str = ""
    host: bool = False
    query: type[Struct] = Nothing
    body: type[Struct] | Plain | None = None
    answers: Mapping[int, Any] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    action: str | None = ""  # how the audit log calls what it changes; None: nothing is changed
    request_headers: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    documented: bool = True

    def __post_init__(self) -> None:
        assert self.method == "GET" or self.action != "", f"{self.method} {self.path}: action?"


class Refused(ViscumError):
    """Answered with this status; nothing was changed."""

    status = 400

    def __init__(self, message: str, *, state: str = "", hint: str = "", after: int = 0) -> None:
        super().__init__(message, state=state, hint=hint)
        self.after = after  # seconds after which to try again


class Malformed(Refused):
    status = 400


class Unauthenticated(Refused):
    status = 401


class Forbidden(Refused):
    status = 403


class NotFound(Refused):
    status = 404


class Conflict(Refused):
    status = 409


class Differs(Refused):
    """If-Match or If-None-Match."""

    status = 412


class TooLarge(Refused):
    status = 413


class NotJson(Refused):
    status = 415


class TooMany(Refused):
    status = 429
