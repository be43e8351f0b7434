"""Packets to ask a director about: from a line of text to an Ethernet frame. Pure.

`tcp 10.1.0.2:40000 > 203.0.113.7:443 syn`, `udp [2001:db8::2]:5000 > [2001:db8::7]:443 quic`,
`icmp 10.1.0.2 > 203.0.113.7`: the way tcpdump shows them.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, ip_address

import msgspec

from viscum.model import Address

FLAGS = {"fin": 0x01, "syn": 0x02, "rst": 0x04, "psh": 0x08, "ack": 0x10}
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17}
SYNTAX = "tcp|udp|icmp CLIENT[:PORT] > TARGET[:PORT] [syn|ack|fin|rst|quic …]"

_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_QUIC_INITIAL = bytes((0xC3, 0, 0, 0, 1)) + bytes(1195)  # RFC 9000 17.2.2, version 1


class Packet(msgspec.Struct, frozen=True):
    """One packet of a client. flags: names out of FLAGS (TCP). payload: UDP's."""

    proto: str
    src: Address
    dst: Address
    sport: int = 0
    dport: int = 0
    flags: frozenset[str] = frozenset()
    seq: int = 1
    payload: bytes = b""

    def frame(self, mac: str) -> bytes:
        """To the interface with this MAC address ("" for one without, like a TUN's)."""
        destination = bytes.fromhex(mac.replace(":", "")) if mac else bytes(6)
        ethernet = (
            destination + b"\x02" + bytes(5) + struct.pack("!H", _ETHERTYPE[self.src.version])
        )
        body = self._transport()
        if isinstance(self.src, IPv6Address):
            number = 58 if self.proto == "icmp" else PROTOCOLS[self.proto]
            header = struct.pack("!IHBB", 6 << 28, len(body), number, 64)
            return ethernet + header + self.src.packed + self.dst.packed + body
        header = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0x4000, 64, PROTOCOLS[self.proto], 0,
            self.src.packed, self.dst.packed,
        )  # fmt: skip
        header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
        return ethernet + header + body

    def _transport(self) -> bytes:
        if self.proto == "tcp":
            flags = sum(FLAGS[f] for f in self.flags)
            return struct.pack(
                "!HHIIBBHHH", self.sport, self.dport, self.seq, 1, 0x50, flags, 65535, 0, 0
            )
        if self.proto == "udp":
            length = 8 + len(self.payload)
            return struct.pack("!HHHH", self.sport, self.dport, length, 0) + self.payload
        return struct.pack("!BBHHH", 8 if self.src.version == 4 else 128, 0, 0, 1, 1)


def parse(text: str) -> Packet:
    """ValueError says what is wrong with the text, in the user's words."""
    words = text.split()
    if len(words) < 4 or words[2] != ">" or words[0] not in PROTOCOLS:
        raise ValueError(f"expected {SYNTAX}")
    proto, rest = words[0], words[4:]
    src, sport = _endpoint(words[1], proto, 40000)
    dst, dport = _endpoint(words[3], proto, None)
    if src.version != dst.version:
        raise ValueError(f"{src} and {dst} are of different IP versions")
    payload = b""
    if proto == "udp":
        unknown = [w for w in rest if w != "quic"]
        payload = _QUIC_INITIAL if rest else b"?"
    else:
        unknown = [w for w in rest if proto != "tcp" or w not in FLAGS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} means nothing for {proto}: expected {SYNTAX}")
    flags = frozenset(rest or ("syn",)) if proto == "tcp" else frozenset[str]()
    return Packet(proto, src, dst, sport, dport, flags, payload=payload)


def _endpoint(text: str, proto: str, default: int | None) -> tuple[Address, int]:
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = ip_address(host)
    except ValueError:
        raise ValueError(f"{host!r} is no IP address") from None
    if proto == "icmp":
        if port:
            raise ValueError(f"{text!r}: icmp has no ports")
        return address, 0
    if not port and default is not None:
        return address, default
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r}: expected ADDRESS:PORT, IPv6 as [ADDRESS]:PORT")
    return address, int(port)


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
