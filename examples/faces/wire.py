"""WebSocket as a stranger may speak it: frame by frame, or less. For tests."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from viscum.lab import CLOUD4

BINARY, TEXT, CLOSE, PING, PONG, CONTINUED = 2, 1, 8, 9, 10, 0
UPGRADE = (
    f"GET /stream HTTP/1.1\r\nHost: {CLOUD4}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


def frame(data: bytes, opcode: int = BINARY, *, fin: bool = True, masked: bool = True) -> bytes:
    """A mask of zeros leaves the data as they are."""
    mask = 0x80 if masked else 0
    if len(data) < 126:
        head = struct.pack(">BB", fin << 7 | opcode, mask | len(data))
    else:
        head = struct.pack(">BBQ", fin << 7 | opcode, mask | 127, len(data))
    return head + bytes(4 if masked else 0) + data


class Wire:
    """status: of the answer to the handshake; 101 if there is a stream."""

    def __init__(self, connection: socket.socket, upgrade: bytes = UPGRADE) -> None:
        self.connection = connection
        self.send(upgrade)
        self._file = connection.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        length = 0
        while line := self._file.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        self.body = self._file.read(length)

    def send(self, *data: bytes) -> None:
        self.connection.sendall(b"".join(data))

    def read(self) -> tuple[int, bytes]:
        """Opcode and data of the server's next frame; CLOSE and nothing when it has hung up."""
        head = self._file.read(2)
        if len(head) < 2:
            return CLOSE, b""
        length = head[1] & 0x7F
        if length == 126:
            [length] = struct.unpack(">H", self._file.read(2))
        return head[0] & 0x0F, self._file.read(length)

    def answer(self) -> dict[str, Any]:
        """The next; AssertionError if it is something else."""
        opcode, data = self.read()
        assert opcode == TEXT, (opcode, data)
        found: dict[str, Any] = json.loads(data)
        return found

    def closed(self) -> tuple[int, str]:
        """Code and reason, with which the server ends; answers before that are passed over."""
        while True:
            opcode, data = self.read()
            if opcode == CLOSE:
                assert data, "it has hung up without a word"
                return struct.unpack(">H", data[:2])[0], data[2:].decode()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.connection.close()
