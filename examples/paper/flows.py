"""Clients with flows that last: connections and UDP sockets that last and ask every 20 ms,
and others that connect, ask once and leave. None ever retries. UDP flows come from FIRST and the
ports after it, each from its own: who takes the port of a flow that has ended a moment ago is that
flow, to every router on the way and to Viscum.

    python -I -S flows.py ADDRESS PORT SEED FIRST

Till its standard input is closed; then it prints a JSON list of what each flow has seen.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import socket
import sys
import time
from dataclasses import asdict, dataclass, field

LASTING, LIFE = 8, (0.5, 3.0)  # of each kind at a time; s
PAUSE, PATIENCE = 0.02, 3.0  # s between two questions; s after which one is unanswered


@dataclass
class Flow:
    """kind: tcp, udp or short (tcp, one question); who: everybody who has answered in it."""

    kind: str
    begun: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    asked: int = 0
    who: list[str] = field(default_factory=list)
    error: str = ""

    def heard(self, answer: bytes, question: bytes) -> None:
        who, _, rest = answer.partition(b" ")
        if rest != question:
            raise OSError("another answer")
        if who.decode() not in self.who:
            self.who.append(who.decode())


class Clients:
    def __init__(self, address: str, port: int, seed: int, first: int) -> None:
        self.target = (address, port)
        self.random = random.Random(seed)
        self.flows: list[Flow] = []
        self.ports = itertools.count(first)
        self.ends = asyncio.Event()

    async def run(self) -> None:
        kinds = [self.tcp] * LASTING + [self.udp] * LASTING + [self.short]
        tasks = [asyncio.create_task(self.again(kind)) for kind in kinds]
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        self.ends.set()
        await asyncio.gather(*tasks)

    async def again(self, kind: object) -> None:
        while not self.ends.is_set():
            flow = Flow(kind.__name__)  # type: ignore[attr-defined]
            try:
                await kind(flow)  # type: ignore[operator]
            except (OSError, TimeoutError) as error:
                flow.error = str(error) or type(error).__name__
            flow.ended = time.monotonic()
            self.flows.append(flow)
            await asyncio.sleep(PAUSE)

    async def tcp(self, flow: Flow, once: bool = False) -> None:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(*self.target)
        try:
            end = flow.begun + (0 if once else self.random.uniform(*LIFE))
            # one that has just connected when all end still asks: unheard, it would count as broken
            while not flow.asked or (time.monotonic() < end and not self.ends.is_set()):
                question = b"%d\n" % flow.asked
                flow.asked += 1
                writer.write(question)
                async with asyncio.timeout(PATIENCE):
                    answer = await reader.readline()
                if not answer:
                    raise OSError("closed")
                flow.heard(answer, question)
                await asyncio.sleep(PAUSE)
        finally:
            writer.close()

    async def short(self, flow: Flow) -> None:
        await self.tcp(flow, once=True)

    async def udp(self, flow: Flow) -> None:
        loop = asyncio.get_running_loop()
        end = flow.begun + self.random.uniform(*LIFE)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind(("", next(self.ports)))
            sock.connect(self.target)
            while time.monotonic() < end and not self.ends.is_set():
                question = b"%d" % flow.asked
                flow.asked += 1
                sock.send(question)
                async with asyncio.timeout(PATIENCE):
                    flow.heard(await loop.sock_recv(sock, 100), question)
                await asyncio.sleep(PAUSE)


if __name__ == "__main__":
    clients = Clients(sys.argv[1], *map(int, sys.argv[2:]))
    asyncio.run(clients.run())
    json.dump([asdict(flow) for flow in clients.flows], sys.stdout)
