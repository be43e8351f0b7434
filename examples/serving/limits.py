"""What strangers may take of the server: so much in all, so much each, for so long."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from typing import Any, Protocol


def client_of(address: str) -> str:
    """Who that is: an IPv4 address, or the /64 that somebody has all of."""
    found = ip_address(address.partition("%")[0])
    return str(IPv6Address(int(found) >> 64 << 64)) if found.version == 6 else str(found)


class Share:
    """Of something there is: total in all, each for one client."""

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, client: str, amount: int = 1) -> bool:
        """Whether there was so much left."""
        with self._lock:
            if self._taken.total() + amount > self._total:
                return False
            if self._taken[client] + amount > self._each:
                return False
            self._taken[client] += amount
            return True

    def give(self, client: str, amount: int = 1) -> None:
        """Back."""
        with self._lock:
            self._taken[client] -= amount
            if not self._taken[client]:
                del self._taken[client]  # strangers are many

    @contextlib.contextmanager
    def lent(self, client: str, amount: int) -> Iterator[bool]:
        """Whether there was so much left, for as long as the context lasts."""
        taken = self.take(client, amount)
        try:
            yield taken
        finally:
            if taken:
                self.give(client, amount)


class Limits(Protocol):
    """In bytes, connections and seconds. max_bytes: of a body; max_uploads: of all that are in
    work; upload_seconds: for a whole request."""

    @property
    def max_bytes(self) -> int: ...
    @property
    def max_uploads(self) -> int: ...
    @property
    def max_connections(self) -> int: ...
    @property
    def client_connections(self) -> int: ...
    @property
    def upload_seconds(self) -> float: ...


class Room:
    """There is so much, and no client takes all of it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.connections = Share(limits.max_connections, limits.client_connections)
        self.uploads = Share(limits.max_uploads, 2 * limits.max_bytes)


class Patience(io.RawIOBase):
    """What a connection brings, until a time that is set for each request: a client that sends one
    byte a second gets no more of it than another."""

    def __init__(self, connection: socket.socket) -> None:
        self.until = 0.0
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)
