"""U1: what the play has measured, with photos drawn or the user's own."""

from __future__ import annotations

import pytest

from kit import Figures

pytestmark = pytest.mark.req("U1")

KINDS = ("plain", "aslant", "far", "blur", "motion", "noise", "dark", "glare", "all")
RTT = 60  # ms, to the cloud


@pytest.fixture(scope="module")
def played() -> Figures:
    return Figures.load("plates")


@pytest.fixture(scope="module")
def own(played: Figures) -> bool:
    """Whether the pictures were the user's: of any size, and with any number of plates or none."""
    return any(row.command.startswith("--photos") for row in played.rows)


def test_the_edge_is_nearer_than_5_ms_and_the_cloud_farther_than_60(played: Figures) -> None:
    assert played.value("RTT, edge") < 5
    assert played.value("RTT, cloud") > RTT


def test_hundreds_of_bytes_cross_the_wan_instead_of_hundreds_of_kilobytes(
    played: Figures, own: bool
) -> None:
    edge, cloud = (played.value(f"WAN bytes per photo, {where}") for where in ("edge", "cloud"))
    assert edge < cloud
    if not own:
        assert edge < 1000
        assert cloud > 100_000


def test_an_answer_comes_sooner_by_some_round_trips(played: Figures, own: bool) -> None:
    """A photo of hundreds of kilobytes takes a new connection four or more to get to the cloud;
    the smallest takes two."""
    edge, cloud = (
        played.value(f"… of that, without reading, {where}") for where in ("edge", "cloud")
    )
    assert cloud - edge > (1 if own else 4) * RTT
    assert played.value("photo to answer, edge") < played.value("photo to answer, cloud")


def test_the_phones_radio_is_awake_for_less(played: Figures, own: bool) -> None:
    edge, cloud = (
        played.value(f"client's radio awake per photo, {where}") for where in ("edge", "cloud")
    )
    assert edge < cloud - (1 if own else 4) * RTT
    edge, cloud = (played.value(f"client airtime per photo, {w}") for w in ("edge", "cloud"))
    assert edge == pytest.approx(cloud, rel=0.25)  # the same photo crosses the same radio


@pytest.mark.parametrize("kind", KINDS)
def test_plates_are_read(played: Figures, kind: str) -> None:
    rows = {row.claim: row for row in played.rows}
    row = rows.get(f"read without a mistake: {kind}")
    if row is None:
        pytest.skip("pictures of your own were played")
    asked = int(row.unit.removeprefix("of "))
    assert row.value / asked >= (0.2 if kind == "all" else 0.8)


def test_a_cut_wan_costs_no_answer_and_no_plate(played: Figures) -> None:
    rows = {row.claim: row for row in played.rows}
    for claim in (
        "WAN cut: photos answered",
        "WAN cut: plates on the edge's disk",
        "WAN back: plates in the database",
    ):
        assert rows[claim].value == int(rows[claim].unit.removeprefix("of ")), claim
    assert played.value("photo to answer, WAN cut") < 2 * played.value("photo to answer, edge")
