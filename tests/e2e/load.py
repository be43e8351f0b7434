"""Clients that never retry: run inside a client's namespace, it prints one JSON line per request.

    python -I -S load.py TARGET… --short 4 --hash SHA256

Each of the `--short` workers makes one new connection after the other to the targets in turn; each
line on standard input, a target, fetches /big from there. An answer names who gave it in a header,
"X-From: NAME". Times are CLOCK_MONOTONIC nanoseconds: `begun` is read before connect(2) sends the
SYN. An end of file on standard input lets every worker finish what it is at.

A line: {"kind", "target", "from", "error" (an errno's name, "" for none), "begun", "ended"}.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viscum.lab import Lab

TIMEOUT_S = 20.0
PORT = 80


@dataclass(frozen=True)
class Answer:
    """One request as the client saw it."""

    kind: str
    target: str
    origin: str  # who answered; "" if nobody did
    error: str
    begun: int
    ended: int


class Load:
    """The generator running in a lab's client; a context manager. `answers` grows meanwhile."""

    def __init__(self, lab: Lab, targets: list[str], **flags: str | int | float) -> None:
        words = [word for k, v in flags.items() for word in (f"--{k}", str(v))]
        self._child = lab.popen(
            "ue",
            [sys.executable, "-I", "-S", os.path.abspath(__file__), *targets, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdin
        assert self._child.stdout
        self._in, self._out = self._child.stdin, self._child.stdout
        self.answers: list[Answer] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._out:
            fields = json.loads(line)
            fields["origin"] = fields.pop("from")
            with self._news:
                self.answers.append(Answer(**fields))
                self._news.notify_all()

    def wait(self, wanted: Callable[[Answer], bool], count: int, timeout: float = 20) -> None:
        """Until there are `count` answers that `wanted` accepts. AssertionError after `timeout`."""
        found, seen = 0, 0
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                new = self.answers[seen:]
                seen += len(new)
                found += sum(map(wanted, new))
                if found >= count:
                    return
                left = deadline - time.monotonic()
                assert left > 0, f"{found} of {count} answers, all: {self.errors() or 'no error'}"
                self._news.wait(left)

    def errors(self) -> dict[str, int]:
        """Requests that failed, by errno."""
        return dict(Counter(a.error for a in self.answers if a.error))

    def fetch(self, target: str) -> None:
        """Begins a long transfer."""
        self._in.write(target + "\n")
        self._in.flush()

    def stop(self) -> None:
        """Lets every worker finish its request."""
        self._in.close()
        self._reader.join(60)
        assert self._child.wait(10) == 0

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            self.stop()
        else:
            self._child.kill()


class Wrong(Exception):
    """An answer that came, and is not what it should be."""


def fetch(target: str, path: str, begun: list[int]) -> tuple[str, str]:
    """(who answered, SHA-256 of the body). Raises OSError, Wrong."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        begun.append(time.monotonic_ns())
        connection.connect((target, PORT))
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: cloud.example\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            part = connection.recv(65536)
            if not part:
                raise Wrong("ended in the head")
            head += part
        head, _, body = head.partition(b"\r\n\r\n")
        fields = dict(
            line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line
        )
        digest, length = hashlib.sha256(body), len(body)
        while part := connection.recv(1 << 18):
            digest.update(part)
            length += len(part)
    if head[:7] != b"HTTP/1." or head[8:13] != b" 200 ":
        raise Wrong(head.decode().partition("\r\n")[0])
    if length != int(fields["content-length"]):
        raise Wrong(f"{length} bytes of {fields['content-length']}")
    return fields["x-from"], digest.hexdigest()


def request(kind: str, target: str, wanted: str) -> dict[str, Any]:
    begun: list[int] = []
    origin, problem = "", ""
    try:
        origin, digest = fetch(target, "/big" if kind == "long" else "/", begun)
        if kind == "long" and digest != wanted:
            problem = "content"
    except TimeoutError:
        problem = "ETIMEDOUT"
    except OSError as error:
        problem = errno.errorcode.get(error.errno or 0, str(error))
    except (Wrong, KeyError) as error:
        problem = str(error)
    return {
        "kind": kind,
        "target": target,
        "from": origin,
        "error": problem,
        "begun": begun[0] if begun else time.monotonic_ns(),
        "ended": time.monotonic_ns(),
    }


def main() -> None:
    words = sys.argv[1:]
    first = next((n for n, word in enumerate(words) if word.startswith("--")), len(words))
    targets, flags = words[:first], words[first:]
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    stop, out = threading.Event(), threading.Lock()
    pause = float(given.get("--pause", "0"))

    def tell(result: dict[str, Any]) -> None:
        with out:
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()

    def short(number: int) -> None:
        while not stop.wait(pause):
            tell(request("short", targets[number % len(targets)], ""))
            number += 1

    def long(target: str) -> None:
        tell(request("long", target, given["--hash"]))

    workers = [threading.Thread(target=short, args=(n,)) for n in range(int(given["--short"]))]
    for worker in workers:
        worker.start()
    for line in sys.stdin:
        workers.append(threading.Thread(target=long, args=(line.strip(),)))
        workers[-1].start()
    stop.set()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
