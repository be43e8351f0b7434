"""Round trips of small datagrams, 200 a second: those that answer, and those that ask.

    python -I -S latency.py answer ADDRESS PORT
    python -I -S latency.py ask ADDRESS PORT SECONDS

`ask` prints one line of milliseconds, in the order in which they were sent, `nan` for one without
an answer within a second. Runs with real-time priority if it may: what it measures is the way, not
when it is its turn.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time

EVERY = 0.005
PATIENCE = 1.0


def answer(address: str, port: str) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, int(port)))
    while True:
        sock.sendto(*sock.recvfrom(64))


def ask(address: str, port: str, seconds: str) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, int(port)))
    sock.setblocking(False)
    count = int(float(seconds) / EVERY)
    sent, took = [0.0] * count, [float("nan")] * count
    begun = time.monotonic()
    for number in range(count):
        _take(sock, sent, took, begun + number * EVERY)
        sent[number] = time.monotonic()
        try:
            sock.send(struct.pack("=I60x", number))
        except OSError:
            pass
    _take(sock, sent, took, time.monotonic() + PATIENCE)
    sys.stdout.write(" ".join(f"{t * 1000:.4f}" for t in took) + "\n")


def _take(sock: socket.socket, sent: list[float], took: list[float], until: float) -> None:
    """Answers that come till then."""
    while (left := until - time.monotonic()) > 0:
        if select.select([sock], [], [], left)[0]:
            now = time.monotonic()
            try:
                (number,) = struct.unpack("=I60x", sock.recv(64))
            except OSError:
                continue
            took[number] = now - sent[number]


if __name__ == "__main__":
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except OSError:
        pass
    if sys.argv[1] == "answer":
        answer(*sys.argv[2:])
    else:
        ask(*sys.argv[2:])
