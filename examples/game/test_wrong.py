"""U3: what comes of what an operator, a player or a stranger does wrong."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Iterator

import pytest

from game.arena import Arena, spec
from game.message import FRAGMENT, OUT_OF_BAND, connect
from game.play import count
from game.player import Player, State
from kit import stage
from support import wait_until


def quick(name: str = "edge", *changes: tuple[str, str]) -> str:
    """Like `spec`, but an upgrade does not wait long for who plays."""
    return spec(name, ('"2h"', '"1s"'), *changes)


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with stage("game", clients=3, wan_rate=0, wan_rtt=0, radio_rate=0) as scene:
        arena = Arena(scene)
        arena.cloud()
        yield arena


@pytest.fixture
def player(arena: Arena) -> Iterator[Player]:
    """One who plays at the edge, and has to do so at the end, too."""
    arena.scene.apply(quick())
    player = arena.player("bystander").enter()
    assert player.where == "edge"
    yield player
    before = len(player.record.snapshots)
    wait_until(lambda: len(player.record.snapshots) > before + 3, "a game that goes on")
    assert player.playing()
    player.leave()


def rubbish() -> list[bytes]:
    """Datagrams that no client sends: of nothing, of chance, too long, half of something."""
    dice = random.Random(3)
    sequence = (1 | FRAGMENT).to_bytes(4, "little")
    return [
        b"",
        b"\xff",
        OUT_OF_BAND,
        OUT_OF_BAND + b"connect",
        OUT_OF_BAND + b"connect \xff\xff\xff\xff\xff",
        OUT_OF_BAND + b"getstatus" + b"\\x" * 20_000,
        OUT_OF_BAND + b"rcon nobody quit",
        sequence + b"\x10\x27" + b"\xff" * 4,
        bytes(65_000),
        *(dice.randbytes(dice.randrange(1, 1400)) for _ in range(500)),
        *(OUT_OF_BAND + dice.randbytes(dice.randrange(1, 400)) for _ in range(500)),
    ]


@pytest.mark.req("U3")
@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_rubbish_disturbs_nobody(arena: Arena, player: Player, family: str) -> None:
    servers = arena.servers()
    with arena.socket("ue2", family) as sock:
        for datagram in rubbish():
            sock.send(datagram)
    newcomer = arena.player("newcomer", family).enter()
    assert newcomer.where == "edge"
    newcomer.leave()
    assert arena.servers() == servers


@pytest.mark.req("U3")
def test_rubbish_in_the_servers_name_disturbs_no_player() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    player = Player("careful", ours)
    player.start()
    with theirs:
        for answer in (b"challengeResponse ?", b"challengeResponse 7", b"connectResponse 7"):
            theirs.send(OUT_OF_BAND + answer)
        for datagram in rubbish():
            theirs.send(datagram)
        theirs.send(OUT_OF_BAND + b"print\nthat was all")
        wait_until(lambda: player.reason == "that was all", "him to have heard it all")
        assert player.state is State.CONNECTED
        player.leave()


@pytest.mark.req("U3")
def test_a_full_server_says_so_and_lets_in_who_waits(arena: Arena) -> None:
    """The edge's answer stands: that the cloud had room is not known to it."""
    arena.scene.apply(quick("small", ('"16"', '"2"')))
    first, second = (arena.player(f"early {n}").enter() for n in (1, 2))
    third = arena.player("late")
    with pytest.raises(TimeoutError, match="Server is full"):
        third.enter(timeout=3)
    assert count([first, second], "small") == 2
    first.leave()
    third.await_state(State.ACTIVE)
    assert count([second, third], "small") == 2
    second.leave()
    third.leave()


@pytest.mark.req("U3")
def test_a_client_of_another_version_is_told_so(arena: Arena, player: Player) -> None:
    with arena.socket("ue2") as sock:
        sock.settimeout(10)
        sock.send(OUT_OF_BAND + b"getchallenge")
        challenge = sock.recv(1000).split()[1].decode()
        sock.send(connect({"protocol": 43, "qport": 1, "challenge": challenge}))
        assert b"Server uses protocol version 71 (yours is 43)" in sock.recv(1000)


@pytest.mark.req("U3")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"oa_dm1"', '"no_such_map"'), "no game answers"),
        (('"net_enabled"', '"net_ip", "203.0.113.9", "+set", "net_enabled"'), "no game answers"),
        (('"+map"', '"+quit", "+map"'), "ended before"),
        (("/usr/games/openarena-server", "/usr/games/no-such-server"), "does not exist"),
        (('"27960/udp"', '"27960"'), 'write "27960/tcp" or "27960/udp"'),
        (('"oa_dm1"', "oa_dm1"), "is not TOML"),
    ],
)
def test_a_spec_that_can_not_work_leaves_the_game_alone(
    arena: Arena, player: Player, change: tuple[str, str], said: str
) -> None:
    done = arena.scene.apply(
        quick("edge", change, ("[run]", '[run]\nstart-timeout = "3s"')), ok=False
    )
    assert done.returncode != 0
    assert said in done.stderr
    newcomer = arena.player("newcomer").enter()
    assert newcomer.where == "edge"
    newcomer.leave()


@pytest.mark.req("U3")
def test_the_next_player_of_a_dead_server_is_in_the_cloud(arena: Arena) -> None:
    """Without any controller: the director sees that nobody has the port."""
    arena.scene.apply(quick("mortal"))
    first = arena.player("first").enter()
    (server,) = arena.servers()
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not arena.servers(), "its death")
    second = arena.player("second").enter()
    arena.scene.viscum("start", "game")
    third = arena.player("third").enter()
    assert [p.where for p in (first, second, third)] == ["mortal", "cloud", "mortal"]
    for player in (first, second, third):
        player.leave()


@pytest.mark.req("U3")
def test_a_server_that_hangs_gets_no_new_players_and_keeps_its_own(arena: Arena) -> None:
    """It has its socket still; what finds out is the spec's probe."""
    often = ("[probe]", '[probe]\ninterval = "500ms"\nfailures = 2')
    arena.scene.apply(quick("moody", often))
    player = arena.player("patient").enter()
    (server,) = arena.servers()
    arena.controller()
    os.kill(server, signal.SIGSTOP)
    try:
        wait_until(lambda: arena.heard("service.unhealthy"), "the probe's verdict", 30)
        newcomer = arena.player("newcomer").enter()
        assert newcomer.where == "cloud"
        newcomer.leave()
        assert not player.playing()
    finally:
        os.kill(server, signal.SIGCONT)
    wait_until(player.playing, "the game to go on")
    wait_until(lambda: arena.heard("service.healthy"), "the probe's verdict", 30)
    again = arena.player("again").enter()
    assert again.where == "moody"
    again.leave()
    player.leave()
