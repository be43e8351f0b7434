"""A wire of a given length: forwards frames between two interfaces, each way later by a delay.

For kernels without netem. Runs as a process of its own in the namespace between the access point
and the cloud (``python delayline.py A B DELAY LOSS``; seconds, probability), standard library
only. It says ``ready`` on standard output once it forwards, and ends when an interface goes.

PACKET_VNET_HDR (packet(7), linux/virtio_net.h) carries segmentation and checksum offload along
with the frame, so that a 64 kB segment costs one read and one write: that is what makes Python
fast enough. A queue per direction keeps the order and is bounded; what does not fit is dropped, as
by a router.
"""

from __future__ import annotations

import gc
import os
import random
import select
import socket
import sys
import time
from collections import deque

ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
VNET_HDR = 10  # bytes: struct virtio_net_hdr
FRAME_MAX = VNET_HDR + 18 + 65536
QUEUE_BYTES = 32 << 20  # per direction: 60 ms at 4 Gbit/s
BATCH = 64  # frames read from one side before the other side and the timers get a turn


def port(name: str) -> socket.socket:
    """A packet socket that sees every frame coming in by the interface, and can send on it."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    for option in (SO_RCVBUFFORCE, SO_SNDBUFFORCE):
        sock.setsockopt(socket.SOL_SOCKET, option, 16 << 20)
    sock.bind((name, ETH_P_ALL))
    sock.setblocking(False)
    return sock


class Direction:
    """Frames on their way from one port to the other."""

    __slots__ = ("held", "queue", "source", "target")

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.queue: deque[tuple[float, bytes]] = deque()
        self.held = 0  # bytes in the queue

    def take(self, buffer: bytearray, delay: float, loss: float) -> None:
        """Read what has arrived. Raises OSError (ENETDOWN) when the interface is gone."""
        view = memoryview(buffer)
        for _ in range(BATCH):
            try:
                size = self.source.recv_into(buffer)
            except BlockingIOError:
                return
            if self.held + size > QUEUE_BYTES or (loss and random.random() < loss):
                continue
            self.queue.append((time.monotonic() + delay, bytes(view[:size])))
            self.held += size

    def give(self, now: float) -> None:
        """Send what is due."""
        queue = self.queue
        while queue and queue[0][0] <= now:
            frame = queue.popleft()[1]
            self.held -= len(frame)
            try:
                self.target.send(frame)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                # ENOBUFS: a qdisc dropped it; EINVAL, EMSGSIZE: a frame no wire would carry
                if error.errno not in DROPPED:
                    raise


DROPPED = frozenset({105, 22, 90})  # ENOBUFS, EINVAL, EMSGSIZE


def forward(a: str, b: str, delay: float, loss: float) -> None:
    """Forward for ever. Raises OSError when an interface goes away or down."""
    one, two = port(a), port(b)
    lines = (Direction(one, two), Direction(two, one))
    by_socket = {line.source: line for line in lines}
    sockets = (one, two)
    buffer = bytearray(FRAME_MAX)
    os.write(1, b"ready\n")
    # collections of long-lived frames would stop the wire for milliseconds, and there are no cycles
    gc.disable()
    while True:
        now = time.monotonic()
        due = None
        for line in lines:
            line.give(now)
            if line.queue and (due is None or line.queue[0][0] < due):
                due = line.queue[0][0]
        # select(2) and not epoll: its timeout is in microseconds
        wait = None if due is None else max(0.0, due - time.monotonic())
        for sock in select.select(sockets, (), (), wait)[0]:
            by_socket[sock].take(buffer, delay, loss)


def main() -> None:
    a, b, delay, loss = sys.argv[1:]
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -15)  # late is wrong here, and it needs little
    except PermissionError:
        pass
    try:
        forward(a, b, float(delay), float(loss))
    except OSError as error:
        sys.exit(f"delay line between {a} and {b}: {error}")


if __name__ == "__main__":
    main()
