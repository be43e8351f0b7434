"""U7: every claim has its counterpart, what Viscum causes is as the paper has it, and a part that
cannot run says why.
"""

from __future__ import annotations

import re

import pytest

from paper import measure
from paper.claims import Claim, claims
from paper.measured import Measured

pytestmark = pytest.mark.req("U7")


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured((part.figures for part in measure.PARTS), measure.KEPT)


def outcome(part: str) -> str:
    """By the name of its figures: done, failed, cannot, or nothing if it was never measured."""
    name = next(p.name for p in measure.PARTS if p.figures == part)
    return str(measure.earlier().get(name, {}).get("outcome", ""))


def need(*parts: str) -> None:
    """Skips where they cannot run, or with --only were not asked for. Not where they failed."""
    for part in parts:
        if outcome(part) == "cannot":
            pytest.skip(f"{part} cannot run here; docs/paper.md says why")
        if not outcome(part):
            pytest.skip(f"{part} was not measured; next: make paper")


def value(measured: Measured, part: str, figure: str) -> float:
    need(part)
    return measured.one(part, figure).value


@pytest.mark.parametrize("claim", claims(), ids=lambda c: f"{c.part}: {c.figure}")
def test_a_claim_has_its_counterpart(claim: Claim, measured: Measured) -> None:
    need(claim.part)
    claim.ours(measured)


ZERO = {
    "paper-transitions": (
        "requests broken, moved or unanswered",
        "connections broken, moved or unanswered",
        "UDP flows broken, moved or unanswered",
        "flows open at the edge cut by viscum disable",
        "new flows failed by viscum disable",
    ),
    "paper-switch": ("downloads that failed",),
    "paper-rtt": ("pings without an answer",),
    "paper-unmodified": ("files of the servers' packages that are not Debian's",),
}


@pytest.mark.parametrize(("part", "figure"), [(p, f) for p, some in ZERO.items() for f in some])
def test_nothing_of_it(part: str, figure: str, measured: Measured) -> None:
    assert value(measured, part, figure) == 0


def test_clients_were_at_the_edge_and_in_the_cloud(measured: Measured) -> None:
    """Or nothing was switched under them."""
    need("paper-transitions")
    for what in ("requests", "connections", "UDP flows"):
        row = measured.row("paper-transitions", f"{what} that the edge answered")
        assert 0 < row.value < float(row.unit.removeprefix("of "))


def test_the_papers_way_to_disable_cuts_flows(measured: Measured) -> None:
    """Or the zero of `disable` would say nothing."""
    claim = "flows open at the edge cut by taking the director off"
    assert value(measured, "paper-transitions", claim) > 0


def test_the_edge_is_as_near_as_the_paper_says(measured: Measured) -> None:
    need("paper-rtt")
    assert measured.percentile("paper-rtt", "ping, edge", 99).value < 5
    assert measured.one("paper-rtt", "ping, cloud").value >= 60


def test_nothing_stays_beyond_the_server(measured: Measured) -> None:
    assert value(measured, "paper-compare", "processes that stay for a service, Viscum") == 0
    assert value(measured, "paper-compare", "processes that stay for a service, Docker") >= 2


def test_at_the_edge_nothing_crosses_the_wan(measured: Measured) -> None:
    for state in ("run", "enable", "start"):
        assert value(measured, "paper-switch", f"{state}: across the WAN") < 0.5
        assert value(measured, "paper-switch", f"{state}: a client gets") > 200
    for state in ("cloud", "disable", "killed", "rm"):
        assert value(measured, "paper-switch", f"{state}: across the WAN") > 20


def test_the_page_has_every_claim_and_every_picture() -> None:
    page = measure.page()
    text = page.read_text()
    for claim in claims():
        assert claim.says in text
    report = (page.with_suffix("") / "index.html").read_text()
    assert text.count("![") == report.count('src="data:image/svg+xml')
    figures = text.partition("\n## Figures\n")[2].partition("\n## ")[0].split("\n### ")[1:]
    assert len(figures) > 10
    for figure in figures:
        assert re.search(r"^(!\[|```|Not drawn: .)", figure, re.M), figure
    for part in measure.PARTS:
        if outcome(part.figures) in ("failed", "cannot"):
            assert f"{outcome(part.figures)}: " in text
