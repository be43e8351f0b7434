"""A server for the lifecycle tests, and clients that hold connections to it.

The server is a program of its own (`python -I -S echo.py NAME …`): it greets every connection with
"NAME PID", then repeats every line. Its flags make it the awkward kinds of server there are. A
line "peer" is answered with what came from the server's own outgoing connection (`--dial`).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viscum.lab import Lab

PORT = 7000


class Held:
    """A client's open connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(10)
        self._lines = connection.makefile("rb")
        name, pid = self._lines.readline().decode().split()
        self.name, self.pid = name, int(pid)

    def ask(self, line: str = "hello") -> str:
        self.socket.sendall(line.encode() + b"\n")
        return self._lines.readline().decode().strip()

    def alive(self) -> bool:
        """Whether the server still answers on this connection."""
        return self.ask() == "hello"

    def was_reset(self) -> bool:
        """Whether the connection ends with a RST (waits for it)."""
        try:
            return self.socket.recv(1) != b"" and False
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._lines.close()
        self.socket.close()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Datagrams:
    """A client's UDP flow; "" stands for no answer within a second."""

    def __init__(self, target: str, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(1)
        self.socket.connect((target, port))

    def ask(self) -> str:
        try:
            self.socket.send(b"who")
            return self.socket.recv(100).decode()
        except (TimeoutError, ConnectionRefusedError):
            return ""


def command(name: str, *flags: str) -> tuple[str, ...]:
    """How a service, or `lab.popen`, runs the server."""
    return (sys.executable, "-I", "-S", os.path.abspath(__file__), name, *flags)


def within(lab: Lab, role: str, fn: Callable[[], Any]) -> Any:
    """The result of `fn` run in that namespace of the lab; sockets it makes stay there."""
    from viscum.kernel.syscalls import in_netns

    fd = os.open(f"/run/netns/{lab.namespace(role)}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return in_netns(fd, fn)
    finally:
        os.close(fd)


def run(
    lab: Lab, *flags: str, name: str = "web", server: tuple[str, ...] = (), ok: bool = True
) -> subprocess.CompletedProcess[str]:
    """`viscum run` of a server (default: one that is called edge) for CLOUD4, CLOUD6 and PORT."""
    from viscum.lab import CLOUD4, CLOUD6

    target = () if "--target" in flags else ("--target", CLOUD4, "--target", CLOUD6)
    port = () if "--port" in flags else ("--port", f"{PORT}/tcp")
    done = lab.viscum(
        "run", "--name", name, "--on", "wlan0", *target, *port, *flags,
        "--", *(server or command("edge")),
    )  # fmt: skip
    assert not ok or done.returncode == 0, done.stderr
    return done


def viscum(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """A viscum command that has to succeed."""
    done = lab.viscum(*words)
    assert done.returncode == 0, done.stderr
    return done


def begin(lab: Lab, *words: str) -> subprocess.Popen[str]:
    """A viscum command that goes on meanwhile; `communicate()` ends it."""
    program = os.path.join(os.path.dirname(sys.executable), "viscum")
    return lab.popen(
        "ap", [program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def status(lab: Lab, name: str = "web") -> dict[str, Any]:
    """`viscum ls --json` of one service; {} if it is not there."""
    found = json.loads(viscum(lab, "ls", "--json").stdout)
    return next((s for s in found if s["name"] == name), {})


def hold(lab: Lab, target: str, port: int = PORT, *, source: str = "", role: str = "ue") -> Held:
    """A new connection of a client, greeted. source: the client's address."""

    def connect() -> socket.socket:
        return socket.create_connection((target, port), 10, (source, 0) if source else None)

    return Held(within(lab, role, connect))


def who(lab: Lab, target: str, port: int = PORT, *, source: str = "") -> str:
    """The name of the server that one new connection reaches."""
    with hold(lab, target, port, source=source) as held:
        return held.name


def start(lab: Lab, role: str, name: str, *flags: str) -> None:
    """Runs the server in the lab; it listens when this returns."""
    from support import wait_until

    child = lab.popen(role, command(name, *flags))
    ports = flags[flags.index("--ports") + 1] if "--ports" in flags else str(PORT)
    wanted = {f":{port} " for port in ports.split(",")}

    def listens() -> bool:
        assert child.poll() is None
        found = lab.run(role, ["ss", "-Htln"]).stdout
        return all(port in found for port in wanted)

    wait_until(listens, f"{name} listens")


# ---- the server ------------------------------------------------------------------------------


def serve(connection: socket.socket, greeting: bytes, outside: socket.socket | None) -> None:
    try:
        connection.sendall(greeting)
        for line in connection.makefile("rb"):
            if line == b"peer\n" and outside is not None:
                outside.sendall(line)
                line = outside.recv(100)
            connection.sendall(line)
    except OSError:
        pass
    connection.close()


def accept(listener: socket.socket, greeting: bytes, outside: socket.socket | None) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, greeting, outside), daemon=True).start()


def answer(port: int, name: str) -> None:
    """UDP: whoever sends something is told the name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("0.0.0.0", port))
        while True:
            _, client = datagrams.recvfrom(100)
            datagrams.sendto(name.encode(), client)


def dialled(where: str) -> socket.socket:
    """An outgoing connection of the server's own, past the greeting of the server there."""
    host, _, port = where.rpartition(":")
    outside = socket.create_connection((host, int(port)), 10)
    outside.makefile("rb", buffering=0).readline()
    return outside


def main(name: str, *flags: str) -> None:
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    if "--say" in given:
        sys.stdout.write(given["--say"] + "\n")
        sys.stdout.flush()
    if "--exit" in given:
        sys.exit(int(given["--exit"]))
    if "--lock" in given:  # a server that can't run twice
        lock = open(given["--lock"], "w")  # noqa: SIM115  held until the end
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another one runs")
    if "--term" in given:  # its exit status when asked to end
        signal.signal(signal.SIGTERM, lambda *_: os._exit(int(given["--term"])))
    if "--wait" in given:  # for a file to appear before it listens
        while not os.path.exists(given["--wait"]):
            time.sleep(0.01)
    outside = dialled(given["--dial"]) if "--dial" in given else None
    greeting = f"{name} {os.getpid()}\n".encode()
    for port in given.get("--ports", str(PORT)).split(","):
        listener = socket.create_server(
            ("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
        threading.Thread(target=accept, args=(listener, greeting, outside), daemon=True).start()
    if "--udp" in given:
        threading.Thread(target=answer, args=(int(given["--udp"]), name), daemon=True).start()
    if "--for" in given:
        time.sleep(float(given["--for"]))
        sys.exit(int(given.get("--then", "0")))
    while True:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
