"""An HTTP server whose requests cost processor time, one after the other as they come.
Whose client has gone meanwhile costs nothing.

    python -I -S burner.py NAME PORT MILLISECONDS [PROCESSES]

Every request of / is answered, after so much processor time, with NAME in the header X-From. A
request of /content/SIZE/SEED costs nothing and is answered with what `content` gives. Connections
are kept open if the client wants it (HTTP/1.1).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Iterator

BLOCK = 1 << 16


def content(size: int, seed: int) -> Iterator[bytes]:
    """`size` bytes that tell a lost, doubled or moved block."""
    block = random.Random(seed).randbytes(BLOCK)
    for number in range(0, size, BLOCK):
        turned = number // BLOCK % BLOCK
        yield (block[turned:] + block[:turned])[: size - number]


def burn(seconds: float) -> None:
    """Processor time, not time: who is kept waiting takes longer."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Server:
    def __init__(self, name: str, cost: float) -> None:
        self.name, self.cost = name, cost
        self.turn = asyncio.Lock()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readline():
                while (await reader.readline()).strip():
                    pass
                path = request.split()[1].decode()
                if not path.startswith("/content/"):
                    async with self.turn:
                        await asyncio.sleep(0)  # to hear of those that have gone
                        if reader.at_eof():
                            break
                        burn(self.cost)
                await self.answer(path, writer)
                if b"HTTP/1.0" in request:
                    break
        except (OSError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        size, seed = 3, 0
        if path.startswith("/content/"):
            size, seed = map(int, path.split("/")[2:4])
        head = f"HTTP/1.1 200 OK\r\nX-From: {self.name}\r\nContent-Length: {size}\r\n\r\n"
        writer.write(head.encode())
        for block in content(size, seed) if size > 3 else (b"ok\n",):
            writer.write(block)
            await writer.drain()


async def main(name: str, port: str, milliseconds: str) -> None:
    server = Server(name, float(milliseconds) / 1000)
    listening = await asyncio.start_server(
        server.talk, None, int(port), backlog=1024, reuse_port=True
    )
    await listening.serve_forever()


if __name__ == "__main__":
    for _ in range(int((*sys.argv[4:], "1")[0]) - 1):
        if os.fork() == 0:
            break
    asyncio.run(main(*sys.argv[1:4]))
