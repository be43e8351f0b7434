"""U5: what the cache is worth, that it makes no loop, and what happens when the origin fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cache.origin import Origin
from cache.play import PHOTOS, SIZE, Client, cut, edge_spec
from kit import RTT, Figures, stage
from support import wait_until


@pytest.fixture(scope="module")
def played() -> Figures:
    return Figures.load("cache")


WITHOUT, MISSES = ("without", "disabled"), ("edge, the first time",)
HITS = ("edge, again", "edge, by IPv6", "enabled again", "WAN cut")


@pytest.mark.req("U5")
@pytest.mark.parametrize(
    ("times", "cache"), [(WITHOUT, "no cache"), (MISSES, "MISS"), (HITS, "HIT")]
)
def test_every_photo_is_the_origins(played: Figures, times: tuple[str, ...], cache: str) -> None:
    for what in times:
        assert played.value(f"{what}: right answers ({cache})") == PHOTOS, what


@pytest.mark.req("U5")
def test_a_hit_needs_no_wan_and_a_miss_as_much_as_before(played: Figures) -> None:
    for what in (*WITHOUT, *MISSES):
        assert played.value(f"{what}: requests at the origin") == PHOTOS, what
        assert SIZE < played.value(f"{what}: WAN bytes a photo") < 1.2 * SIZE, what
        assert played.value(f"{what}: a photo of {SIZE // 1000} kB") > 2 * RTT * 1000, what
    for what in HITS:
        assert played.value(f"{what}: requests at the origin") == 0, what
        assert played.value(f"{what}: WAN bytes a photo") < SIZE / 1000, what
        assert played.value(f"{what}: a photo of {SIZE // 1000} kB") < RTT * 1000, what


@pytest.mark.req("U5")
def test_there_is_no_loop(played: Figures) -> None:
    assert played.value("requests at the edge that are not a client's") == 0
    assert played.value("requests of the edge at the origin from a strange address") == 0
    assert played.value("pages that may not be kept, fresh from the origin") == 5


@pytest.mark.req("U5")
def test_when_the_wan_is_cut(played: Figures) -> None:
    assert played.value("WAN cut: a page that is too old, from the cache") == 10
    assert played.value("WAN cut: … how long it took") < RTT * 1000
    assert played.value("WAN cut: a page that was never asked for: status") in (502, 504)
    assert played.value("WAN cut: … after") < 5
    assert played.value("WAN cut: pages without the edge") == 0
    assert played.value("WAN back: the page is as the origin has it now") == 1


# ---- the origin fails --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[Client, Origin]]:
    with stage("cache", dns=True, wan_rate=0, wan_rtt=0, radio_rate=0) as scene:
        origin = Origin(scene, 1, 1000)
        scene.apply(edge_spec(scene))
        yield Client(scene), origin


@pytest.mark.req("U5")
def test_an_origin_that_answers_with_errors(site: tuple[Client, Origin]) -> None:
    """The old page, till the origin is well; but its error where there is none."""
    client, origin = site
    assert client.get("broken/page")[0].body == b"first"
    origin.breaks(True)
    wait_until(lambda: client.get("broken/page")[0].cache == "STALE", "a page that is too old")
    assert [a.body for a in client.get("broken/page", "broken/page")] == [b"first"] * 2
    assert client.get("broken/other")[0].status == 503
    origin.breaks(False)
    origin.write("broken/page", b"second")
    wait_until(lambda: client.get("broken/page")[0].body == b"second", "the new page")


@pytest.mark.req("U5")
def test_a_page_that_is_not_there_is_the_origins_answer(site: tuple[Client, Origin]) -> None:
    client, _ = site
    assert [a.status for a in client.get("nothing", "nothing")] == [404, 404]


@pytest.mark.req("U5")
def test_without_egress_it_says_that_the_origin_is_out_of_reach(
    site: tuple[Client, Origin],
) -> None:
    """As where an operator has forbidden the service what it needs."""
    client, _ = site
    scene = client.scene
    asked = client.get("photos/1")[0]
    assert asked.status == 200
    scene.apply(edge_spec(scene).replace('allow = ["internet"]', "allow = []"))
    assert client.get("photos/1")[0].cache == "HIT"
    assert client.get("photos/never")[0].status in (502, 504)
    scene.apply(edge_spec(scene))
    # nginx leaves a server alone for ten seconds that it could not reach
    wait_until(lambda: client.get("photos/never")[0].status == 404, "the origin's answer", 20)


@pytest.mark.req("U5")
def test_an_upgrade_while_the_wan_is_cut(site: tuple[Client, Origin]) -> None:
    """nginx looks its origin's name up when it starts: the new one can't, and the old one stays."""
    client, _ = site
    scene = client.scene
    cut(scene, True)
    try:
        done = scene.viscum("restart", "cache", ok=False)
        assert done.returncode == 1
        # by nginx or by start-timeout, as long as the box's resolver tries
        assert "cache goes on as it was" in done.stderr
        assert client.get("photos/1")[0].cache == "HIT"
    finally:
        cut(scene, False)
