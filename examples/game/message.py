"""What the Quake 3 protocol writes into datagrams (of its version 68, which OpenArena calls 71).

Facts as in https://www.jfedor.org/quake3/ and as the server behaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

from game.huffman import CODE, SYMBOLS, grown, packed, unpacked

OUT_OF_BAND = b"\xff\xff\xff\xff"
FRAGMENT = 1 << 31  # in a sequence number: the message comes in several datagrams
FRAGMENT_SIZE = 1300  # bytes of the message in each but the last


class Short(ValueError):
    """A message that ends before what was to be read."""


class Writer:
    """A message by the fixed code."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def bit(self, value: int) -> None:
        self._bits.append(str(value))

    def number(self, value: int, size: int = 1) -> None:
        """Of so many bytes, the lowest first."""
        self._bits += [CODE[byte] for byte in (value & (256**size - 1)).to_bytes(size, "little")]

    def text(self, text: str) -> None:
        self._bits += [CODE[byte] for byte in text.encode("latin-1") + b"\0"]

    def data(self) -> bytes:
        return packed("".join(self._bits))


class Reader:
    """The same, read."""

    def __init__(self, data: bytes) -> None:
        self._bits = unpacked(data)
        self._at = 0

    def bit(self) -> int:
        """Raises Short."""
        if self._at >= len(self._bits):
            raise Short
        self._at += 1
        return int(self._bits[self._at - 1])

    def number(self, size: int = 1) -> int:
        """Raises Short."""
        return int.from_bytes(bytes(self._byte() for _ in range(size)), "little")

    def text(self) -> str:
        """Raises Short."""
        found = bytearray()
        while byte := self._byte():
            found.append(byte)
        return found.decode("latin-1")

    def _byte(self) -> int:
        bits, start = self._bits, self._at
        for end in range(start + 2, min(start + 11, len(bits)) + 1):
            symbol = SYMBOLS.get(bits[start:end])
            if symbol is not None:
                self._at = end
                return symbol
        raise Short


def scrambled(data: bytes, start: int, key: int, command: str) -> bytes:
    """The message with all from `start` on made unreadable to who does not know the key and the
    last command that both sides have; twice gives it back."""
    result = bytearray(data)
    for at, char in zip(range(start, len(data)), _endless(command), strict=False):
        key = (key ^ (char << (at & 1))) & 0xFF
        result[at] ^= key
    return bytes(result)


def _endless(command: str) -> Iterator[int]:
    """Its characters again and again, those told differently on different sides as dots."""
    return cycle([46 if c > "\x7f" or c == "%" else ord(c) for c in command] or [0])


def info(text: str) -> dict[str, str]:
    r"""\name\value\name\value"""
    words = text.lstrip("\\").split("\\")
    return dict(zip(words[::2], words[1::2], strict=False))


def connect(values: dict[str, str | int]) -> bytes:
    """The datagram that asks to be let in."""
    told = "".join(f"\\{name}\\{value}" for name, value in values.items())
    return OUT_OF_BAND + b"connect " + grown(f'"{told}"'.encode("latin-1"))
