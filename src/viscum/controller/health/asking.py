"""How a server is asked, by each type of probe: what has to happen, and how long is waited.

Whatever it answers, or does not, ends within the probe's timeout and 64 KB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor

from viscum.clock import now
from viscum.controller.engine import Engine
from viscum.kernel import prober
from viscum.kernel.cgroup import Group
from viscum.kernel.prober import Beside, Done, Running, Sock, Sockets
from viscum.plan import Instance
from viscum.spec import Probe

MOST = 65536  # bytes of an answer that are read
STARTERS = 4  # commands that are being started at once, of each tenant one
START = 5.0  # seconds that this may take; a group may have no processor time for it


class Failed(Exception):
    """Not healthy: says why, in words."""


class Talk:
    """One exchange with one instance. doing: for the error, should time be up now."""

    def __init__(self, i: Instance) -> None:
        self.probe: Probe = i.record.spec.probe
        self.steer = i.record.spec.steer
        self.port = port(i)
        self.doing = "did not accept a connection"

    async def connected(self, sockets: Sockets) -> Sock:
        """At the first address that does not refuse: a health port may be 127.0.0.1's alone."""
        for address, sock in sockets:
            try:
                await asyncio.get_running_loop().sock_connect(sock, (address, self.port))
                return sock
            except ConnectionRefusedError:
                continue
            except OSError as error:
                raise Failed(f"can't be connected to: {error.strerror or error}") from None
        raise Failed(f"nothing listens on {self.port}/tcp")

    async def until_expected(
        self, receive: Callable[[], Awaitable[bytes]], answer: bytearray
    ) -> bool:
        """Reads on until `answer` contains what is expected; False if it ends without."""
        expected, start = (self.probe.expect or "").encode(), 0
        while answer.find(expected, start) < 0:
            if len(answer) >= MOST:
                return False
            if answer:
                self.doing = f"did not answer with {self.probe.expect!r}"
            start = max(0, len(answer) - len(expected))
            block = await receive()
            if not block:
                return False
            answer += block[: MOST - len(answer)]
        return True


def port(i: Instance) -> int:
    """The probe's, or the first of the spec's that fits (spec/rules.py: there is one)."""
    probe = i.record.spec.probe
    proto = "udp" if probe.type == "udp" else "tcp"
    first = next((p.first for p in i.record.spec.steer.ports if p.proto == proto), 0)
    return probe.port or first


class Asker:
    """Asks instances of one host. The threads only start commands; nothing waits in them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._starters: ThreadPoolExecutor | None = None
        self._one: dict[str, asyncio.Lock] = {}  # by tenant

    async def ask(self, i: Instance) -> float:
        """Asks once, by the service's probe; how long the answer took (s). Raises Failed."""
        probe = i.record.spec.probe
        begun = now()
        if probe.type == "exec":
            done = await self.command(i, probe.command, float(probe.timeout))
            if not done.ok:
                raise Failed(": ".join([done.why, *done.output.splitlines()[-1:]]))
            return now() - begun
        make = prober.datagrams if probe.type == "udp" else prober.streams
        try:
            sockets = await self.engine.look(make, i.netns, prober.places(i.record.addresses))
        except OSError as error:
            raise Failed(f"can't be asked: {error.strerror or error}") from None
        talk, begun = Talk(i), now()
        try:
            async with asyncio.timeout(float(probe.timeout)):
                if probe.type in ("http", "https"):
                    from viscum.controller.health import asking_http

                    await asking_http.ask(talk, sockets)
                else:
                    await (_udp if probe.type == "udp" else _tcp)(talk, sockets)
        except TimeoutError:
            raise Failed(f"{talk.doing} within {probe.timeout}") from None
        finally:
            for _, sock in sockets:
                sock.close()
        return now() - begun

    async def command(self, i: Instance, argv: tuple[str, ...], timeout: float) -> Done:
        """Runs it beside the instance's server, for at most `timeout` seconds."""
        end = asyncio.get_running_loop().time() + timeout
        try:
            running = await self._in_turn(i, argv, min(timeout, START))
        except ProcessLookupError:
            return Done(False, "no server runs", server_ended=True)
        except OSError as error:
            return Done(False, prober.in_words(argv, error), hopeless=True)
        with running:
            try:
                async with asyncio.timeout_at(end):
                    while (done := running.look()) is None:
                        await _readable(running.fds)
            except TimeoutError:
                done = running.give_up(timeout)
        return done

    async def _in_turn(self, i: Instance, argv: tuple[str, ...], timeout: float) -> Running:
        if not (tenant := i.record.tenant):
            return await self._started(i, argv, timeout)
        async with self._one.setdefault(tenant, asyncio.Lock()):
            return await self._started(i, argv, timeout)

    async def _started(self, i: Instance, argv: tuple[str, ...], timeout: float) -> Running:
        if self._starters is None:
            self._starters = ThreadPoolExecutor(STARTERS, "viscum-probe")
        uid = self.engine.host.names.uid(i.slot)
        beside = Beside(Group(i.cgroup), i.generation.spec.run, uid)
        future = self._starters.submit(Running, beside, argv, timeout)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(_unwanted)
            raise

    def close(self) -> None:
        if self._starters is not None:
            self._starters.shutdown(wait=True, cancel_futures=True)
            self._starters = None


def _unwanted(future: Future[Running]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()


async def _readable(fds: tuple[int, ...]) -> None:
    """Until one of them is."""
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    for fd in fds:
        loop.add_reader(fd, woken.set)
    try:
        await woken.wait()
    finally:
        for fd in fds:
            loop.remove_reader(fd)


async def _tcp(talk: Talk, sockets: Sockets) -> None:
    sock, probe, answer = await talk.connected(sockets), talk.probe, bytearray()
    loop = asyncio.get_running_loop()
    talk.doing = "accepted a connection, but did not read"
    try:
        if probe.send is not None:
            await loop.sock_sendall(sock, probe.send.encode())
        talk.doing = "accepted a connection, but did not answer"
        if probe.expect is None or await talk.until_expected(
            lambda: loop.sock_recv(sock, MOST), answer
        ):
            return
    except OSError as error:
        raise Failed(f"broke the connection off: {error.strerror or error}") from None
    if not answer:
        raise Failed("accepted a connection, and closed it without an answer")
    raise Failed(f"{probe.expect!r} is not in the first {MOST >> 10} KB of its answer")


async def _udp(talk: Talk, sockets: Sockets) -> None:
    loop = asyncio.get_running_loop()
    probe, talk.doing = talk.probe, "did not answer"
    expected = (probe.expect or "").encode()
    for address, sock in sockets:
        try:
            await loop.sock_sendto(sock, (probe.send or "").encode(), (address, talk.port))
            while True:
                answer, sender = await loop.sock_recvfrom(sock, MOST)
                if sender[1] != talk.port:
                    continue
                if expected in answer:
                    return
                talk.doing = f"did not answer with {probe.expect!r}"
        except ConnectionRefusedError:
            continue
        except OSError as error:
            raise Failed(f"can't be asked: {error.strerror or error}") from None
    raise Failed(f"nothing listens on {talk.port}/udp")
