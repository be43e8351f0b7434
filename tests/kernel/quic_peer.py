"""A QUIC server or client in a process of its own (aioquic), for test_datapath_quic.py.

`server ADDRESS NAME CERT KEY` prints "ready" and answers every stream with "NAME:what was sent".
`client ADDRESS` reads lines "LABEL TEXT": a new label is a new connection; prints the answers.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from contextlib import AsyncExitStack

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration


async def server(address: str, name: str, cert: str, key: str) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["test"])
    configuration.load_cert_chain(cert, key)

    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def run() -> None:
            writer.write(name.encode() + b":" + await reader.read())
            writer.write_eof()

        tasks.add(asyncio.get_running_loop().create_task(run()))

    tasks: set[asyncio.Task[None]] = set()
    await serve(address, 443, configuration=configuration, stream_handler=answer)
    print("ready", flush=True)  # noqa: T201
    await asyncio.Event().wait()


async def client(address: str) -> None:
    loop = asyncio.get_running_loop()
    connections: dict[str, QuicConnectionProtocol] = {}
    configuration = QuicConfiguration(alpn_protocols=["test"], verify_mode=ssl.CERT_NONE)
    stack = AsyncExitStack()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        label, text = line.split()
        if label not in connections:
            opening = connect(address, 443, configuration=configuration)
            connections[label] = await stack.enter_async_context(opening)
        reader, writer = await connections[label].create_stream()
        writer.write(text.encode())
        writer.write_eof()
        print((await reader.read()).decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(server(*sys.argv[2:]) if sys.argv[1] == "server" else client(*sys.argv[2:]))
