"""U3: what players send is what the protocol says, and what is no message is seen to be none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game.huffman import CODE, GrowingCode, grown, packed, unpacked
from game.message import Reader, Short, Writer, info, scrambled


@pytest.mark.req("U3")
def test_no_code_begins_another() -> None:
    assert len(set(CODE)) == 256
    assert not [(a, b) for a in CODE for b in CODE if a != b and b.startswith(a)]


@pytest.mark.req("U3")
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 1), st.text("a%\xff\\ "))))
def test_a_message_is_read_as_it_was_written(parts: list[tuple[int, int, str]]) -> None:
    writer = Writer()
    for number, bit, text in parts:
        writer.number(number, 4)
        writer.bit(bit)
        writer.text(text)
    reader = Reader(writer.data())
    assert [(reader.number(4), reader.bit(), reader.text()) for _ in parts] == parts


@pytest.mark.req("U3")
@given(st.binary(max_size=50))
def test_a_message_that_ends_too_soon_is_seen(data: bytes) -> None:
    with pytest.raises(Short):
        Reader(data).number(8 * len(data) + 1)


def spoken(data: bytes) -> bytes:
    """What `grown` says, heard by who knows only the code's rules."""
    size, bits = int.from_bytes(data[:2], "big"), unpacked(data[2:])
    code, found = GrowingCode(), bytearray()
    while len(found) < size:
        node = code.root
        while node.left is not None and node.right is not None:
            node, bits = (node.right if bits[0] == "1" else node.left), bits[1:]
        symbol = node.symbol
        if symbol == 256:
            symbol, bits = int(bits[:8], 2), bits[8:]
        found.append(symbol)
        code.say(symbol)
    return bytes(found)


@pytest.mark.req("U3")
@given(st.binary(min_size=1, max_size=300))
def test_the_growing_code_is_understood(data: bytes) -> None:
    assert spoken(grown(data)) == data


@pytest.mark.req("U3")
@given(st.binary(max_size=60), st.integers(0, 255), st.text("a%\xff ", max_size=5))
def test_twice_scrambled_is_as_before(data: bytes, key: int, command: str) -> None:
    once = scrambled(data, 12, key, command)
    assert once[:12] == data[:12]
    assert scrambled(once, 12, key, command) == data


@pytest.mark.req("U3")
def test_bits_fill_a_byte_from_below() -> None:
    assert packed("10000000" + "11") == b"\x01\x03"
    assert unpacked(b"\x01\x03") == "1000000011000000"


@pytest.mark.req("U3")
def test_names_and_values() -> None:
    assert info("\\sv_hostname\\edge\\mapname\\oa_dm1") == {
        "sv_hostname": "edge",
        "mapname": "oa_dm1",
    }
    assert info("") == info("\\odd") == {}
