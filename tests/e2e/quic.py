"""A QUIC echo that says who it is, by aioquic; run by path.

    python quic.py server NAME ADDRESS PORT CERTIFICATE KEY [PROTOCOL]
    python quic.py client ADDRESS PORT

The client opens one connection, and for every line on its standard input asks on a stream of its
own who answers, and prints that (or "error").
"""

from __future__ import annotations

import asyncio
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

ALPN = ["who"]
TIMEOUT = 10.0  # seconds


async def server(
    name: str, address: str, port: str, certificate: str, key: str, protocol: str = ALPN[0]
) -> None:
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=[protocol], idle_timeout=300.0
    )
    configuration.load_cert_chain(certificate, key)

    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def talk() -> None:
            await reader.readline()
            writer.write(f"{name}\n".encode())
            writer.write_eof()

        tasks.add(asyncio.create_task(talk()))

    tasks: set[asyncio.Task[None]] = set()
    await serve(address, int(port), configuration=configuration, stream_handler=answer)
    await asyncio.Event().wait()


async def client(address: str, port: str) -> None:
    configuration = QuicConfiguration(
        alpn_protocols=ALPN, verify_mode=ssl.CERT_NONE, idle_timeout=300.0
    )
    loop = asyncio.get_running_loop()
    opening = connect(address, int(port), configuration=configuration)
    async with asyncio.timeout(TIMEOUT):
        connection = await opening.__aenter__()
    try:
        while await loop.run_in_executor(None, sys.stdin.readline):
            reader, writer = await connection.create_stream()
            writer.write(b"who\n")
            writer.write_eof()
            try:
                async with asyncio.timeout(TIMEOUT):
                    said = (await reader.readline()).decode().strip()
            except (TimeoutError, ConnectionError):
                said = "error"
            print(said, flush=True)  # noqa: T201  its output is what it is for
    finally:
        connection.close()
        async with asyncio.timeout(TIMEOUT):
            await connection.wait_closed()


if __name__ == "__main__":
    asyncio.run(server(*sys.argv[2:]) if sys.argv[1] == "server" else client(*sys.argv[2:]))
