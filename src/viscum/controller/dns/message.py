"""DNS messages: the question we ask, and what an answer says about one name.

Parsed by dnspython, of which only `dns.message` is loaded, and only with the first name (5 MB; its
resolver would be 18). What is read comes from whoever sends it: nothing here raises, and counts and
lengths are bounded before the parser sees them.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from dns.message import Message
    from dns.name import Name

    from viscum.model import Address

Kind = Literal["A", "AAAA"]
KINDS: tuple[Kind, ...] = ("A", "AAAA")
NUMBERS: dict[Kind, int] = {"A": 1, "AAAA": 28}
NAMES = {number: kind for kind, number in NUMBERS.items()}

MAX_LENGTH = 65535
MAX_RECORDS = 64  # of a section; an honest answer about one name has a dozen
MAX_CHAIN = 16  # CNAMEs
HEADER = 12
PAYLOAD = 1232  # EDNS: fits every path unfragmented (dnsflagday.net/2020)


class Answer(Struct, frozen=True):
    """rcode: 0 also for a name that has no such address; ttl: the least on the way to the
    addresses, seconds; truncated: to be asked for again by TCP."""

    rcode: int
    addresses: tuple[Address, ...] = ()
    ttl: float = 0.0
    truncated: bool = False


def wire_name(name: str) -> bytes:
    """A host name as questions have it, in small letters."""
    labels = name.rstrip(".").lower().encode().split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def question(name: str, kind: Kind, number: int) -> bytes:
    """A query, recursion desired, that takes answers of PAYLOAD bytes."""
    header = number.to_bytes(2, "big") + b"\x01\x00" + b"\0\1\0\0\0\0\0\1"
    edns = b"\0\0\x29" + PAYLOAD.to_bytes(2, "big") + bytes(6)
    return header + wire_name(name) + NUMBERS[kind].to_bytes(2, "big") + b"\0\1" + edns


def asked(message: bytes) -> tuple[bytes, int] | None:
    """(name in small letters, type) of a message's only question, of class IN; None: it has another
    number of them, or is none. Cheap, and no more than the length of a name is looked at."""
    if len(message) < HEADER + 5 or message[4:6] != b"\0\1":
        return None
    end = message.find(b"\0", HEADER, HEADER + 255)
    if end < 0 or message[end + 3 : end + 5] != b"\0\1":
        return None
    return message[HEADER : end + 1].lower(), int.from_bytes(message[end + 1 : end + 3], "big")


def is_answer(message: bytes) -> bool:
    return len(message) > 2 and message[2] & 0xF8 == 0x80


def read(message: bytes, name: str, kind: Kind) -> Answer | None:
    """What it says of the name; None if it is not an answer to that question, or no message.

    Only records count that the question's name leads to by the CNAMEs of the answer section.
    """
    if not is_answer(message) or asked(message) != (wire_name(name), NUMBERS[kind]):
        return None
    counts = (int.from_bytes(message[at : at + 2], "big") for at in (6, 8, 10))
    if len(message) > MAX_LENGTH or max(counts) > MAX_RECORDS:
        return None
    if message[2] & 0x02:
        return Answer(0, truncated=True)
    try:
        import dns.message
        import dns.name

        parsed = dns.message.from_wire(message, ignore_trailing=True)
        return Answer(int(parsed.rcode()), *_followed(parsed, dns.name.from_text(name), kind))
    except Exception:  # a parser of what anybody sends: whatever it is, it is no answer
        return None


def _followed(parsed: Message, at: Name, kind: Kind) -> tuple[tuple[Address, ...], float]:
    """(addresses, ttl)."""
    from dns.rdataclass import RdataClass
    from dns.rdatatype import RdataType

    ttl = float(2**31)
    internet, wanted = RdataClass.IN, RdataType.make(NUMBERS[kind])
    for _ in range(MAX_CHAIN):
        rrset = parsed.get_rrset(parsed.answer, at, internet, wanted)
        if rrset is not None:
            found = {ip_address(record.address) for record in rrset}
            return tuple(sorted(found, key=str)), min(ttl, float(rrset.ttl))
        alias = parsed.get_rrset(parsed.answer, at, internet, RdataType.CNAME)
        if alias is None or len(alias) != 1:
            break
        at, ttl = alias[0].target, min(ttl, float(alias.ttl))
    return (), 0.0
