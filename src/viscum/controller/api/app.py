"""One request, from its head to its answer: matching, who it is, reading, calling, answering."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.routing import Match, Router
from starlette.routing import Route as Path

from viscum.controller.api import auth, origin, problem, read, streams
from viscum.controller.api.context import Context
from viscum.controller.api.route import (
    EVENTS,
    JSON,
    Call,
    NotFound,
    NotJson,
    Plain,
    Refused,
    Reply,
    Route,
    Stream,
    TooLarge,
)
from viscum.controller.api.table import ROUTES
from viscum.controller.who.access import Access, Principal
from viscum.controller.who.audit import Deed

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

READ = 20.0  # seconds within which a body has to be here
WRITE = 30.0  # seconds within which a client has to take what is sent

ENDING = Reply(
    problem.details(
        503, "the controller is being ended", state="a change that had begun is finished",
        hint="ask again when the next one is there, and look first",
    ),
    503, {"retry-after": "5"}, problem.MEDIA,
)  # fmt: skip

_encoder = msgspec.json.Encoder()


class MethodNotAllowed(Refused):
    status = 405


class TooSlow(Refused):
    status = 408


class App:
    """The ASGI application."""

    def __init__(self, context: Context) -> None:
        self.context = context
        paths: dict[str, dict[str, Route]] = {}
        for route in ROUTES:
            paths.setdefault(route.path, {})[route.method] = route
        self._methods = paths
        self._router = Router([Path(path, self._nowhere) for path in paths])

    async def _nowhere(self, request: object) -> None:
        """Routes only match here; `__call__` calls."""

    async def __call__(self, scope: Scope, receive: Receive, asgi_send: Send) -> None:
        send = _Sender(scope, asgi_send)
        headers: dict[str, str] = {}
        call: Call | None = None
        what = ""
        try:
            route, path = self._match(scope)
            what = f"{route.method} {route.path}"
            call = await self._call(route, path, scope, receive, send)
            answer = await self._handled(route, call)
            if isinstance(answer, Stream):
                await self._stream(answer, call.who, scope, receive, send)
                return
        except Exception as error:
            if send.begun:
                raise
            tenant = call is not None and call.who is not None and not call.who.of_host
            found, headers = problem.of(error, to_tenant=tenant)
            if call is None or not call.noted:
                refusals = self.context.controller.refusals
                refusals.count(send.who, _peer(scope), found.status, what)
            answer = Reply(found, found.status, headers, problem.MEDIA)
            if isinstance(error, MethodNotAllowed):
                headers["allow"] = ", ".join(self._allowed(scope))
        except asyncio.CancelledError:
            if not send.begun:
                await send.reply(ENDING)
            raise
        await send.reply(answer)

    # ---- matching

    def _match(self, scope: Scope) -> tuple[Route, dict[str, str]]:
        for candidate in self._router.routes:
            match, child = candidate.matches(scope)
            if match == Match.NONE:
                continue
            methods = self._methods[candidate.path]  # type: ignore[attr-defined]
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            if method in methods:
                return methods[method], child["path_params"]
            raise MethodNotAllowed(
                f"{scope['method']} is not what {scope['path'][:200]} is for", hint="see Allow"
            )
        raise NotFound(f"there is nothing at {scope['path'][:200]}", hint="see /openapi.json")

    def _allowed(self, scope: Scope) -> list[str]:
        for candidate in self._router.routes:
            if candidate.matches(scope)[0] != Match.NONE:
                methods = list(self._methods[candidate.path])  # type: ignore[attr-defined]
                return sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
        return []

    # ---- calling

    async def _call(
        self, route: Route, path: dict[str, str], scope: Scope, receive: Receive, send: _Sender
    ) -> Call:
        """Who it is, whether the role lets it, and what it gives."""
        state = scope.get("state", {})
        headers = Headers(scope=scope)
        peer = state.get("peer")
        if route.role != "anyone":
            origin.require_own(headers, by_socket=peer is not None)
        who = auth.principal(self.context.access, headers, peer, state.get("subject"))
        send.who = who
        auth.require(who, route)
        query = read.query(route.query, scope["query_string"])
        body = None
        if route.body is not None:
            body = self._body(route, await _body(headers, receive), headers)
        return Call(self.context, who, path, query, body, headers, send.request)

    async def _handled(self, route: Route, call: Call) -> Reply | Stream:
        """What is changed is noted before and after: where that can't be, nothing is changed."""
        who = call.who
        if not route.action or who is None:
            return await route.handler(call)
        if getattr(call.query, "dry_run", False):
            with self.context.turns.turn(who, noted=False):
                return await route.handler(call)
        thing = next(iter(call.path.values()), "")
        # What a tenant tries with another's is noted as of the one who tries.
        owner = self.context.engine.tenant_of(thing) if who.of_host else who.tenant or ""
        audit, request = self.context.controller.audit, call.request
        with self.context.turns.turn(who):
            call.noted = True
            deed = Deed(who, route.action, thing, owner, request=request)
            async with audit.change(deed) as call.noting:
                return await route.handler(call)

    def _body(self, route: Route, raw: bytes, headers: Headers) -> Any:
        media = headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if raw and media != JSON:
            raise NotJson(f"the body is {media[:80]}", hint=f"send {JSON}")
        assert route.body is not None
        if isinstance(route.body, Plain):
            return read.decode(raw)
        return read.body(route.body, raw)

    # ---- answering

    async def _stream(
        self,
        answer: Stream,
        who: Principal | None,
        scope: Scope,
        receive: Receive,
        send: _Sender,
    ) -> None:
        """Until the client goes, or what it came with no longer counts."""
        access = self.context.access
        whose = "" if who is None else who.tenant or f"{who.how} {who.name}"
        with self.context.streams.one(whose, who is not None and who.of_host):
            await self._send_stream(answer, who, scope, receive, send, access)

    async def _send_stream(
        self,
        answer: Stream,
        who: Principal | None,
        scope: Scope,
        receive: Receive,
        send: _Sender,
        access: Access,
    ) -> None:
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await send.start(200, {"content-type": EVENTS, "cache-control": "no-store"})
            if scope["method"] != "HEAD":
                paced = streams.paced(answer.chunks, gone, lambda: who is None or access.valid(who))
                async for chunk in paced:
                    await send.body(chunk, more=True)
            await send.body(b"")
        finally:
            gone.cancel()
            await answer.chunks.aclose()


class _Sender:
    """The ASGI `send`, with headers that every answer has and a limit in time."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.begun = False
        self.who: Principal | None = None  # who asks, once that is known
        self._send = send
        self._abort = scope.get("state", {}).get("abort")
        self.request = secrets.token_hex(6)  # by which the audit log finds it

    async def start(self, status: int, headers: dict[str, str]) -> None:
        self.begun = True
        always = {"date": _date(), "cache-control": "no-cache", "request-id": self.request}
        headers = always | headers
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        raw.append((b"x-content-type-options", b"nosniff"))
        await self._say({"type": "http.response.start", "status": status, "headers": raw})

    async def body(self, data: bytes, *, more: bool = False) -> None:
        await self._say({"type": "http.response.body", "body": data, "more_body": more})

    async def _say(self, message: MutableMapping[str, Any]) -> None:
        """Waits until the client has taken most of what came before, of other answers too."""
        try:
            async with asyncio.timeout(WRITE):
                await self._send(message)
        except TimeoutError:
            if self._abort is not None:
                self._abort()
            raise

    async def reply(self, answer: Reply) -> None:
        data = b"" if answer.status == 304 or answer.body is None else _encoded(answer.body)
        headers = dict(answer.headers)
        if answer.status != 304:
            headers |= {"content-length": str(len(data))}
        if data:
            headers |= {"content-type": answer.media}
        if answer.status == 408:  # of 413 the body is let come for a while: else nobody reads this
            headers |= {"connection": "close"}
        await self.start(answer.status, headers)
        await self.body(data)


def _peer(scope: Scope) -> str:
    """Who has not shown who it is."""
    peer, client = scope.get("state", {}).get("peer"), scope.get("client")
    return f"uid {peer.uid}" if peer is not None else str(client[0]) if client else ""


def _encoded(body: object) -> bytes:
    return body if isinstance(body, bytes) else _encoder.encode(body)


_now = (0, "")


def _date() -> str:
    global _now
    moment = int(time.time())
    if _now[0] != moment:
        _now = (moment, formatdate(moment, usegmt=True))
    return _now[1]


async def _body(headers: Headers, receive: Receive) -> bytes:
    """Raises TooLarge, TooSlow."""
    too_large = TooLarge(
        f"the body is larger than {read.MAX_BODY} bytes", state="nothing was changed",
        hint="is it a spec at all?",
    )  # fmt: skip
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > read.MAX_BODY:
        raise too_large
    parts = bytearray()
    try:
        async with asyncio.timeout(READ):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise TooSlow("the client has gone")
                parts += message.get("body", b"")
                if len(parts) > read.MAX_BODY:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(parts)
    except TimeoutError:
        raise TooSlow(
            f"the body was not here within {READ:g} s", state="nothing was changed",
            hint="send it at once",
        ) from None  # fmt: skip


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
