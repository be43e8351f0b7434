"""A client of the controller's API for tests: plain http.client, over the Unix socket or TLS."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from e2e import echo
from e2e.daemon import Daemon
from viscum.lab import CLOUD4, Lab


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def etag(self) -> str:
        return self.headers["etag"]

    @property
    def fields(self) -> list[str]:
        """The places that a problem names."""
        assert self.headers["content-type"] == "application/problem+json", self.raw
        return [p["field"] for p in self.json.get("problems", ())]


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float = 30) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class _Tls(http.client.HTTPConnection):
    """From inside the access point's namespace."""

    def __init__(self, client: TlsClient, timeout: float = 30) -> None:
        super().__init__("localhost", timeout=timeout)
        self.client = client

    def connect(self) -> None:
        raw = echo.within(
            self.client.lab, "ap", lambda: socket.create_connection(self.client.at, self.timeout)
        )
        self.sock = self.client.tls.wrap_socket(raw, server_hostname="localhost")


class Client:
    """On the Unix socket."""

    def __init__(self, where: Path | str, token: str = "") -> None:
        self.where = str(where)
        self.token = token

    def connection(self, timeout: float = 30) -> http.client.HTTPConnection:
        return _Connection(self.where, timeout)

    def __call__(self, method: str, path: str, body: Any = None, /, **headers: str) -> Answer:
        """body: bytes as they are, everything else as JSON. Header names with '_' for '-'."""
        connection = self.connection()
        try:
            connection.request(method, path, _encoded(body), self.headers(headers, body))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self("GET", path, **headers)

    def put(self, path: str, body: Any, **headers: str) -> Answer:
        return self("PUT", path, body, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self("POST", path, body, **headers)

    def delete(self, path: str, **headers: str) -> Answer:
        return self("DELETE", path, **headers)

    def headers(self, given: dict[str, str], body: Any = None) -> dict[str, str]:
        found = {key.replace("_", "-"): value for key, value in given.items()}
        if body is not None:
            found.setdefault("content-type", "application/json")
        if self.token:
            found.setdefault("authorization", f"Bearer {self.token}")
        return found

    @contextmanager
    def stream(self, path: str, **headers: str) -> Iterator[Stream]:
        """A stream of server-sent events; the connection is closed at the end."""
        connection = self.connection()
        try:
            connection.request("GET", path, headers=self.headers(headers))
            response = connection.getresponse()
            assert response.status == 200, response.read()
            assert response.headers["content-type"] == "text/event-stream"
            yield Stream(response)
        finally:
            connection.close()


class TlsClient(Client):
    """On TCP; `tls` says whom it trusts, and may hold a certificate."""

    def __init__(
        self,
        lab: Lab,
        tls: ssl.SSLContext,
        token: str = "",
        at: tuple[str, int] = ("127.0.0.1", 7443),
    ) -> None:
        super().__init__("", token)
        self.lab, self.tls, self.at = lab, tls, at

    def connection(self, timeout: float = 30) -> http.client.HTTPConnection:
        return _Tls(self, timeout)


class Sent(NamedTuple):
    """One server-sent event."""

    event: str
    id: str
    data: Any


class Stream:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response

    def __iter__(self) -> Iterator[Sent]:
        return self

    def __next__(self) -> Sent:
        """Waits for it."""
        event, number, data = "message", "", []
        while True:
            line = self.response.readline().decode()
            if not line:
                raise StopIteration
            key, _, value = line.rstrip("\n").partition(": ")
            if key == "event":
                event = value
            elif key == "id":
                number = value
            elif key == "data":
                data.append(value)
            elif not key and data:
                return Sent(event, number, json.loads("\n".join(data)))

    def until(self, kind: str) -> Any:
        """The data of the next event of that kind."""
        for sent in self:
            if sent.data.get("kind") == kind:
                return sent.data
        raise AssertionError(f"the stream ended before {kind}")


def _encoded(body: Any) -> bytes | None:
    return body if body is None or isinstance(body, bytes) else json.dumps(body).encode()


def client(daemon: Daemon, token: str = "") -> Client:
    """Of the Unix socket, once it is there."""
    daemon.wait("api.listens")
    return Client(daemon.lab.state_dir / "api.sock", token)


def web(port: int = 80, target: str = CLOUD4, **more: Any) -> dict[str, Any]:
    """A spec of a cheap server."""
    return {
        "command": ["busybox", "httpd", "-f", "-p", str(port)],
        "steer": {"interfaces": ["wlan0"], "targets": [target], "ports": [f"{port}/tcp"]},
        **more,
    }
