"""One instance of a service as the kernel knows it: a namespace, a control group, a log."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import wait_until
from viscum.kernel import logs, process
from viscum.kernel.cgroup import Group
from viscum.kernel.process import Launch
from viscum.kernel.syscalls import in_netns

PREFIX = f"viscum-t{os.getpid()}"
_NUMBERS = itertools.count()


class Instance:
    """Programs started here run in one namespace and one group and write one log."""

    def __init__(self, netns_fd: int) -> None:
        self.netns_fd = netns_fd
        self.group = Group(f"{PREFIX}/web/{next(_NUMBERS)}.0")
        self.group.create()
        # Not below /tmp or /run, which the program does not see; readable for its user.
        self.directory = Path(tempfile.mkdtemp(prefix="vt-", dir="/var/tmp"))
        self.directory.chmod(0o755)
        self.log = self.directory / "log"

    def launch(self, *argv: str, **options: Any) -> Launch:
        output = logs.open_log(str(self.log))
        return Launch(argv, self.group, self.netns_fd, output, **options)

    def start(self, *argv: str, foreground: bool = False, **options: Any) -> int:
        launch = self.launch(*argv, **options)
        try:
            return process.start(launch, foreground=foreground)
        finally:
            os.close(launch.output)

    def run(self, *argv: str, **options: Any) -> list[str]:
        """The output of a program that ends by itself, successfully."""
        pid = self.start(*argv, foreground=True, **options)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        lines = self.lines()
        assert status == 0, (status, lines)
        self.log.unlink()
        return lines

    def lines(self) -> list[str]:
        return logs.tail(str(self.log)).lines

    def wait_for_line(self, line: str) -> None:
        """`process.start` returns with the exec; what the program does then takes its time."""
        wait_until(lambda: line in self.lines(), f"{line!r} in the log")

    def get(self, path: str = "/", port: int = 80) -> str:
        """The answer to one HTTP request from inside the namespace, headers and all."""

        def fetch() -> bytes:
            with socket.create_connection(("127.0.0.1", port), 20) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                parts = []
                while part := connection.recv(65536):
                    parts.append(part)
                return b"".join(parts)

        return in_netns(self.netns_fd, fetch).decode()

    def wait_for_answer(self, port: int = 80) -> str:
        def attempt() -> str:
            try:
                return self.get("/", port)
            except ConnectionRefusedError:
                return ""

        return str(wait_until(attempt, f"an answer on port {port}"))

    def close(self) -> None:
        self.group.kill()
        assert self.group.wait_empty(10)
        self.group.remove()
        shutil.rmtree(self.directory)


@contextmanager
def instance(netns_fd: int) -> Iterator[Instance]:
    made = Instance(netns_fd)
    try:
        yield made
    finally:
        made.close()
