"""A server that says who it is: every line over TCP, every datagram over UDP, is answered with NAME
and the process, then what came. NAME tells one generation of a service from the next.

    python -I -S echo.py NAME ADDRESS PORT
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, who: bytes) -> None:
        self.who = who

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, peer: Any) -> None:
        self.transport.sendto(self.who + data, peer)


async def serve(name: str, address: str, port: int) -> None:
    who = f"{name}:{os.getpid()} ".encode()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(who + line)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: Datagrams(who), local_addr=(address, port))
    server = await asyncio.start_server(talk, address, port, backlog=1000)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
