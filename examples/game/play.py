"""U3: an unmodified OpenArena server at the edge: what its players have of it, and that they go on
when the service is disabled, when its controller dies, and when a new version of the server comes.

    make example-game
"""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise

from game.arena import Arena, spec, until
from game.client import Client
from game.player import Player
from kit import Figures, Stage, await_listening, run, stage
from viscum.lab import CLOUD4

PLAYERS, NEW = 6, 3
QUERIES = 15
SECONDS = 10.0  # of a game that is measured
FULL = 8  # seconds of an upload


def pings(players: list[Player], since: float) -> list[float]:
    """ms, all of theirs."""
    return [ms for p in players for when, ms in p.record.pings if when > since]


def jitter(players: list[Player], since: float) -> list[float]:
    """ms: by how much longer or shorter it took than the last time from the server's clock to the
    player, from one snapshot to the next (|D| of RFC 3550, 6.4.1)."""
    found = []
    for player in players:
        seen = [s for s in player.record.snapshots if s[0] > since]
        for (when, then), (later, thereafter) in pairwise(seen):
            found.append(abs((later - when) * 1000 - (thereafter - then)))
    return found


def pause(players: list[Player], since: float) -> float:
    """ms: the longest time for which one of them saw no snapshot."""
    now = time.monotonic()
    return max(
        (later - when) * 1000
        for player in players
        for when, later in pairwise(
            [since, *(when for when, _ in player.record.snapshots if when > since), now]
        )
    )


class Play:
    def __init__(self, scene: Stage, figures: Figures) -> None:
        self.scene, self.figures = scene, figures
        self.arena = Arena(scene)
        self.newcomers: list[Player] = []

    def played(self) -> None:
        arena, add = self.arena, self.figures.add
        arena.cloud()
        distant = arena.join("cloud", PLAYERS)
        self.measured("cloud", distant)

        began = time.monotonic()
        self.scene.apply(spec())
        arena.controller()
        near = arena.join("edge", PLAYERS)
        add("new players at the edge", count(near, "edge"), f"of {PLAYERS}")
        kept = self.kept(distant, began, "cloud")
        add("players kept in the cloud through apply", kept, f"of {PLAYERS}")
        self.upload(near, distant)
        leave(distant)
        self.measured("edge", near)
        self.cost()
        six = arena.player("six", "IPv6").enter()
        add("a player by IPv6 at the edge", count([six], "edge"), "of 1")
        six.leave()

        watcher, real = arena.watcher(), Client(arena, "real")
        until(lambda: watcher.players().get("real", 999) < 999, "the game's own client")
        self.disabled(near)
        self.controller_dies(near)
        watcher.players()  # so that its flow is not forgotten
        self.upgraded(near)
        seen = watcher.players()
        add("the game's own client kept through all of it", int(seen.get("real", 999) < 999),
            "of 1")  # fmt: skip
        real.leave()
        self.old_one_ends(near)
        self.killed()

    def kept(self, players: list[Player], since: float, where: str = "edge") -> int:
        """How many are where they were, and have seen every second of it."""
        return sum(p.where == where and p.playing() and pause([p], since) < 1000 for p in players)

    def measured(self, where: str, players: list[Player]) -> None:
        add = self.figures.add
        role = {"cloud": "ue3", "edge": "ue2"}[where]  # no port of an older question, by chance
        asked = []
        for _ in range(QUERIES):
            asked.append(self.arena.qstat(role))
            time.sleep(1.05)  # as fast as a server answers one address
        assert {name for name, _ in asked} == {where}, asked
        add(f"qstat ping, {where}", [ms for _, ms in asked], "ms",
            command=f"quakestat -q3s {CLOUD4}")  # fmt: skip
        began, crossed = time.monotonic(), self.scene.wan_bytes()
        time.sleep(SECONDS)
        crossed = self.scene.wan_bytes() - crossed
        assert count(players, where) == len(players)
        add(f"player ping, {where}", pings(players, began), "ms")
        add(f"player jitter, {where}", jitter(players, began), "ms")
        add(f"WAN bytes of a second of a player, {where}", crossed / SECONDS / PLAYERS, "bytes")

    def cost(self) -> None:
        """What the server takes of the box."""
        memory, before = self.arena.used()
        time.sleep(SECONDS / 2)
        used = (self.arena.used()[1] - before) / (SECONDS / 2)
        self.figures.add(f"memory of the server with {PLAYERS} players", memory / 2**20, "MiB")
        self.figures.add(f"processor of the server with {PLAYERS} players", used * 100, "%")

    def upload(self, near: list[Player], distant: list[Player]) -> None:
        """Somebody sends what the uplink can carry, and its queue fills."""
        self.scene.server("cloud", ["iperf3", "-s", "-B", CLOUD4])
        await_listening(self.scene.lab, "cloud", 5201)
        began = time.monotonic()
        argv = ["iperf3", "-c", CLOUD4, "--bidir", "-P", "4", "-t", str(FULL)]
        self.scene.lab.run("ue2", argv, check=True)
        for where, players in (("edge", near), ("cloud", distant)):
            add = self.figures.add
            add(f"player ping, {where}, uplink full", pings(players, began + 2), "ms")
            add(f"player jitter, {where}, uplink full", jitter(players, began + 2), "ms")

    def disabled(self, near: list[Player]) -> None:
        """Whoever plays goes on where he is; only newcomers see a difference."""
        add, began = self.figures.add, time.monotonic()
        self.scene.viscum("disable", "game")
        meanwhile = self.arena.join("disabled", NEW)
        add("new players in the cloud while disabled", count(meanwhile, "cloud"), f"of {NEW}")
        self.scene.viscum("enable", "game")
        afterwards = self.arena.join("enabled", NEW)
        add("new players at the edge, enabled again", count(afterwards, "edge"), f"of {NEW}")
        add("players kept through disable", self.kept(near, began), f"of {PLAYERS}")
        kept = self.kept(meanwhile, time.monotonic() - 1, "cloud")
        add("players kept in the cloud through enable", kept, f"of {NEW}")
        leave(meanwhile + afterwards)

    def controller_dies(self, near: list[Player]) -> None:
        add, began = self.figures.add, time.monotonic()
        self.arena.kill_controller()
        meanwhile = self.arena.join("alone", NEW)
        add("new players at the edge without a controller", count(meanwhile, "edge"), f"of {NEW}")
        self.arena.controller()
        kept = self.kept(near, began)
        add("players kept through a controller restart", kept, f"of {PLAYERS}",
            command="kill -9; viscumd")  # fmt: skip
        leave(meanwhile)

    def upgraded(self, near: list[Player]) -> None:
        """Other rules of the game: a new server beside the old one."""
        add, began = self.figures.add, time.monotonic()
        rules = ('"+map"', '"+set", "fraglimit", "50", "+map"')
        self.applying = self.arena.begin_apply(spec("edge 2", rules))
        until(lambda: self.arena.states() == ["live", "draining"], "the new server")
        self.newcomers = self.arena.join("new", NEW)
        add("new players on the new server", count(self.newcomers, "edge 2"), f"of {NEW}")
        add("players kept through an upgrade", self.kept(near, began), f"of {PLAYERS}")
        add("servers in an upgrade", len(self.arena.servers()), "")
        add("longest pause of a player's picture in an upgrade", pause(near, began), "ms")

    def old_one_ends(self, near: list[Player]) -> None:
        """With its last player's flow; for that the command has waited."""
        assert self.applying.poll() is None
        began = time.monotonic()
        leave(near)
        assert self.applying.wait(90) == 0
        took = time.monotonic() - began
        add = self.figures.add
        add("the old server's end after its last player", took, "s")
        add("servers after the old one's last player", len(self.arena.servers()), "")
        kept = self.kept(self.newcomers, began, "edge 2")
        add("players kept through the old server's end", kept, f"of {NEW}")

    def killed(self) -> None:
        """What a game is, is in its server: its players lose it. The next ones are in the cloud,
        till the controller has started it again."""
        add = self.figures.add
        (old,) = self.arena.servers()
        os.kill(old, signal.SIGKILL)
        until(lambda: old not in self.arena.servers(), "the server's death")
        began = time.monotonic()
        meanwhile = self.arena.join("orphan", 1)
        add("new players in the cloud after the server was killed", count(meanwhile, "cloud"),
            "of 1")  # fmt: skip
        add("… how long it took", (time.monotonic() - began) * 1000, "ms")
        until(lambda: self.scene.status("game")["state"] == "running", "a new server")
        again = self.arena.join("again", NEW)
        add("new players at the edge, started again", count(again, "edge 2"), f"of {NEW}")
        lost = NEW - count(self.newcomers, "edge 2")
        add("players of the killed server who have to join again", lost, f"of {NEW}")
        kept = self.kept(meanwhile, began + 1, "cloud")
        add("players kept in the cloud through its return", kept, "of 1")
        leave(meanwhile + again)


def leave(players: list[Player]) -> None:
    for player in players:
        player.leave()


def count(players: list[Player], where: str) -> int:
    """How many of them play there."""
    return sum(player.where == where and player.playing() for player in players)


def main() -> None:
    figures = Figures("game")
    with stage("game", clients=3) as scene:
        Play(scene, figures).played()
    print(f"\nkept in {figures.save()}")


if __name__ == "__main__":
    run(main)
