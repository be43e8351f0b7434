"""A stranger to an HTTP server that has the cloud's address: asks by curl, or byte by byte."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from typing import Any

from e2e.net import sock
from viscum.lab import CLOUD4, Lab


def curl(lab: Lab, *words: str, role: str = "ue") -> tuple[int, Any]:
    """Status and answer. AssertionError if that is not JSON, whatever was asked."""
    argv = ["curl", "-sS", "-m", "20", "-w", r"\n%{http_code} %{content_type}", *words]
    done = lab.run(role, argv)
    text, _, told = done.stdout.rpartition("\n")
    status, _, kind = told.partition(" ")
    assert kind == "application/json", f"{done.stdout[:200]} {done.stderr}"
    return int(status), json.loads(text)


def refused(told: tuple[int, Any], status: int, words: str) -> None:
    """AssertionError if it was not, in these words among others."""
    assert told[0] == status, told
    assert set(told[1]) == {"error", "error_code"}
    assert told[1]["error_code"] == status
    assert words in told[1]["error"], told


def connect(
    lab: Lab, role: str = "ue", address: str = CLOUD4, port: int = 80, timeout: float = 60
) -> socket.socket:
    connection = sock(lab, role, address, timeout=timeout)
    connection.connect((address, port))
    return connection


def whole(connection: socket.socket) -> bytes:
    """All that comes, to the end of the connection, also one that is cut off."""
    came = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            came += data
    return came


def drip(connection: socket.socket, data: bytes) -> bytes:
    """Sends a byte now and then until it is answered or hung up on; what came."""
    for place in range(len(data)):
        try:
            connection.send(data[place : place + 1])
        except ConnectionError:
            return b""
        if select.select([connection], [], [], 0.2)[0]:
            return whole(connection)
    raise AssertionError("nobody minded")
