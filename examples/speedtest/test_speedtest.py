"""U2: what the speed test reports at the edge and without the director."""

from __future__ import annotations

import pytest

from kit import Figures


@pytest.fixture(scope="module")
def played() -> Figures:
    return Figures.load("speedtest")


WAYS = [
    f"{f} {way}" for f in ("IPv4", "IPv6") for way in ("TCP up", "TCP down", "UDP up", "UDP down")
]


@pytest.mark.req("U2")
@pytest.mark.parametrize("way", WAYS)
def test_at_the_edge_it_reports_the_radio_and_disabled_the_wan(played: Figures, way: str) -> None:
    assert played.value(f"{way}: edge / radio") == pytest.approx(1, abs=0.03)
    assert played.value(f"{way}: disabled / WAN") == pytest.approx(1, abs=0.03)


@pytest.mark.req("U2")
def test_enabled_again_it_reports_the_radio_again(played: Figures) -> None:
    assert played.value("IPv4 TCP up: enabled again / radio") == pytest.approx(1, abs=0.03)


@pytest.mark.req("U2")
def test_next_to_nothing_crosses_the_wan(played: Figures) -> None:
    assert played.value("WAN bytes of a test at the edge / bytes it has sent, at most") < 0.001


@pytest.mark.req("U2")
def test_many_clients_at_once_share_the_radio(played: Figures) -> None:
    assert played.value("4 clients at once, together / radio") == pytest.approx(1, abs=0.03)
    # How fairly, four seconds of TCP through one queue do not say (0.1 to 0.8); but nobody starves.
    assert played.value("… the slowest of them, of a fair part") > 0.01
