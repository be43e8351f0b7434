"""An HTTP/3 client that verifies, as curl does; run by path, in the example's environment.

    python h3get.py NAME CA-FILE TIMES

Gets https://NAME/ so often, each time by a connection of its own, and prints a JSON list of
[answer, seconds], or why the certificate was refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

TIMEOUT = 10.0  # seconds


CRYPTO = 0x100  # from there on QUIC's errors are TLS alerts, RFC 9001 4.8


def in_words(end: ConnectionTerminated) -> str:
    """Why a connection has ended: the error's or TLS alert's name, and what is said of it."""
    code, name = end.error_code, f"error {end.error_code:#x}"
    if end.frame_type is not None:  # else it is HTTP/3's own
        with contextlib.suppress(ValueError):
            known = AlertDescription(code - CRYPTO) if code >= CRYPTO else QuicErrorCode(code)
            name = known.name.lower().replace("_", " ")
    return f"{name}: {end.reason_phrase}".removesuffix(": ")


class Getting(QuicConnectionProtocol):
    """One request; `answer` holds the body of a good answer, or the error that ended it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._body = b""
        self._http = H3Connection(self._quic)  # it has to hear all that the server says

    def get(self, name: str) -> None:
        stream = self._quic.get_next_available_stream_id()
        self._http.send_headers(
            stream,
            [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", name.encode()),
             (b":path", b"/")],
            end_stream=True,
        )  # fmt: skip
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        if self.answer.done():
            return
        if isinstance(event, ConnectionTerminated):
            self.answer.set_exception(ConnectionError(in_words(event)))
            self.answer.exception()  # seen, whoever waits for it
            return
        for found in self._http.handle_event(event):
            self._take(found)

    def _take(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived) and (b":status", b"200") not in event.headers:
            self.answer.set_exception(ConnectionError("no good answer"))
        elif isinstance(event, DataReceived):
            self._body += event.data
            if event.stream_ended:
                self.answer.set_result(self._body.decode())


async def get(address: str, name: str, authority: str) -> tuple[str, float]:
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, server_name=name)
    configuration.load_verify_locations(cafile=authority)
    begun = time.monotonic()
    async with asyncio.timeout(TIMEOUT):
        # Not to wait for the connection: why there is none is told to who waits for the answer.
        async with connect(
            address, 443, configuration=configuration, create_protocol=Getting, wait_connected=False
        ) as client:
            assert isinstance(client, Getting)
            client.get(name)
            return await client.answer, time.monotonic() - begun


async def main(name: str, authority: str, times: str) -> None:
    found = await asyncio.get_running_loop().getaddrinfo(name, 443)
    address = str(found[0][4][0])  # looked up once: its time is not HTTP's
    try:
        print(json.dumps([await get(address, name, authority) for _ in range(int(times))]))
    except ConnectionError as error:
        print(json.dumps(f"refused: {error}"))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
