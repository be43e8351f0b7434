"""A player by script: joins a server as a game's client does, and stays, standing still.

What a client shows or plays is left out; what keeps him in the game, and what his ping is measured
by, is there. He never moves, so that nobody's luck decides what is measured.
"""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import uuid4

from game.channel import Channel
from game.message import OUT_OF_BAND, Reader, connect, info

PROTOCOL = 71
PACE = 1 / 60  # seconds from one command of the player to the next; real clients: 1/30 to 1/125
AGAIN = 1.0  # seconds, before a question is asked again
SILENCE = 1.0  # seconds without a snapshot (there are 20 in one), after which he is not in the game

# what a server's message is made of, and a client's
NOP, GAMESTATE, CONFIG, BASELINE, COMMAND, DOWNLOAD, SNAPSHOT, END = range(1, 9)
MOVE, CLIENT_END = 2, 5
NOT_ACTIVE = 2  # a snapshot's flag
CHALLENGE = re.compile(r"challengeResponse (-?[0-9]+)")
SERVER_INFO, SYSTEM_INFO = 0, 1  # of the configuration


class State(StrEnum):
    OUTSIDE = "outside"  # asks for a challenge
    CHALLENGED = "challenged"  # asks to be let in
    CONNECTED = "connected"  # waits for the game's state
    PRIMED = "primed"  # knows it
    ACTIVE = "active"  # in the game
    GONE = "gone"  # left, or was thrown out


@dataclass
class Record:
    """What a player has seen. Times are seconds of time.monotonic.

    pings: (when, ms from a command of his to the snapshot that shows it);
    snapshots: (when, the server's own time in ms).
    """

    pings: list[tuple[float, float]] = field(default_factory=list)
    snapshots: list[tuple[float, int]] = field(default_factory=list)


class Player(threading.Thread):
    """sock: a UDP socket of his own, connected to the server.

    where: the server's name (sv_hostname), once he has been told; reason: why he is out, or the
    last refusal of the server.
    """

    def __init__(self, name: str, sock: socket.socket) -> None:
        super().__init__(name=name, daemon=True)
        self.sock = sock
        self.state = State.OUTSIDE
        self.where = ""
        self.reason = ""
        self.record = Record()
        self._channel = Channel()
        self._clock = (0.0, 0)  # of this game's last snapshot: when, and the server's time
        self._sent: dict[int, float] = {}  # when commands were sent, by their server's time
        self._next = 0.0
        self._leaving = threading.Event()
        self._changed = threading.Condition()

    # --- for who plays him ----------------------------------------------------------------------

    def enter(self, timeout: float = 15.0) -> Player:
        """Starts, and is in the game when it returns. Raises TimeoutError."""
        self.start()
        self.await_state(State.ACTIVE, timeout)
        return self

    def await_state(self, state: State, timeout: float = 15.0) -> None:
        """Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.state is state, timeout):
                raise TimeoutError(f"{self.name} is {self.state}: {self.reason}")

    def playing(self) -> bool:
        """Whether the server shows him the game at this moment."""
        when = self._clock[0]
        return self.state is State.ACTIVE and time.monotonic() - when < SILENCE

    def leave(self) -> None:
        """As by a client's menu: he says so."""
        self._leaving.set()
        self.join()

    # --- his life -------------------------------------------------------------------------------

    def run(self) -> None:
        with self.sock:
            while self.state is not State.GONE:
                now = time.monotonic()
                if now >= self._next:
                    self._speak(now)
                wait = max(0.0, self._next - time.monotonic())
                if select.select([self.sock], [], [], wait)[0]:
                    self._listen()

    def _become(self, state: State, reason: str = "") -> None:
        with self._changed:
            self.state, self.reason = state, reason or self.reason
            self._changed.notify_all()
        self._next = 0.0

    def _speak(self, now: float) -> None:
        leaving = self._leaving.is_set()
        if leaving:
            self._channel.say("disconnect")
            for _ in range(3):  # one may be lost, and he does not wait
                self._move(now)
            self._become(State.GONE, "left")
        elif self.state is State.OUTSIDE:
            self._send(OUT_OF_BAND + b"getchallenge")
        elif self.state is State.CHALLENGED:
            values: dict[str, str | int] = {
                "protocol": PROTOCOL, "qport": self._channel.qport,
                "challenge": self._channel.challenge,
                "cl_guid": uuid4().hex.upper(), "name": self.name, "rate": 25000, "snaps": 20,
            }  # fmt: skip
            self._send(connect(values))
        else:
            self._move(now)
        in_game = self.state in (State.PRIMED, State.ACTIVE)
        self._next = now + (PACE if in_game else AGAIN)

    def _send(self, data: bytes) -> None:
        try:
            self.sock.send(data)
        except OSError:
            pass  # refused, or there is no way: as if it were lost

    def _move(self, now: float) -> None:
        """His next message: what he has heard, what he says, and a command that stands still."""
        message = self._channel.begin()
        when, then = self._clock
        if when and self.state in (State.PRIMED, State.ACTIVE):
            moment = then + int((now - when) * 1000)
            self._sent[moment] = now
            message.number(MOVE)
            message.number(1)  # command
            message.bit(0)  # with a whole time, not a difference
            message.number(moment, 4)
            message.bit(0)  # and nothing but the time
        message.number(CLIENT_END)
        self._send(self._channel.datagram(message))

    def _listen(self) -> None:
        try:
            data = self.sock.recv(65536)
        except OSError:
            return
        now = time.monotonic()
        if data.startswith(OUT_OF_BAND):
            self._answered(data[4:].decode("latin-1"))
            return
        if self.state in (State.OUTSIDE, State.CHALLENGED, State.GONE):
            return
        try:
            message = self._channel.message(data)
            if message is not None:
                self._take(message, now)
        except (KeyError, ValueError):
            pass  # not from a server of this game; the next one may be

    def _answered(self, text: str) -> None:
        challenge = CHALLENGE.match(text)
        if challenge and self.state is State.OUTSIDE:
            self._channel.challenge = int(challenge[1])
            self._become(State.CHALLENGED)
        elif text.startswith("connectResponse") and self.state is State.CHALLENGED:
            self._become(State.CONNECTED)
        elif text.startswith("print\n"):
            self.reason = text.removeprefix("print\n").strip()

    def _take(self, message: Reader, now: float) -> None:
        """Raises KeyError, ValueError (of which Short is one): it is none."""
        while (kind := message.number()) != END:
            if kind == COMMAND:
                self._told(message.number(4), message.text())
            elif kind == GAMESTATE:
                self._begin(message, now)
                return
            elif kind == SNAPSHOT:
                self._see(message, now)
                return
            elif kind != NOP:
                return

    def _told(self, number: int, command: str) -> None:
        if self._channel.told(number, command) and command.startswith("disconnect"):
            self._become(State.GONE, command.removeprefix("disconnect").strip(' "'))

    def _begin(self, message: Reader, now: float) -> None:
        """The game's state, of which he needs the names: which server, which game."""
        self._channel.told(message.number(4))
        while message.number() == CONFIG:
            number, text = message.number(2), message.text()
            if number == SERVER_INFO:
                self.where = info(text)["sv_hostname"]
            elif number == SYSTEM_INFO:
                self._channel.game = int(info(text)["sv_serverid"])
                break
        self._clock = (0.0, 0)
        self._sent.clear()
        self._become(State.PRIMED)

    def _see(self, message: Reader, now: float) -> None:
        """A snapshot: the server's time, and up to which command of his it shows."""
        then = message.number(4)
        message.number()  # the one it is the difference to
        flags = message.number()
        for _ in range(message.number()):
            message.number()  # what parts of the map are seen
        self._clock = (now, then)
        self.record.snapshots.append((now, then))
        if self.state is State.PRIMED and not flags & NOT_ACTIVE:
            self._become(State.ACTIVE)
        if message.number() and message.bit():
            self._shown(message.number(4), now)

    def _shown(self, moment: int, now: float) -> None:
        sent = self._sent.get(moment)
        if sent is not None:
            self.record.pings.append((now, (now - sent) * 1000))
            self._sent = {m: s for m, s in self._sent.items() if m > moment}
