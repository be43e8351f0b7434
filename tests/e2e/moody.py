"""A server that can be in any mood: `python -I -S moody.py FILE [PORT [HEALTH-PORT]]`.

On PORT (7000) it greets every connection with "edge PID" and repeats lines, as echo.py does. On
HEALTH-PORT (8080) it answers HTTP, and UDP, as the word in FILE says; with CERTIFICATE in the
environment (a PEM file) by TLS.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

PORT, HEALTH = 7000, 8080
OK = b"HTTP/1.1 200 OK\r\n"


def command(mood: str, *ports: int) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", os.path.abspath(__file__), mood, *map(str, ports))


class Mood(NamedTuple):
    """What is sent at once, then slowly, then again and again; and how it ends."""

    first: bytes = b""
    slowly: bytes = b""
    forever: bytes = b""
    pause: float = 0.0
    stay: bool = False
    reset: bool = False

    def act(self, conn: socket.socket) -> None:
        conn.sendall(self.first)
        for byte in self.slowly:
            conn.sendall(bytes([byte]))
            time.sleep(0.1)
        while self.forever:
            conn.sendall(self.forever)
            time.sleep(self.pause)
        if self.stay:
            time.sleep(60)
        if self.reset:
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def answer(text: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n%s" % (len(text), text)


HEADERS = b"X-More: and more\r\n" * 50
CHUNKS = b"8\r\nall is w\r\n3;x=y\r\nell\r\n0\r\n\r\n"
NONE = b"Content-Length: 0\r\n\r\n"
MOODS = {
    "well": Mood(answer(b"all is well")),
    "ill": Mood(answer(b"not at all")),
    "error": Mood(b"HTTP/1.1 503 Service Unavailable\r\n" + NONE),
    "redirect": Mood(b"HTTP/1.1 302 Found\r\nLocation: /\r\n" + NONE),
    "chunked": Mood(OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS, stay=True),
    "hints": Mood(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(b"well")),
    "kept": Mood(answer(b"nothing more"), stay=True),
    "hang": Mood(stay=True),
    "close": Mood(),
    "reset": Mood(reset=True),
    "half": Mood(OK + b"Content-Le"),
    "garbage": Mood(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff\r\n\r\n"),
    "no status": Mood(b"HTTP/1.1 \r\n\r\n"),
    "headers": Mood(forever=HEADERS),
    "endless head": Mood(OK, forever=HEADERS),
    "endless body": Mood(OK + b"\r\n", forever=b"x" * 65536),
    "slow body": Mood(OK + b"\r\n", forever=b"x", pause=0.01),
    "drip": Mood(slowly=answer(b"well")),
}


def health(conn: socket.socket, file: str, certificate: str) -> None:
    try:
        mood = mood_in(file)
        if certificate and mood != "garbage":
            import ssl

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            context.sni_callback = lambda _, name, __: tell(f"SNI {name}")
            conn = context.wrap_socket(conn, server_side=True)
        if mood != "garbage":
            head = b""
            while b"\r\n\r\n" not in head:
                block = conn.recv(65536)
                if not block:
                    break
                head += block
            tell(head.decode())
            mood = mood_in(file)  # as it is now that it is asked
        MOODS[mood].act(conn)
    except OSError as error:
        tell(str(error))
    conn.close()


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def mood_in(file: str) -> str:
    while True:
        with open(file) as opened:
            if mood := opened.read().strip():  # it may just be being written
                return mood


def greet(conn: socket.socket, *_: str) -> None:
    try:
        conn.sendall(f"edge {os.getpid()}\n".encode())
        for line in conn.makefile("rb"):
            conn.sendall(line)
    except OSError:
        pass
    conn.close()


def serve(port: int, how: Callable[..., None], *more: str) -> None:
    listener = socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
    )
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=how, args=(conn, *more), daemon=True).start()


def datagrams(port: int, file: str) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", port))
        while True:
            _, client = sock.recvfrom(2048)
            mood = mood_in(file)
            if mood != "hang":
                sock.sendto(f"I am {mood}".encode(), client)


def main(file: str, port: str = str(PORT), health_port: str = str(HEALTH)) -> None:
    certificate = os.environ.get("CERTIFICATE", "")
    # The steered port comes last: who listens there listens everywhere.
    threads: tuple[tuple[Callable[..., None], tuple[Any, ...]], ...] = (
        (serve, (int(health_port), health, file, certificate)),
        (datagrams, (int(health_port), file)),
        (serve, (int(port), greet)),
    )
    for target, args in threads:
        threading.Thread(target=target, args=args, daemon=True).start()
        time.sleep(0.02)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
