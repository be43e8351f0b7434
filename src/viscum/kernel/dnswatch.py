"""DNS as it passes on a client interface: what clients ask, and what leaves to them as the answer.

A packet socket with a filter that runs in the kernel: only plain UDP of port 53 whose question
begins like one of the wanted names comes here, cut to SNAP bytes. It ends with whoever opened it.
Sources: packet(7), linux/filter.h, net/packet/af_packet.c (packet_rcv), net/core/dev.c
(dev_queue_xmit_nit).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

SNAP = 4096  # the largest UDP answer there is in practice; longer ones are cut, and not understood
BUFFER = 256 * 1024  # what waits beyond that is lost, without costing anybody time
WORDS = 4  # of a name, of 4 bytes each, are compared in the kernel
MAX_BLOCKS = 64  # a filter's size is limited (net.core.optmem_max); more names: all DNS comes
DNS = 53

_ETH_P_ALL = 3
_SO_ATTACH_FILTER = 26
_HOST, _OUTGOING = 0, 4  # PACKET_HOST, PACKET_OUTGOING
_PKTTYPE = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE

# BPF opcodes, linux/bpf_common.h
_LD_W_ABS, _LD_B_ABS, _LD_H_ABS = 0x20, 0x30, 0x28
_LD_W_IND, _LD_H_IND, _LD_B_IND = 0x40, 0x48, 0x50
_LDX_MSH, _LDX_IMM = 0xB1, 0x01
_AND, _OR = 0x54, 0x44
_JA, _JEQ, _JSET, _RET = 0x05, 0x15, 0x45, 0x06

Address = IPv4Address | IPv6Address


class Datagram(NamedTuple):
    """One of port 53. outgoing: it leaves this box to a client; else it came in from there."""

    outgoing: bool
    source: Address
    source_port: int
    destination: Address
    destination_port: int
    payload: bytes


class Watch:
    """One interface's, of the calling thread's network namespace. Raises OSError."""

    def __init__(self, interface: str, names: Iterable[bytes]) -> None:
        """names: as questions have them, in small letters."""
        # Without the link's header (SOCK_DGRAM), and bound only when the filter is there.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            self.names(names)
            self._socket.bind((interface, _ETH_P_ALL))
            self.ifindex = socket.if_nametoindex(interface)
        except BaseException:
            self._socket.close()
            raise

    def names(self, names: Iterable[bytes]) -> None:
        """Watches for these from now on."""
        program = filter_for(names)
        raw = b"".join(struct.pack("=HBBI", *one) for one in program)
        import ctypes

        buffer = ctypes.create_string_buffer(raw, len(raw))
        fprog = struct.pack("@HP", len(program), ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> Datagram | None:
        """The next one; None if there is none now. What can't be one is passed over.

        Raises OSError(ENETDOWN) once when the interface goes down.
        """
        while True:
            try:
                data, where = self._socket.recvfrom(SNAP)
            except (BlockingIOError, InterruptedError):
                return None
            found = datagram(data, where[2] == _OUTGOING)
            if found is not None:
                return found

    def close(self) -> None:
        self._socket.close()


def datagram(data: bytes, outgoing: bool) -> Datagram | None:
    """From the IP header on; None for what is not a whole UDP header after a plain IP one."""
    version = data[0] >> 4 if data else 0
    source: Address
    destination: Address
    if version == 4 and len(data) >= 20:
        at = 4 * (data[0] & 15)
        if data[9] != socket.IPPROTO_UDP or at < 20 or data[6] & 0x3F or data[7]:
            return None
        source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    elif version == 6 and len(data) >= 40:
        at = 40
        if data[6] != socket.IPPROTO_UDP:
            return None
        source, destination = IPv6Address(data[8:24]), IPv6Address(data[24:40])
    else:
        return None
    if len(data) < at + 8:
        return None
    sport, dport, length = struct.unpack_from("!HHH", data, at)
    if length < 8:
        return None
    return Datagram(outgoing, source, sport, destination, dport, data[at + 8 : at + length])


# ---- the filter --------------------------------------------------------------------------------


def filter_for(names: Iterable[bytes]) -> list[tuple[int, int, int, int]]:
    """The program: what of the interface's packets is worth waking anybody for.

    Answers and queries with one question of opcode 0: those that leave from port 53 or come in for
    it, and answers that come *in*: no client has those to give. Never fragments, and nothing after
    IPv6 extension headers; tagged frames belong to another interface.
    """
    blocks = sorted({_words(name) for name in names})
    if len(blocks) > MAX_BLOCKS:
        blocks = [()]
    flags, count, question = 8 + 2, 8 + 4, 8 + 12  # after the UDP header's begin, in X
    lines: list[tuple[int, str, str, int] | str] = [
        (_LD_B_ABS, "", "", 0),
        (_AND, "", "", 0xF0),
        (_JEQ, "v4", "", 0x40),
        (_JEQ, "v6", "drop", 0x60),
        "v4",
        (_LD_H_ABS, "", "", 6),
        (_JSET, "drop", "", 0x3FFF),
        (_LD_B_ABS, "", "", 9),
        (_JEQ, "", "drop", socket.IPPROTO_UDP),
        (_LDX_MSH, "", "", 0),
        (_JA, "udp", "", 0),
        "v6",
        (_LD_B_ABS, "", "", 6),
        (_JEQ, "", "drop", socket.IPPROTO_UDP),
        (_LDX_IMM, "", "", 40),
        "udp",
        (_LD_H_IND, "", "", count),
        (_JEQ, "", "drop", 1),
        (_LD_W_ABS, "", "", _PKTTYPE),
        (_JEQ, "out", "", _OUTGOING),
        (_JEQ, "", "drop", _HOST),
        (_LD_H_IND, "", "", 2),
        (_JEQ, "query", "", DNS),
        "out",
        (_LD_H_IND, "", "", 0),
        (_JEQ, "", "drop", DNS),
        (_LD_B_IND, "", "", flags),
        (_AND, "", "", 0xF8),
        (_JEQ, "names", "drop", 0x80),
        "query",
        (_LD_B_IND, "", "", flags),
        (_AND, "", "", 0xF8),
        (_JEQ, "names", "drop", 0),
        "drop",  # here, as a jump reaches 255 steps at most
        (_RET, "", "", 0),
        "names",
        *_compare(blocks, question),
        (_RET, "", "", 0),
    ]
    return _assembled(lines)


def _words(name: bytes) -> tuple[int, ...]:
    """The first whole words of a question's name. 0x20 makes a letter small, and a length, which
    is below 64, another that is compared with the same."""
    whole = min(len(name) // 4, WORDS)
    return tuple(int.from_bytes(name[4 * i : 4 * i + 4], "big") | 0x20202020 for i in range(whole))


def _compare(blocks: list[tuple[int, ...]], at: int) -> Iterator[tuple[int, str, str, int] | str]:
    """A name that agrees so far goes on for at least as long as the next word, with its type and
    class, so that no load is past the end of a message that is whole."""
    for number, words in enumerate(blocks):
        for index, word in enumerate(words):
            yield (_LD_W_IND, "", "", at + 4 * index)
            yield (_OR, "", "", 0x20202020)
            yield (_JEQ, "", f"after {number}", word)
        yield (_RET, "", "", SNAP)
        yield f"after {number}"


def _assembled(
    lines: list[tuple[int, str, str, int] | str],
) -> list[tuple[int, int, int, int]]:
    """Jumps to labels as the numbers of steps that are left out ("": none)."""
    labels: dict[str, int] = {}
    steps: list[tuple[int, str, str, int]] = []
    for line in lines:
        if isinstance(line, str):
            labels[line] = len(steps)
        else:
            steps.append(line)
    program = []
    for at, (code, yes, no, value) in enumerate(steps):
        ways = [labels[label] - at - 1 if label else 0 for label in (yes, no)]
        if any(not 0 <= way <= 255 for way in ways):
            raise OSError(errno.E2BIG, "the filter's jumps are too long")
        if code == _JA:
            program.append((code, 0, 0, ways[0]))
        else:
            program.append((code, ways[0], ways[1], value))
    return program
