"""U6: clients that verify take the edge for the cloud, and wrong certificates are told of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit import RTT, Figures, spec_of, stage
from tls.play import LIVE, Site
from viscum.lab import CLOUD_NAME

PROTOCOLS = ("HTTPS", "HTTP/3")


@pytest.fixture(scope="module")
def played() -> Figures:
    return Figures.load("tls")


@pytest.mark.req("U6")
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("where", ["edge", "cloud"])
def test_clients_that_verify_are_answered(played: Figures, protocol: str, where: str) -> None:
    assert played.value(f"{protocol}, {where}: answers of somebody else") == 0


@pytest.mark.req("U6")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_page_of_the_edge_does_not_wait_for_the_wan(played: Figures, protocol: str) -> None:
    page = "{}, {}: a verified page by a new connection"
    assert played.value(page.format(protocol, "edge")) < RTT * 1000
    assert played.value(page.format(protocol, "cloud")) >= 2 * RTT * 1000


@pytest.mark.req("U6")
def test_of_a_page_at_the_edge_only_the_name_crosses_the_wan(played: Figures) -> None:
    crossed = "{}: WAN bytes a page, with the look-up of its name"
    assert played.value(crossed.format("edge")) < 500 < played.value(crossed.format("cloud"))


@pytest.mark.req("U6")
def test_a_wrong_certificate_is_told_of_and_a_right_one_is_not(played: Figures) -> None:
    assert played.value("clients that reject the wrong one") == 2
    assert played.value("… of which the preflight has told") == 2
    assert played.value("notes of a good certificate") == 0
    assert played.value("notes of the renewed one") == 0
    assert played.value("answers of the edge with it") == 1


# ---- what an operator gets wrong -------------------------------------------------------------


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with stage("tls", dns=True, wan_rate=0, wan_rtt=0, radio_rate=0) as scene:
        yield Site(scene)


def missing(live: Path) -> None:
    (live / "privkey.pem").unlink()


def another_key(live: Path) -> None:
    (live / "privkey.pem").write_text((live.parent / "live" / "privkey.pem").read_text())


def nonsense(live: Path) -> None:
    (live / "fullchain.pem").write_text("no certificate\n")


@pytest.mark.req("U6")
@pytest.mark.parametrize("spoil", [missing, another_key, nonsense])
def test_a_certificate_that_the_server_can_not_use(
    site: Site,
    spoil: Callable[[Path], None],
) -> None:
    """The service that ran goes on, with the certificate it had."""
    site.apply()
    live = site.issue(spoil.__name__, CLOUD_NAME)
    spoil(live)
    text = spec_of("tls").replace(LIVE, str(live))
    done = site.scene.apply(text, ok=False)
    assert done.returncode == 1
    assert "ended before it listened" in done.stderr
    assert "the new generation is removed; tls goes on as it was" in done.stderr
    assert site.https()[0] == "edge"


@pytest.mark.req("U6")
def test_why_http3_was_refused_is_said(site: Site) -> None:
    site.apply(site.issue("other", "other.example"))
    said = site.http3(1)
    assert isinstance(said, str)
    assert said.startswith("refused: bad certificate: ")
    assert CLOUD_NAME in said
