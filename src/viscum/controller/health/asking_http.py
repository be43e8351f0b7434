"""Asking over HTTP, plain or by TLS: one GET, by a connection of its own.

Redirects are not followed: the server has answered, and what it points to is not this server.
Certificates are not verified: what is asked is whether this server, reached over its own loopback,
answers; whether its name and chain please a client is not in its power to mend (docs/health.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar

from viscum.controller.health.asking import MOST, Failed, Talk
from viscum.kernel.prober import Sock, Sockets

if TYPE_CHECKING:
    from ssl import SSLContext

T = TypeVar("T")

END = b"\r\n\r\n"
SHOWN = 40  # bytes of an answer that an error shows
BLOCK = 16384


async def ask(talk: Talk, sockets: Sockets) -> None:
    """Raises Failed."""
    sock = await talk.connected(sockets)
    loop = asyncio.get_running_loop()
    name = talk.probe.host or talk.steer.targets[0].partition("/")[0]
    try:
        if talk.probe.type == "https":
            tls = await _handshake(talk, sock, name)
            receive: Callable[[], Awaitable[bytes]] = tls.receive
            talk.doing = "did not read the request"
            await tls.send(_request(talk, name))
        else:
            receive = lambda: loop.sock_recv(sock, MOST)  # noqa: E731
            talk.doing = "accepted a connection, but did not read the request"
            await loop.sock_sendall(sock, _request(talk, name))
        talk.doing = "accepted a connection, but did not answer"
        await _answer(talk, receive)
    except OSError as error:  # ssl.SSLError is one
        raise Failed(f"broke the connection off: {error.strerror or error}") from None


def _request(talk: Talk, name: str) -> bytes:
    if talk.probe.host is None:  # what is given is sent as it is
        name = f"[{name}]" if ":" in name else name
        usual = 443 if talk.probe.type == "https" else 80
        name += "" if talk.port == usual else f":{talk.port}"
    return (
        f"GET {talk.probe.path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: viscum-probe\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    ).encode()


# ---- the answer ------------------------------------------------------------------------------


async def _answer(talk: Talk, receive: Callable[[], Awaitable[bytes]]) -> None:
    answer, first = bytearray(), 0  # where the head of what is read begins
    status, end = 100, 0
    while status < 200:  # 100, 102, 103: more is to come
        end = await _head(talk, receive, answer, first)
        status = _status(bytes(answer[first : first + SHOWN]))
        first = end + len(END)
    if not 200 <= status <= 399:
        raise Failed(f"answered {status}")
    if talk.probe.expect is None:
        return
    body = answer[first:]
    head = bytes(answer[:first]).lower()
    if await talk.until_expected(_bounded(receive, head, body), body):
        return
    if b"\r\ntransfer-encoding: chunked" in head and talk.probe.expect.encode() in _joined(body):
        return
    raise Failed(
        f"answered {status}, but {talk.probe.expect!r} is not in the first {MOST >> 10} KB of it"
    )


async def _head(
    talk: Talk, receive: Callable[[], Awaitable[bytes]], answer: bytearray, first: int
) -> int:
    """Where the empty line after the head is. Reads no more than it has to."""
    start = first
    while (end := answer.find(END, start)) < 0:
        if len(answer) >= MOST:
            raise Failed(f"the head of its answer is longer than {MOST >> 10} KB")
        start = max(first, len(answer) - len(END))
        block = await receive()
        if not block:
            what = "closed the connection in the middle of its answer"
            raise Failed(what if answer else "closed the connection without an answer")
        talk.doing = "did not finish the head of its answer"
        answer += block[: MOST - len(answer)]
        if not b"HTTP/1.".startswith(bytes(answer[first : first + 7])):
            raise Failed(f"answered something that is not HTTP: {_shown(answer[first:])}")
    return end


def _status(line: bytes) -> int:
    words = line.split(b"\r\n")[0].split(b" ")
    if len(words) >= 2 and len(words[1]) == 3 and words[1].isdigit():
        return int(words[1])
    raise Failed(f"answered something that is not HTTP: {_shown(line)}")


def _shown(said: bytes | bytearray) -> str:
    text = said[:SHOWN].decode("ascii", "backslashreplace")
    return repr(text + ("…" if len(said) > SHOWN else ""))


def _bounded(
    receive: Callable[[], Awaitable[bytes]], head: bytes, body: bytearray
) -> Callable[[], Awaitable[bytes]]:
    """`receive`, which ends where the answer does, though the server keep the connection."""
    _, given, rest = head.partition(b"\r\ncontent-length:")
    digits = rest.split(b"\r\n")[0].strip()
    length = int(digits) if given and digits.isdigit() and len(digits) < 19 else None
    chunked = b"\r\ntransfer-encoding: chunked" in head

    async def more() -> bytes:
        over = body.endswith(b"0\r\n\r\n") if chunked else length is not None
        if over and (chunked or len(body) >= (length or 0)):
            return b""
        return await receive()

    return more


def _joined(body: bytearray) -> bytes:
    """The chunks of a body, RFC 9112 7.1, as far as they are well-formed."""
    found, at = bytearray(), 0
    with suppress(ValueError):
        while (end := body.find(b"\r\n", at)) > 0:
            size = int(body[at:end].split(b";")[0], 16)
            if size <= 0:
                break
            found += body[end + 2 : end + 2 + size]
            at = end + 2 + size + 2
    return bytes(found)


# ---- TLS -------------------------------------------------------------------------------------


class _Tls:
    """A connection through TLS, without a buffer of more than one record."""

    def __init__(self, sock: Sock, name: str) -> None:
        import ssl

        self._wants: type[Exception] = ssl.SSLWantReadError
        self._ends = (ssl.SSLZeroReturnError, ssl.SSLEOFError)
        self.sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _context().wrap_bio(self._in, self._out, server_hostname=name)

    async def handshake(self) -> None:
        await self._do(self._tls.do_handshake)

    async def send(self, data: bytes) -> None:
        await self._do(lambda: self._tls.write(data))

    async def receive(self) -> bytes:
        try:
            return await self._do(lambda: self._tls.read(BLOCK))
        except self._ends:  # many servers end without saying so
            return b""

    async def _do(self, step: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        while True:
            try:
                result = step()
            except self._wants:
                await self._flush()
                if block := await loop.sock_recv(self.sock, BLOCK):
                    self._in.write(block)
                else:
                    self._in.write_eof()
                continue
            await self._flush()
            return result

    async def _flush(self) -> None:
        if data := self._out.read():
            await asyncio.get_running_loop().sock_sendall(self.sock, data)


async def _handshake(talk: Talk, sock: Sock, name: str) -> _Tls:
    talk.doing = "accepted a connection, but did not finish the TLS handshake"
    try:
        tls = _Tls(sock, _server_name(name))
        await tls.handshake()
    except ValueError as error:
        raise Failed(f"can't be asked for as {name!r}: {error}") from None
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise Failed(f"failed the TLS handshake: {reason}") from None
    return tls


def _server_name(host: str) -> str:
    """A Host header's without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    try:
        ip_address(host)
    except ValueError:
        return host.partition(":")[0]
    return host


@cache
def _context() -> SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # nor is the strength of its key judged
    return context
