"""A client that asks an HTTP server again and again, each time by a new connection, never twice.

`python -m viscum.lab.prober ADDRESS PORT` prints one JSON object a line: when (CLOCK_MONOTONIC,
seconds), who answered (the body's text) or the error's name, and how long it took (ms).
"""

from __future__ import annotations

import errno
import json
import socket
import sys
import time

PAUSE = 0.01  # between two connections, seconds
TIMEOUT = 5.0


def ask(address: str, port: int) -> str:
    """The body of one answer. Raises OSError."""
    with socket.create_connection((address, port), TIMEOUT) as connection:
        host = f"[{address}]" if ":" in address else address
        connection.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.partition(b"\r\n\r\n")[2].decode().strip()


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    while True:
        begun = time.monotonic()
        said = {"at": begun}
        try:
            said |= {"answer": ask(address, port)}  # type: ignore[dict-item]
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, type(error).__name__)
            said |= {"error": name}  # type: ignore[dict-item]
        said["ms"] = (time.monotonic() - begun) * 1e3
        print(json.dumps(said), flush=True)  # noqa: T201  this is its output
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
