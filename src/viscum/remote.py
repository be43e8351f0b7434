"""A controller's API from the other side: for the commands that are given `--host`.

Plain http.client, over the controller's Unix socket or TLS. What the controller refuses is raised
as what the same command would raise on the box itself.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from msgspec import Struct

from viscum.errors import InputError, Problem, ViscumError
from viscum.kernel import endpoint

PORT = 7443
TIMEOUT = 90.0  # seconds; a server may take its start-timeout until it listens


class Place(Struct, frozen=True):
    """Where a controller is, and what is shown to it. socket: a path; else host and port of TLS.

    ca: who signs its certificate (none: whom this box trusts); certificate, key: of this client.
    """

    socket: str = ""
    host: str = ""
    port: int = PORT
    token: str = ""
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def __str__(self) -> str:
        return self.socket or f"{self.host}:{self.port}"


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: Any


class Sent(NamedTuple):
    """One server-sent event."""

    event: str
    id: str
    data: Any


class Refused(ViscumError):
    """What the controller answered instead; log: what the server said last."""

    def __init__(self, status: int, said: dict[str, Any]) -> None:
        message = str(said.get("detail") or said.get("title") or f"the controller said {status}")
        super().__init__(message, state=str(said.get("state", "")), hint=str(said.get("hint", "")))
        self.status = status
        self.log: tuple[str, ...] = tuple(map(str, said.get("log", ())))


def place(url: str) -> tuple[str, str, int]:
    """(socket, host, port) of unix:///PATH or https://HOST[:PORT]. Raises InputError."""
    fix = f"write unix:///run/viscum/api.sock or https://router.example.com:{PORT}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError(Problem("--host", url, "is no URL", fix)) from None
    if parts.query or parts.fragment or parts.username:
        raise InputError(Problem("--host", url, "has more than a place", fix))
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return parts.path, "", 0
    if parts.scheme == "http":
        raise InputError(Problem("--host", url, "is not encrypted, and tokens are secret", fix))
    if parts.scheme == "https" and parts.hostname and parts.path in ("", "/"):
        return "", parts.hostname, port or PORT
    raise InputError(Problem("--host", url, "is not where a controller can be", fix))


class Client:
    """Of one controller. A connection for each request: commands are short."""

    def __init__(self, where: Place) -> None:
        self.where = where
        self._tls = None if where.socket else _tls(where)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Raises InputError for what the controller can't use, Refused for other refusals and
        ViscumError where there is none."""
        with self._sent(method, path, body, query, headers, TIMEOUT) as response:
            raw = response.read()
            found = _decoded(raw) if raw else None
            if response.status >= 400:
                raise _refusal(response.status, found)
            return Answer(response.status, response.headers, found)

    def pages(self, path: str, query: dict[str, Any] | None = None) -> Iterator[Any]:
        """Every item of a list that comes in pages."""
        after: dict[str, Any] = {}
        while True:
            page = self.request("GET", path, query={**(query or {}), **after}).body
            yield from page["items"]
            if not page["next"]:
                return
            after = {"after": page["next"]}

    def stream(
        self, path: str, query: dict[str, Any] | None = None, *, timeout: float = 60.0
    ) -> Iterator[Sent]:
        """Server-sent events, until the controller ends it; it says something every 15 seconds."""
        with self._sent("GET", path, None, query, None, timeout) as response:
            if response.status >= 400:
                raise _refusal(response.status, _decoded(response.read()))
            event, number, data = "message", "", list[str]()
            while raw := response.readline():
                line = raw.decode(errors="replace").rstrip("\r\n")
                key, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not line:
                    if data:
                        yield Sent(event, number, json.loads("\n".join(data)))
                    event, data = "message", []
                elif key == "data":
                    data.append(value)
                elif key == "event":
                    event = value
                elif key == "id":
                    number = value

    @contextmanager
    def _sent(
        self,
        method: str,
        path: str,
        body: Any,
        query: dict[str, Any] | None,
        headers: dict[str, str] | None,
        timeout: float,
    ) -> Iterator[http.client.HTTPResponse]:
        given = {"accept": "*/*"} | (headers or {})
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            given["content-type"] = "application/json"
        if self.where.token:
            given["authorization"] = f"Bearer {self.where.token}"
        asked = {k: v for k, v in (query or {}).items() if v is not None}
        target = f"{path}?{urlencode(asked)}" if asked else path
        connection = self._connection(timeout)
        try:
            connection.request(method, target, data, given)
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._tls is None:
            return _UnixConnection(self.where.socket, timeout)
        return http.client.HTTPSConnection(
            self.where.host, self.where.port, timeout=timeout, context=self._tls
        )

    def _unreachable(self, error: Exception) -> ViscumError:
        hint = "is the controller running there, and is [api] listen set in its controller.toml?"
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted: {error.verify_message}"
            hint = "give --ca FILE: who has signed it"
        elif isinstance(error, TimeoutError):
            why = "it does not answer"
        elif self.where.socket:
            hint = "is the controller (viscumd) running? Its socket is for root and its group"
        return ViscumError(f"the controller at {self.where}: {why}", hint=hint)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path, self._limit = path, timeout

    def connect(self) -> None:
        self.sock = endpoint.connect_unix(self._path, self._limit)


def _tls(where: Place) -> ssl.SSLContext:
    """Raises InputError."""
    field, value = "--ca", where.ca or ""
    try:
        made = ssl.create_default_context(cafile=where.ca)
        if where.certificate is not None:
            field, value = "--cert", where.certificate
            made.load_cert_chain(where.certificate, where.key)
    except OSError as error:
        raise InputError(
            Problem(field, value, f"can't be used: {error.strerror or error}", "give a PEM file")
        ) from None
    return made


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        raise ViscumError(
            "what answered there speaks no JSON",
            hint="is it a Viscum controller, of this version?",
        ) from None


def _refusal(status: int, said: Any) -> ViscumError:
    said = said if isinstance(said, dict) else {}
    problems = said.get("problems") or ()
    if problems:
        return InputError(
            *(
                Problem(*(str(p.get(key, "")) for key in ("field", "value", "message", "fix")))
                for p in problems
            )
        )
    return Refused(status, said)


def path(*parts: str) -> str:
    """/v1/… of names as they are."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)
