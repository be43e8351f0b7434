"""A client that fetches a file again and again, each time by a new connection, never twice.

    python -I -S download.py ADDRESS PATH SHA256

Prints one JSON object a line: when it was begun and done (CLOCK_MONOTONIC, seconds), from whom
(X-From), and what went wrong ("" if every byte is right).
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import time


def fetch(address: str, path: str) -> tuple[str, str]:
    """(who sent it, SHA-256 of what came). Raises OSError."""
    with socket.create_connection((address, 80), 10) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            headers = {}
            while line := answer.readline().strip():
                name, _, value = line.partition(b":")
                headers[name.lower()] = value.strip().decode()
            return headers.get(b"x-from", ""), hashlib.file_digest(answer, "sha256").hexdigest()


def main() -> None:
    address, path, right = sys.argv[1:]
    while True:
        begun, origin, error = time.monotonic(), "", ""
        try:
            origin, came = fetch(address, path)
            error = "" if came == right else "other bytes"
        except OSError as failure:
            error = str(failure)
            time.sleep(0.05)  # not to ask a dead server a thousand times a second
        said = {"begun": begun, "done": time.monotonic(), "from": origin, "error": error}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
