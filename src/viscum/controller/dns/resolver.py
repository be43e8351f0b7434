"""Asks this box's name servers, without a resolver library: UDP from a port of the kernel's choice,
a random number, and TCP for what is truncated."""

from __future__ import annotations

import asyncio
import os

from viscum.controller.dns.message import KINDS, Answer, Kind, question, read
from viscum.errors import ViscumError

PORT = 53
TIMEOUT = 2.0  # seconds for one server
ROUNDS = 2
ATTEMPTS, RETRY = 3, 1.0  # seconds, doubled: for a family that fails, before the other goes on
MAX_STRANGE = 100  # datagrams that answer nothing we asked, until the server is given up
RCODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
NXDOMAIN = 3


class Unanswered(ViscumError):
    """No server gave an answer that says something about the name."""


async def ask(name: str, kind: Kind, servers: tuple[str, ...]) -> Answer:
    """The first answer that says that there are addresses, or none (NXDOMAIN or nothing of this
    kind). Raises Unanswered, with every server's reason."""
    try:
        import dns.message  # noqa: F401  `read` needs it
    except ImportError:
        raise Unanswered(
            f"{name} {kind}: dnspython is not installed; "
            "next: in Viscum's checkout, make setup, or pip install '.[controller]'"
        ) from None
    why: dict[str, str] = {}
    for _ in range(ROUNDS):
        for server in servers:
            try:
                async with asyncio.timeout(TIMEOUT):
                    answer = await _ask(server, name, kind)
            except TimeoutError:
                why[server] = "does not answer"
                continue
            except OSError as error:
                why[server] = error.strerror or str(error)
                continue
            if answer.rcode in (0, NXDOMAIN):
                return answer
            why[server] = RCODES.get(answer.rcode, f"rcode {answer.rcode}")
    reasons = ", ".join(f"{server}: {reason}" for server, reason in why.items())
    raise Unanswered(f"{name} {kind}: {reasons or 'there is no name server to ask'}")


async def ask_both(
    name: str, servers: tuple[str, ...], limit: asyncio.Semaphore
) -> tuple[dict[Kind, Answer], str]:
    """A and AAAA: what there is, and why something is not. A family that fails is tried again.

    That one family has addresses and the other says that there is no such name is a fault of some
    servers (RFC 4074): nothing can be concluded from it.
    """
    answers: dict[Kind, Answer] = {}
    why = ""
    for attempt in range(ATTEMPTS):
        missing = [kind for kind in KINDS if kind not in answers]
        async with limit:
            results = await asyncio.gather(
                *(ask(name, kind, servers) for kind in missing), return_exceptions=True
            )
        failed = []
        for kind, result in zip(missing, results, strict=True):
            if isinstance(result, Answer):
                answers[kind] = result
            elif isinstance(result, Unanswered):
                failed.append(result.message)
            else:
                raise result
        why = "; ".join(failed)
        if not failed:
            break
        if attempt < ATTEMPTS - 1:
            await asyncio.sleep(RETRY * 2**attempt)
    if any(answer.addresses for answer in answers.values()):
        for kind, answer in list(answers.items()):
            if answer.rcode:
                del answers[kind]
                why = why or f"{name} {kind}: NXDOMAIN, but it has addresses"
    return answers, why


async def _ask(server: str, name: str, kind: Kind) -> Answer:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    number = int.from_bytes(os.urandom(2), "big")
    asked = question(name, kind, number)
    # Connected: the kernel takes datagrams of this server's port only, and tells of errors.
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: _Waiting(number, name, kind), remote_addr=(server, PORT)
    )
    try:
        transport.sendto(asked)
        answer = await protocol.answer
    finally:
        transport.close()
    return await _by_tcp(server, asked, name, kind) if answer.truncated else answer


class _Waiting(asyncio.DatagramProtocol):
    """Until the answer has come; what answers nothing we asked is overlooked."""

    def __init__(self, number: int, name: str, kind: Kind) -> None:
        self.number = number.to_bytes(2, "big")
        self.name, self.kind = name, kind
        self.strange = 0
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self.answer.done():
            return
        found = read(data, self.name, self.kind) if data[:2] == self.number else None
        if found is not None:
            self.answer.set_result(found)
            return
        self.strange += 1
        if self.strange > MAX_STRANGE:
            self.answer.set_exception(OSError(0, "sends what was not asked for"))

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _by_tcp(server: str, asked: bytes, name: str, kind: Kind) -> Answer:
    """Raises OSError."""
    reader, writer = await asyncio.open_connection(server, PORT)
    try:
        writer.write(len(asked).to_bytes(2, "big") + asked)
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    except asyncio.IncompleteReadError:
        raise OSError(0, "ends the connection half-way") from None
    finally:
        writer.close()
    answer = read(data, name, kind) if data[:2] == asked[:2] else None
    if answer is None or answer.truncated:
        raise OSError(0, "answers by TCP with what can't be read")
    return answer
