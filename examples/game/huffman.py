"""The two Huffman codes of the Quake 3 protocol, which fill bytes from their lowest bit on.

Messages of a game use a fixed code; `connect` a growing one, which begins with no symbol at all and
learns each with its first appearance (adaptive Huffman coding: Faller, Gallager, Knuth).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ESCAPE = 256  # the growing code's "here is a new symbol, in eight plain bits"


def _fixed() -> tuple[str, ...]:
    """The bits of each byte, which the protocol lays down."""
    lines = Path(__file__).with_name("code.txt").read_text().splitlines()
    return tuple(word for line in lines if not line.startswith("#") for word in line.split())


CODE = _fixed()
SYMBOLS = {bits: symbol for symbol, bits in enumerate(CODE)}


def packed(bits: str) -> bytes:
    """The first bit is the lowest of the first byte; the last byte is filled with zeros."""
    size = (len(bits) + 7) // 8
    return int(bits[::-1] or "0", 2).to_bytes(size, "little")


def unpacked(data: bytes) -> str:
    """The reverse of `packed`."""
    return f"{int.from_bytes(data, 'little'):0{8 * len(data)}b}"[::-1] if data else ""


@dataclass(eq=False)
class Node:
    """symbol: -1 for one with children."""

    symbol: int = -1
    weight: int = 0
    parent: Node | None = None
    left: Node | None = None
    right: Node | None = None


class GrowingCode:
    """The code of `connect` after what was said so far."""

    def __init__(self) -> None:
        escape = Node(ESCAPE)
        self.root = escape
        self.leaves = {ESCAPE: escape}
        self.ranks = [escape]  # by weight, those of the same weight as the code's rules have them

    def say(self, symbol: int) -> str:
        """The symbol's bits, after which the code knows it better."""
        known = symbol in self.leaves
        bits = self._path(symbol) if known else f"{self._path(ESCAPE)}{symbol:08b}"
        if known:
            self._heavier(self.leaves[symbol])
        else:
            self._add(symbol)
        return bits

    def _path(self, symbol: int) -> str:
        bits, node = "", self.leaves[symbol]
        while node.parent:
            bits = ("1" if node.parent.right is node else "0") + bits
            node = node.parent
        return bits

    def _add(self, symbol: int) -> None:
        """The escape's place is taken by a fork of it and the new symbol."""
        escape = self.leaves[ESCAPE]
        leaf = Node(symbol, 1)
        fork = Node(weight=1, parent=escape.parent, left=escape, right=leaf)
        self._put(escape, fork)
        escape.parent = leaf.parent = fork
        self.leaves[symbol] = leaf
        self.ranks[1:1] = [leaf, fork]
        self._heavier(fork.parent)

    def _put(self, old: Node, new: Node) -> None:
        """In the tree, `new` where `old` was."""
        if old.parent is None:
            self.root = new
        elif old.parent.left is old:
            old.parent.left = new
        else:
            old.parent.right = new

    def _heavier(self, node: Node | None) -> None:
        """One more for it and all above it, each of which first takes the highest rank among
        those of its weight."""
        if node is None:
            return
        first = self.ranks.index(node)
        last = first
        while last + 1 < len(self.ranks) and self.ranks[last + 1].weight == node.weight:
            last += 1
        if last != first:
            leader = self.ranks[last]
            if leader is not node.parent:
                self._exchange(leader, node)
            self.ranks[first], self.ranks[last] = leader, node
        node.weight += 1
        if node.parent is None:
            return
        self._heavier(node.parent)
        rank = self.ranks.index(node)
        if self.ranks[rank - 1] is node.parent:
            self.ranks[rank - 1], self.ranks[rank] = node, node.parent

    def _exchange(self, one: Node, other: Node) -> None:
        """The two, with all below them, change places in the tree."""
        ours, theirs = one.parent, other.parent
        left = ours is not None and ours.left is one
        self._put(other, one)
        if ours is None:
            self.root = other
        elif left:
            ours.left = other
        else:
            ours.right = other
        one.parent, other.parent = theirs, ours


def grown(data: bytes) -> bytes:
    """By the growing code: the number of bytes in two, and the bits."""
    code = GrowingCode()
    bits = "".join(code.say(symbol) for symbol in data)
    return len(data).to_bytes(2, "big") + packed(bits) + b"\0"
