"""Sockets, TLS and HTTP/1.1: uvicorn's protocol on h11, with the limits a public server needs.

uvicorn's own server is not used: it takes over the signals and wakes up ten times a second.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import h11
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from viscum.controller.api import problem
from viscum.controller.api.app import App
from viscum.controller.who.refusals import Refusals
from viscum.kernel import endpoint

REMOTE, LOCAL = 320, 320  # connections at a time, of TCP and of the Unix socket
HANDSHAKE, HANDSHAKES = 10.0, 256  # seconds that TLS may take to begin; so many at a time
HEAD = 10.0  # seconds within which a request's head has to be here
IDLE = 75  # seconds a connection is kept without one
HEAD_BYTES = 32 << 10
LAST = 1.0  # seconds for what an answer that is cut off still has to say


class Server:
    """What all connections share."""

    def __init__(self, app: App) -> None:
        # What is worth telling is an event; uvicorn would tell standard error.
        for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
            logging.getLogger(name).disabled = True
        self.app = app
        # Apart: whoever fills the one keeps nobody from the other.
        self.remote, self.local = ServerState(), ServerState()
        self.begun: dict[asyncio.Protocol, float] = {}  # not made yet (TLS), and since when
        self.config = Config(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=IDLE,
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        self.config.load()

    def protocol(self) -> asyncio.Protocol:
        """For a new connection of the Unix socket."""
        return self._made(self.local, LOCAL)

    def _made(self, state: ServerState, most: int) -> asyncio.Protocol:
        made = _Connection(self.config, state, {})
        made.begun, made.most = self.begun, most
        made.refusals = self.app.context.controller.refusals
        return made

    def secure(self) -> asyncio.Protocol:
        """For a new connection of TLS. Raises ConnectionRefusedError (it is closed) while too many
        others have not come further than that."""
        moment = asyncio.get_running_loop().time()
        for old in [p for p, t in self.begun.items() if moment - t > HANDSHAKE]:
            del self.begun[old]
        if len(self.begun) >= HANDSHAKES:
            raise ConnectionRefusedError
        made = self._made(self.remote, REMOTE)
        self.begun[made] = moment
        return made

    async def close(self) -> None:
        """Ends every connection, and what is being answered: who asked is told that it failed, if
        it takes that at once."""
        while True:
            tasks = [*self.local.tasks, *self.remote.tasks]
            for task in tasks:
                task.cancel()  # again while it waits for a client that does not read
            if tasks:
                await asyncio.wait(tasks, timeout=LAST)
            for connection in [*self.local.connections, *self.remote.connections]:
                connection.transport.close()
            if not (self.local.tasks or self.remote.tasks):
                break
        await self.app.context.changes.close()


class _Connection(H11Protocol):
    """One connection."""

    begun: dict[asyncio.Protocol, float]
    most: int  # connections of its kind
    refusals: Refusals
    _slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.begun.pop(self, None)
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self.refusals.count(None, self.client[0] if self.client else "", 429, "a connection")
            self._refuse(429, f"{self.most} connections are open already")
            return
        # Handed on with every request of this connection (uvicorn copies it to scope["state"]).
        try:
            self.app_state = {"abort": transport.abort} | _who(transport)
        except OSError:  # it has gone already
            transport.abort()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        self._unwatch()
        super().on_response_complete()

    def _watch(self) -> None:
        """Gives the head of a request, from its first byte on, so long; the same to what is still
        sent of one that was answered without it."""
        if self.conn.our_state not in (h11.IDLE, h11.DONE):
            self._unwatch()
        elif self._slow is None:
            self._slow = self.loop.call_later(HEAD, self._too_slow)

    def _unwatch(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _too_slow(self) -> None:
        self._slow = None
        if not self.transport.is_closing():
            self._refuse(408, f"the request was not here within {HEAD:g} s")

    def send_400_response(self, msg: str) -> None:
        """Called while h11's complaint is being handled."""
        error = sys.exc_info()[1]
        hint = getattr(error, "error_status_hint", 400)
        self._refuse(hint if hint in problem.TYPES else 400, f"this is no HTTP request: {error}")

    def _refuse(self, status: int, detail: str) -> None:
        """Answers, if nothing was yet, and closes."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            found = problem.details(status, detail, hint="see docs/api.md")
            data = msgspec.json.encode(found)
            head = [
                (b"content-type", problem.MEDIA.encode()),
                (b"content-length", str(len(data)).encode()),
                (b"connection", b"close"),
            ]
            if status == 429:
                head.append((b"retry-after", b"5"))
            for event in (
                h11.Response(status_code=status, headers=head, reason=found.title.encode()),
                h11.Data(data=data),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _who(transport: asyncio.Transport) -> dict[str, Any]:
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return {"peer": endpoint.peer(transport.get_extra_info("socket"))}
    certificate = tls.getpeercert() or {}
    names = [value for part in certificate.get("subject", ()) for key, value in part
             if key == "commonName"]  # fmt: skip
    return {"subject": names[0]} if len(names) == 1 else {}
