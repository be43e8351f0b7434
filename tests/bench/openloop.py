"""Clients that ask at a rate whatever the answers do, as many people do.

    python -I -S openloop.py ADDRESS PORT RATE SECONDS [SOURCE…]

Each request is a connection of its own, from the sources in turn, and is given up after 5 s. One
line a request, as it ends: `BEGUN TOOK FROM`, seconds since 1970, seconds, and who answered (an
error's name in brackets if nobody did). Ends by itself after SECONDS and the last answer.
"""

from __future__ import annotations

import asyncio
import sys
import time

PATIENCE = 5.0


async def ask(address: str, port: int, source: str | None) -> str:
    local = (source, 0) if source else None
    reader, writer = await asyncio.open_connection(address, port, local_addr=local)
    try:
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        while line := (await reader.readline()).decode().strip():
            if line.lower().startswith("x-from:"):
                return line.split()[1]
        return "[nobody]"
    finally:
        writer.close()


async def timed(address: str, port: int, source: str | None) -> None:
    begun, start = time.time(), time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            who = await ask(address, port, source)
    except (OSError, TimeoutError) as error:
        who = f"[{type(error).__name__}]"
    print(f"{begun:.3f} {time.monotonic() - start:.4f} {who}", flush=True)  # noqa: T201


async def main(address: str, port: str, rate: str, seconds: str, *sources: str) -> None:
    begun, count = time.monotonic(), 0
    asking: set[asyncio.Task[None]] = set()
    while (due := count / float(rate)) < float(seconds):
        await asyncio.sleep(begun + due - time.monotonic())
        source = sources[count % len(sources)] if sources else None
        task = asyncio.create_task(timed(address, int(port), source))
        asking.add(task)
        task.add_done_callback(asking.discard)
        count += 1
    if asking:
        await asyncio.wait(asking)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
