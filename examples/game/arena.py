"""The lab as a place to play: a server in the cloud, the edge's, players, qstat, a controller."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from game.message import OUT_OF_BAND
from game.player import Player
from kit import Stage, await_listening, spec_of
from viscum.kernel import netns
from viscum.kernel.syscalls import in_netns
from viscum.lab import CLOUD4, CLOUD6

PORT = 27960
ADDRESSES = {"IPv4": CLOUD4, "IPv6": CLOUD6}
IDLE = "15s"  # how long a flow without a packet is one: a minute is too long for a play


def until(condition: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
    """Its first true value. AssertionError after so many seconds."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {timeout} s for {what}"
        time.sleep(0.05)
    return value


def spec(name: str = "edge", *changes: tuple[str, str]) -> str:
    """The example's, with a server of that name. changes: (what the spec says, what instead)."""
    text = spec_of("game").replace("[run]", f'[steer.udp]\nidle = "{IDLE}"\n\n[run]')
    for old, new in (('"edge",', f'"{name}",'), *changes):
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def cloud_command() -> list[str]:
    """The edge's very own, but for its name, and for the addresses that it has to answer from."""
    words: list[str] = tomllib.loads(spec("cloud"))["command"]
    at = words.index("+map")
    return [*words[:at], "+set", "net_ip", CLOUD4, "+set", "net_ip6", CLOUD6, *words[at:]]


class Watcher:
    """Asks one server again and again, by one flow: whichever server it was at first."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(1)

    def players(self) -> dict[str, int]:
        """Name -> ping in ms, as the server sees it (999: not yet). Raises TimeoutError: a server
        answers ten such questions of an address at once, and one a second from then on."""
        for _ in range(10):
            self.sock.send(OUT_OF_BAND + b"getstatus")
            try:
                _, _, *lines = self.sock.recv(65536).decode("latin-1").splitlines()
            except TimeoutError:
                continue
            rows = [line.split(" ", 2) for line in lines]
            return {name.strip('"'): int(ping) for _, ping, name in rows}
        raise TimeoutError("no server tells who plays")


class Arena:
    def __init__(self, scene: Stage) -> None:
        self.scene, self.lab = scene, scene.lab
        self._controller: subprocess.Popen[Any] | None = None

    def cloud(self) -> None:
        environment = self.lab.environment("cloud") | {"HOME": str(self.scene.directory)}
        self.scene.server("cloud", cloud_command(), env=environment)
        await_listening(self.lab, "cloud", PORT, udp=True)

    def socket(self, role: str = "ue", family: str = "IPv4") -> socket.socket:
        """Of UDP, on that client, connected to the address that clients play at."""
        kind = socket.AF_INET6 if family == "IPv6" else socket.AF_INET
        with netns.opened(self.lab.namespace(role)) as fd:
            sock = in_netns(fd, socket.socket, kind, socket.SOCK_DGRAM)
        sock.connect((ADDRESSES[family], PORT))
        return sock

    def watcher(self) -> Watcher:
        return Watcher(self.socket("ue3"))

    def player(self, name: str, family: str = "IPv4") -> Player:
        return Player(name, self.socket("ue", family))

    def join(self, name: str, count: int) -> list[Player]:
        """So many, all in the game, wherever that is. Raises TimeoutError."""
        return [self.player(f"{name} {n}").enter() for n in range(1, count + 1)]

    def qstat(self, role: str) -> tuple[str, float]:
        """(which server, ms): what quakestat says of the one at the clients' address; ms are whole.
        Not to be asked more often than a `Watcher` may."""
        argv = ["quakestat", "-raw", ",", "-retry", "1", "-q3s", f"{CLOUD4}:{PORT}"]
        words = self.lab.run(role, argv, check=True).stdout.split(",")
        assert len(words) == 8, words
        return words[2], float(words[6])

    def servers(self) -> list[int]:
        """Process ids at the edge, newest generation first."""
        generations = self.scene.status("game")["generations"]
        return [i["pid"] for g in generations for i in g["instances"] if i["pid"]]

    def states(self) -> list[str]:
        """Of the service's generations, newest first."""
        return [g["state"] for g in self.scene.status("game")["generations"]]

    def used(self) -> tuple[int, float]:
        """(bytes, seconds of a processor) of the newest server at the edge, so far."""
        newest = self.scene.status("game")["generations"][0]["instances"][0]
        return newest["memory"], newest["cpu"]

    def begin_apply(self, text: str) -> subprocess.Popen[Any]:
        """As `Stage.apply`, which comes back only when nobody plays on an older server any more."""
        path = self.scene.directory / "upgrade.toml"
        path.write_text(self.scene.here(text))
        viscum = str(Path(sys.executable).with_name("viscum"))
        return self.scene.server("ap", [viscum, "apply", str(path)])

    # --- a controller ---------------------------------------------------------------------------

    def controller(self) -> None:
        """Starts one; returns when it looks after the host."""
        directory, begun = self.scene.directory, self.heard("controller.started")
        settings = directory / "settings"  # alone: no service sees what is in there
        settings.mkdir(exist_ok=True)
        # a busy machine is no reason to hold a service back, where it is to be seen
        (settings / "controller.toml").write_text('[guard]\nmode = "off"\n')
        with (directory / "viscumd.log").open("ab") as log:
            self._controller = self.lab.popen(
                "ap",
                [str(Path(sys.executable).with_name("viscumd"))],
                stderr=log,
                env=self.lab.environment("ap") | {"VISCUM_CONFIG_DIR": str(settings)},
            )
        until(lambda: self.heard("controller.started") > begun, "the controller")

    def heard(self, kind: str) -> int:
        """How many events of that kind controllers have told so far."""
        log = self.scene.directory / "viscumd.log"
        return log.read_text().count(f'"kind":"{kind}"') if log.exists() else 0

    def kill_controller(self) -> None:
        assert self._controller is not None
        self._controller.kill()
        self._controller.wait(10)
