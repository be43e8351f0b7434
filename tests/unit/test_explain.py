"""Packets to ask a director about, from text."""

from __future__ import annotations

import socket
import struct

import pytest

from viscum.kernel.director.explain import parse

pytestmark = pytest.mark.req("N14")


def test_tcp4() -> None:
    frame = parse("tcp 10.1.0.2:40000 > 203.0.113.7:443 syn").frame("02:00:00:00:00:07")
    assert frame[:6] == bytes((2, 0, 0, 0, 0, 7))
    assert frame[12:14] == b"\x08\x00"
    assert (frame[14], frame[23]) == (0x45, 6)
    assert frame[26:34] == socket.inet_aton("10.1.0.2") + socket.inet_aton("203.0.113.7")
    words = struct.unpack("!10H", frame[14:34])
    total = sum(words)
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF, "header checksum"
    assert struct.unpack("!HH", frame[34:38]) == (40000, 443)
    assert frame[47] == 0x02


def test_udp6_and_quic() -> None:
    frame = parse("udp [2001:db8::2]:5000 > [2001:db8::7]:443 quic").frame("")
    assert frame[12:14] == b"\x86\xdd"
    assert frame[20] == 17
    assert frame[22:54] == bytes.fromhex(
        "20010db8" + "00" * 11 + "02" + "20010db8" + "00" * 11 + "07"
    )
    assert struct.unpack("!HHH", frame[54:60]) == (5000, 443, 1208)
    assert frame[62] & 0xF0 == 0xC0


def test_icmp() -> None:
    assert parse("icmp 10.0.0.1 > 10.0.0.2").frame("")[34] == 8
    assert parse("icmp 2001:db8::1 > 2001:db8::2").frame("")[54] == 128


def test_flags_and_defaults() -> None:
    assert parse("tcp 10.0.0.1 > 10.0.0.2:80").flags == {"syn"}
    assert parse("tcp 10.0.0.1 > 10.0.0.2:80").sport == 40000
    assert parse("tcp 10.0.0.1:1 > 10.0.0.2:80 ack psh").frame("")[47] == 0x18


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected tcp"),
        ("tcp 10.0.0.1:1 10.0.0.2:80", "expected tcp"),
        ("sctp 10.0.0.1:1 > 10.0.0.2:80", "expected tcp"),
        ("tcp 10.0.0.1:1 > example.com:80", "'example.com' is no IP address"),
        ("tcp 10.0.0.1:1 > 10.0.0.2", "expected ADDRESS:PORT"),
        ("tcp 10.0.0.1:1 > 10.0.0.2:0", "expected ADDRESS:PORT"),
        ("tcp 10.0.0.1:1 > 10.0.0.2:65536", "expected ADDRESS:PORT"),
        ("tcp 10.0.0.1:x > 10.0.0.2:80", "expected ADDRESS:PORT"),
        ("tcp 2001:db8::1:1 > [2001:db8::2]:x", "expected ADDRESS:PORT"),
        ("tcp 10.0.0.1:1 > [2001:db8::2]:80", "different IP versions"),
        ("tcp 10.0.0.1:1 > 10.0.0.2:80 quic", "'quic' means nothing for tcp"),
        ("udp 10.0.0.1:1 > 10.0.0.2:80 syn", "'syn' means nothing for udp"),
        ("icmp 10.0.0.1:1 > 10.0.0.2", "icmp has no ports"),
        ("icmp 10.0.0.1 > 10.0.0.2 syn", "'syn' means nothing for icmp"),
    ],
)
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)
