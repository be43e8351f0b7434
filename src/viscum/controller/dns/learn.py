"""What clients are told about declared names: which of the DNS that passes may be believed.

An answer counts only if this box sends it to the client, on the way out of the client interface,
from a server that the operator trusts, and the same client has asked this server the same question
with the same number and port just before, by the same interface.

An answer that comes *in* from the clients' side stops all belief for a while. What is on its way
through this box can't be told from an answer of a server when it leaves: its source may be forged,
or become the router's own by NAT.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from viscum.controller.dns.message import NAMES, Answer, asked, is_answer, read
from viscum.kernel.dnswatch import DNS, Datagram
from viscum.model import Address

PENDING = 512  # questions that wait for their answer; with more the oldest are forgotten
PATIENCE = 10.0  # seconds that an answer may take
SPOILED = 10.0  # seconds without belief; nothing waits so long to leave
PER_SECOND = 200.0  # messages looked at; what comes beyond waits, and is lost when that is full
READ_PER_SECOND = 20.0  # answers whose records are read, which costs most


class Bucket:
    """`rate` a second, and as many at once."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._left = rate
        self._at = 0.0

    def take(self, now: float) -> bool:
        self._left = min(self.rate, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Question(NamedTuple):
    interface: str
    client: Address
    port: int
    server: Address
    number: bytes
    name: bytes
    kind: int


class Told(NamedTuple):
    """A client was given addresses for a declared name."""

    name: str
    client: Address
    server: Address
    answer: Answer


class Listener:
    """Of all client interfaces together.

    names: the declared ones, by how questions have them; trusted: whether a server is; spoiled:
    told of an answer that came in, and for which name.
    """

    def __init__(
        self,
        trusted: Callable[[Address], bool],
        spoiled: Callable[[str, Datagram], None] = lambda name, seen: None,
    ) -> None:
        self.names: dict[bytes, str] = {}
        self._trusted = trusted
        self._spoiled = spoiled
        self._unbelieving_until = 0.0
        self._pending: OrderedDict[_Question, float] = OrderedDict()
        self._reads = Bucket(READ_PER_SECOND)

    def heard(self, interface: str, seen: Datagram, now: float) -> Told | None:
        """What is to be believed of it, if anything. Never raises, whatever it is."""
        question = asked(seen.payload)
        if question is None or question[0] not in self.names or question[1] not in NAMES:
            return None
        if not is_answer(seen.payload):
            if not seen.outgoing and seen.destination_port == DNS:
                self._asked(interface, seen, question, now)
            return None
        if seen.source_port != DNS:
            return None
        name, kind = self.names[question[0]], NAMES[question[1]]
        if not seen.outgoing:
            self._unbelieving_until = now + SPOILED
            self._spoiled(name, seen)
            return None
        key = _Question(
            interface,
            seen.destination,
            seen.destination_port,
            seen.source,
            seen.payload[:2],
            *question,
        )
        since = self._pending.pop(key, None)
        if since is None or now - since > PATIENCE or now < self._unbelieving_until:
            return None
        if not self._reads.take(now):
            return None
        answer = read(seen.payload, name, kind)
        if answer is None or answer.rcode or not answer.addresses:
            return None
        return Told(name, seen.destination, seen.source, answer)

    def _asked(
        self, interface: str, seen: Datagram, question: tuple[bytes, int], now: float
    ) -> None:
        if not self._trusted(seen.destination):
            return
        key = _Question(
            interface,
            seen.source,
            seen.source_port,
            seen.destination,
            seen.payload[:2],
            *question,
        )
        self._pending[key] = now
        self._pending.move_to_end(key)
        if len(self._pending) > PENDING:
            self._pending.popitem(last=False)
