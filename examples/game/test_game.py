"""U3: players of the edge have less ping, and nothing that is done to the service sends them
away."""

from __future__ import annotations

import pytest

from game.play import NEW, PLAYERS
from kit import RTT, Figures


@pytest.fixture(scope="module")
def played() -> Figures:
    return Figures.load("game")


@pytest.mark.req("U3")
@pytest.mark.parametrize("kind", ["qstat", "player"])
def test_the_ping_is_the_radios_and_not_the_uplinks(played: Figures, kind: str) -> None:
    assert played.value(f"{kind} ping, edge") < RTT * 1000 / 2
    assert played.value(f"{kind} ping, cloud") >= RTT * 1000 - 1  # qstat's are whole


@pytest.mark.req("U3")
def test_a_full_uplink_is_nothing_to_players_at_the_edge(played: Figures) -> None:
    full = "player ping, {}, uplink full"
    assert played.value(full.format("edge")) < RTT * 1000 / 2
    assert played.value(full.format("cloud")) > played.value("player ping, cloud")


@pytest.mark.req("U3")
def test_a_game_at_the_edge_needs_no_uplink(played: Figures) -> None:
    crossed = "WAN bytes of a second of a player, {}"
    assert played.value(crossed.format("edge")) < played.value(crossed.format("cloud")) / 100


@pytest.mark.req("U3")
@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("players kept in the cloud through apply", PLAYERS),
        ("players kept through disable", PLAYERS),
        ("players kept in the cloud through enable", NEW),
        ("players kept through a controller restart", PLAYERS),
        ("players kept through an upgrade", PLAYERS),
        ("players kept through the old server's end", NEW),
        ("players kept in the cloud through its return", 1),
        ("the game's own client kept through all of it", 1),
    ],
)
def test_who_plays_goes_on_where_he_is(played: Figures, what: str, number: int) -> None:
    assert played.value(what) == number


@pytest.mark.req("U3")
@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("new players at the edge", PLAYERS),
        ("a player by IPv6 at the edge", 1),
        ("new players in the cloud while disabled", NEW),
        ("new players at the edge, enabled again", NEW),
        ("new players at the edge without a controller", NEW),
        ("new players on the new server", NEW),
        ("new players in the cloud after the server was killed", 1),
        ("new players at the edge, started again", NEW),
    ],
)
def test_who_comes_goes_where_the_service_is(played: Figures, what: str, number: int) -> None:
    assert played.value(what) == number


@pytest.mark.req("U3")
def test_two_servers_in_an_upgrade_and_one_after_it(played: Figures) -> None:
    assert played.value("servers in an upgrade") == 2
    assert played.value("servers after the old one's last player") == 1


@pytest.mark.req("U3")
def test_a_game_dies_with_its_server(played: Figures) -> None:
    """Which is how it is without Viscum, too."""
    assert played.value("players of the killed server who have to join again") == NEW
