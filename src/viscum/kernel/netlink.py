"""One netlink socket: requests with extended acknowledgements, batches, dumps.

The kernel answers while the request is being sent (and a dump's next part while the last is being
read), so nothing here ever waits: an answer that is not there yet will never come.
Source: Documentation/userspace-api/netlink/intro.rst, linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct
from typing import NamedTuple, Self

from viscum.kernel.syscalls import in_netns

NLM_F_REQUEST = 1
NLM_F_ACK = 4
NLM_F_DUMP_INTR = 0x10
NLM_F_CAPPED = 0x100  # in an error: the request is not repeated in full
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
NLM_F_ACK_TLVS = 0x200  # in an error: attributes follow
NLA_F_NESTED = 0x8000

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12

# The acks of one send must fit the receive buffer (212,992 bytes by default, about 1,300 each).
_BATCH = 64
_DUMP_ATTEMPTS = 10

NATIVE = sys.byteorder
_HEADER = Struct("=IHHII")
_ATTR = Struct("=HH")
_S32 = Struct("=i")
_U32 = Struct("=I")


class Message(NamedTuple):
    """type, and what follows the netlink header."""

    type: int
    body: bytes


class _Request(NamedTuple):
    type: int
    flags: int
    body: bytes
    what: str


# ---- attributes ------------------------------------------------------------------------------


def attr(kind: int, value: bytes) -> bytes:
    """One attribute (struct nlattr), padded to 4 bytes."""
    length = 4 + len(value)
    return _ATTR.pack(length, kind) + value + b"\0" * (-length % 4)


def u8(kind: int, value: int) -> bytes:
    return attr(kind, bytes((value,)))


def u32(kind: int, value: int) -> bytes:
    return attr(kind, _U32.pack(value))


def s32(kind: int, value: int) -> bytes:
    return attr(kind, _S32.pack(value))


def be32(kind: int, value: int) -> bytes:
    return attr(kind, value.to_bytes(4, "big"))


def text(kind: int, value: str) -> bytes:
    return attr(kind, os.fsencode(value) + b"\0")


def nest(kind: int, *attributes: bytes) -> bytes:
    return attr(kind | NLA_F_NESTED, b"".join(attributes))


def parse_list(data: bytes) -> list[bytes]:
    """The contents of an array's attributes, in order, whatever their type."""
    found: list[bytes] = []
    offset = 0
    while offset + 4 <= len(data):
        length, _ = _ATTR.unpack_from(data, offset)
        if length < 4:
            break
        found.append(data[offset + 4 : offset + length])
        offset += (length + 3) & ~3
    return found


def parse(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from `offset` on, by type without its flags; the last of equal ones wins."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTR.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def get_u32(attributes: dict[int, bytes], kind: int, default: int = 0) -> int:
    value = attributes.get(kind)
    return int.from_bytes(value[:4], NATIVE) if value else default


def get_s32(attributes: dict[int, bytes], kind: int) -> int | None:
    value = attributes.get(kind)
    return int.from_bytes(value[:4], NATIVE, signed=True) if value else None


def get_be32(attributes: dict[int, bytes], kind: int, default: int = 0) -> int:
    value = attributes.get(kind)
    return int.from_bytes(value[:4], "big") if value else default


def get_text(attributes: dict[int, bytes], kind: int) -> str:
    return os.fsdecode(attributes.get(kind, b"").rstrip(b"\0"))


# ---- the socket ------------------------------------------------------------------------------


class Netlink:
    """A netlink socket of `protocol`, of the calling thread's namespace or of `netns_fd`.

    Every failure is an OSError(errno, text with the kernel's own words, what was attempted).
    Not to be shared between threads.
    """

    def __init__(self, protocol: int, netns_fd: int | None = None) -> None:
        self._socket = _open(protocol) if netns_fd is None else in_netns(netns_fd, _open, protocol)
        self._buffer = bytearray(1 << 16)  # the kernel fills at most 32 KiB per part of a dump
        self._sequence = 0
        self._queue: list[_Request] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Inside, `request` only queues; leaving it sends everything in as few calls as possible.

        The kernel goes on after a refused request; the first refusal is raised, naming it. What is
        queued is dropped when the block raises. Descriptors named in requests must stay open.
        """
        if self._queue is not None:
            raise RuntimeError("batches do not nest")
        queue: list[_Request] = []
        self._queue = queue
        try:
            yield
        finally:
            self._queue = None
        for start in range(0, len(queue), _BATCH):
            self._exchange(queue[start : start + _BATCH])

    def request(self, kind: int, flags: int, body: bytes, what: str, ack: bool = True) -> None:
        """Something to be done; `what` names it in the error. Without `ack` only in a batch."""
        request = _Request(kind, flags | NLM_F_ACK * ack, body, what)
        if self._queue is None:
            self._exchange([request])
        else:
            self._queue.append(request)

    def get(self, kind: int, body: bytes, what: str) -> list[Message]:
        """Asks for one object; its answer (or answers)."""
        return self._exchange([_Request(kind, NLM_F_ACK, body, what)])

    def dump(self, kind: int, body: bytes, what: str) -> list[Message]:
        """All objects of a kind, consistent: read again if they changed meanwhile."""
        for _ in range(_DUMP_ATTEMPTS):
            try:
                return list(self.stream(kind, body, what))
            except InterruptedError:
                continue
        raise OSError(errno.EAGAIN, "changed each time it was being read", what)

    def stream(self, kind: int, body: bytes, what: str) -> Iterator[Message]:
        """As `dump`, one by one, for what may be large; to be read to its end.

        InterruptedError at the end if the objects changed meanwhile and some may be missing.
        """
        sequence = next(iter(self._send([_Request(kind, NLM_F_DUMP, body, what)])))
        interrupted = done = False
        while not done:
            for answer, flags, seq, data in self._receive(what):
                if seq != sequence:  # of a dump that was not read to its end
                    continue
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if answer not in (_NLMSG_ERROR, _NLMSG_DONE):
                    yield Message(answer, data)
                    continue
                if error := _error(answer, flags, data, what):
                    raise error
                done = True
        if interrupted:
            raise InterruptedError(errno.EINTR, "changed while it was being read", what)

    def _exchange(self, requests: list[_Request]) -> list[Message]:
        """Sends in one call, reads all answers, raises the first refusal."""
        pending = self._send(requests)
        awaited = {seq for seq, r in pending.items() if r.flags & NLM_F_ACK}
        answers: list[Message] = []
        failure: OSError | None = None
        while awaited:
            for kind, flags, sequence, body in self._receive(requests[-1].what):
                if sequence not in pending:
                    continue
                if kind != _NLMSG_ERROR:
                    answers.append(Message(kind, body))
                    continue
                error = _error(kind, flags, body, pending[sequence].what)
                failure = failure or error
                if error and sequence not in awaited:  # nfnetlink refused the whole batch
                    awaited.clear()
                awaited.discard(sequence)
        if failure:
            raise failure
        return answers

    def _send(self, requests: list[_Request]) -> dict[int, _Request]:
        pending: dict[int, _Request] = {}
        data = bytearray()
        for r in requests:
            self._sequence += 1
            pending[self._sequence] = r
            length = _HEADER.size + len(r.body)
            data += _HEADER.pack(length, r.type, r.flags | NLM_F_REQUEST, self._sequence, 0)
            data += r.body + b"\0" * (-length % 4)
        self._socket.send(data)
        return pending

    def _receive(self, what: str) -> list[tuple[int, int, int, bytes]]:
        """(type, flags, sequence, body) of the messages of one datagram."""
        try:
            size = self._socket.recv_into(self._buffer, 0, socket.MSG_PEEK | socket.MSG_TRUNC)
            if size > len(self._buffer):
                self._buffer = bytearray(size)
            size = self._socket.recv_into(self._buffer)
        except OSError as e:
            raise OSError(e.errno, f"no answer from the kernel: {e.strerror}", what) from None
        data = bytes(memoryview(self._buffer)[:size])
        messages: list[tuple[int, int, int, bytes]] = []
        offset = 0
        while offset + _HEADER.size <= size:
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                break
            body = data[offset + _HEADER.size : offset + length]
            messages.append((kind, flags, sequence, body))
            offset += (length + 3) & ~3
        return messages


def _open(protocol: int) -> socket.socket:
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    s.setblocking(False)
    for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
        try:
            s.setsockopt(_SOL_NETLINK, option, 1)
        except OSError:  # an older kernel: fewer words, and dumps that we filter ourselves
            continue
    return s


def _error(kind: int, flags: int, body: bytes, what: str) -> OSError | None:
    """The error of an NLMSG_ERROR (struct nlmsgerr) or of an NLMSG_DONE; None if there is none."""
    number = -_S32.unpack_from(body)[0] if len(body) >= 4 else 0
    if not number:
        return None
    message = os.strerror(number)
    if flags & NLM_F_ACK_TLVS:
        offset = 4  # NLMSG_DONE has the attributes at once, NLMSG_ERROR after the request
        if kind == _NLMSG_ERROR:
            offset += _HEADER.size if flags & NLM_F_CAPPED else _U32.unpack_from(body, 4)[0]
        words = get_text(parse(body, (offset + 3) & ~3), _NLMSGERR_ATTR_MSG)
        message = f"{message}: {words}" if words else message
    return OSError(number, message, what)
