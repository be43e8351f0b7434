"""A server that says who it is and checks what it gets, over TCP and UDP.

    python peers.py NAME PORT[,PORT] ADDRESS…

run by path. ADDRESS is what it binds to: `::` takes IPv4 too (and then UDP answers leave from
whatever address the kernel chooses). Every answer begins with NAME.

TCP, one request line a connection: `get N SEED` is answered `NAME`, N bytes and their SHA-256;
`put N` and N bytes with `NAME SHA-256`; anything else with `NAME PEER`, line after line.
UDP: `put …` is taken in and not answered, `sync` answers the count and SHA-256 of what was
put; `get SEED FIRST COUNT SIZE` is answered with COUNT datagrams; `echo…` with itself; anything
else with `NAME PEER`.
"""

from __future__ import annotations

import hashlib
import random
import socket
import sys
import threading
from collections.abc import Iterator
from itertools import product

BLOCK = 1 << 20


def content(seed: int, size: int) -> Iterator[bytes]:
    """`size` bytes that tell a lost, doubled or moved block."""
    block = random.Random(seed).randbytes(BLOCK)
    for number in range(0, size, BLOCK):
        turned = number // BLOCK % BLOCK
        yield (block[turned:] + block[:turned])[: size - number]


def datagram(seed: int, number: int, size: int) -> bytes:
    return number.to_bytes(4, "big") + random.Random(seed * 1_000_003 + number).randbytes(size - 4)


def serve_tcp(name: str, listener: socket.socket) -> None:
    while True:
        conn, peer = listener.accept()
        threading.Thread(target=_talk, args=(name, conn, peer), daemon=True).start()


def _talk(name: str, conn: socket.socket, peer: tuple[str, int]) -> None:
    with conn, conn.makefile("rb") as lines:
        try:
            while words := lines.readline().split():
                if words[0] == b"get":
                    digest = hashlib.sha256()
                    conn.sendall(f"{name}\n".encode())
                    for block in content(int(words[2]), int(words[1])):
                        digest.update(block)
                        conn.sendall(block)
                    conn.sendall(digest.hexdigest().encode())
                elif words[0] == b"put":
                    digest, left = hashlib.sha256(), int(words[1])
                    while left and (block := lines.read(min(left, BLOCK))):
                        digest.update(block)
                        left -= len(block)
                    conn.sendall(f"{name} {digest.hexdigest()}\n".encode())
                else:
                    conn.sendall(f"{name} {_plain(peer[0])}\n".encode())
        except OSError:
            return


def serve_udp(name: str, sock: socket.socket) -> None:
    digest, count = hashlib.sha256(), 0
    while True:
        data, peer = sock.recvfrom(65535)
        if data.startswith(b"put "):
            digest.update(data)
            count += 1
        elif data == b"sync":
            sock.sendto(f"{name} {count} {digest.hexdigest()}".encode(), peer)
        elif data.startswith(b"get "):
            seed, first, number, size = map(int, data.split()[1:])
            for i in range(first, first + number):
                sock.sendto(datagram(seed, i, size), peer)
        elif data.startswith(b"echo"):
            sock.sendto(data, peer)
        else:
            sock.sendto(f"{name} {_plain(peer[0])}".encode(), peer)


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def _bound(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in address:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((address, port))
    return sock


def main(name: str, ports: str, *addresses: str) -> None:
    threads = []
    for address, port in product(addresses, map(int, ports.split(","))):
        datagrams = _bound(socket.SOCK_DGRAM, address, port)
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        threads.append(threading.Thread(target=serve_udp, args=(name, datagrams)))
        listener = _bound(socket.SOCK_STREAM, address, port)
        listener.listen(128)
        threads.append(threading.Thread(target=serve_tcp, args=(name, listener)))
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main(*sys.argv[1:])
