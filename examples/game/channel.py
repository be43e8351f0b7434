"""A client's side of the Quake 3 protocol's channel: messages with numbers over datagrams, each of
which says what was heard of the other side, and commands that are repeated till that is so."""

from __future__ import annotations

import itertools

from game.message import FRAGMENT, FRAGMENT_SIZE, Reader, Writer, scrambled

QPORTS = itertools.count(10_000)  # tells clients behind one address apart
SAY = 4  # a command, in a client's message


class Channel:
    """challenge: the server's, of before. game: sv_serverid, 0 till it is known."""

    def __init__(self) -> None:
        self.qport = next(QPORTS) & 0xFFFF
        self.challenge = 0
        self.game = 0
        self._sequence = 1  # of our next message
        self._heard = 0  # … of the server's last
        self._pieces = b""  # … of one that is not whole yet
        self._pieces_of = 0
        self._said = [""]  # our commands
        self._said_heard = 0  # … and up to which the server has heard them
        self._told = (0, "")  # the server's last command

    def say(self, command: str) -> None:
        """With the next messages, until it was heard."""
        self._said.append(command)

    def told(self, number: int, command: str = "") -> bool:
        """What the server says for sure; whether it is new."""
        new = number > self._told[0]
        if new:
            self._told = (number, command)
        return new

    def begin(self) -> Writer:
        """A message, to be written on, and closed by `datagram`."""
        message = Writer()
        message.number(self.game, 4)
        message.number(self._heard, 4)
        message.number(self._told[0], 4)
        for number in range(self._said_heard + 1, len(self._said)):
            message.number(SAY)
            message.number(number, 4)
            message.text(self._said[number])
        return message

    def datagram(self, message: Writer) -> bytes:
        key = self.challenge ^ self.game ^ self._heard
        data = scrambled(message.data(), 12, key, self._told[1])
        header = self._sequence.to_bytes(4, "little") + self.qport.to_bytes(2, "little")
        self._sequence += 1
        return header + data

    def message(self, datagram: bytes) -> Reader | None:
        """The server's, once all its pieces are there and if it is a new one. Raises Short."""
        sequence = int.from_bytes(datagram[:4], "little")
        data = datagram[4:]
        if sequence & FRAGMENT:
            sequence ^= FRAGMENT
            start, data = int.from_bytes(data[:2], "little"), data[4:]
            if sequence != self._pieces_of:
                self._pieces_of, self._pieces = sequence, b""
            if sequence <= self._heard or start != len(self._pieces):
                return None
            self._pieces += data
            if len(data) == FRAGMENT_SIZE:
                return None
            data = self._pieces
        if sequence <= self._heard or len(data) < 4:
            return None
        said = Reader(data).number(4)
        if said >= len(self._said):
            return None
        self._heard, self._said_heard = sequence, said
        found = Reader(scrambled(data, 4, self.challenge ^ sequence, self._said[said]))
        found.number(4)
        return found
