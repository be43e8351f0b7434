"""Dials many peers at once and prints a line for each: who answers, or the error's name.

    python dial.py PROTO,SOURCE,SPORT,ADDRESS,PORT …

run by path inside a service. PROTO tcp or udp; SOURCE "-" for the kernel's choice.
"""

from __future__ import annotations

import errno
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

TIMEOUT = 1.0  # seconds: what is allowed is answered at once, what is not never


def dial(words: str) -> str:
    proto, source, sport, address, port = words.split(",")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if source != "-":
            sock.bind((source, int(sport)))
        sock.connect((address, int(port)))
        sock.send(b"who\n")
        return sock.recv(4096).decode().strip()
    except TimeoutError:
        return "TIMEDOUT"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")


if __name__ == "__main__":
    with ThreadPoolExecutor(len(sys.argv)) as pool:
        for answer in pool.map(dial, sys.argv[1:]):
            print(answer)  # noqa: T201  its output is what it is for
