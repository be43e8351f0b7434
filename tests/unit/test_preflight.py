"""Where a client's hello may be sent, and which names stand for which."""

from __future__ import annotations

from typing import Any

import pytest

from viscum import preflight
from viscum.spec import Port, from_mapping


def due(ports: list[str], more: tuple[Port, ...] = (), **probe: Any) -> list[str]:
    spec = {
        "name": "web",
        "command": ["server"],
        "steer": {"interfaces": ["wlan0"], "targets": ["203.0.113.7"], "ports": ports},
        "probe": probe,
    }
    return [str(p) for p in preflight.due(from_mapping(spec), more)]


@pytest.mark.req("U6")
def test_only_ports_that_are_tls_by_convention_are_asked() -> None:
    assert due(["80/tcp", "22/tcp", "8000-8100/tcp", "443-444/tcp", "53/udp"]) == ["443/tcp"]
    assert due(["443/udp", "993/udp", "853/tcp"]) == ["853/tcp", "443/udp"]
    every = due([])
    assert {"443/tcp", "993/tcp", "443/udp"} <= set(every)
    assert not {"22/tcp", "25/tcp", "80/tcp", "587/tcp", "53/udp"} & set(every)


@pytest.mark.req("U6")
def test_and_those_that_are_named() -> None:
    assert due(["7000/tcp"], type="tcp", port=7000) == []
    assert due(["7000/tcp"], type="https", port=7001) == ["7001/tcp"]
    assert due(["9/udp", "7000-7009/tcp"], type="https") == ["7000/tcp"]
    assert due(["7000/tcp"], (Port("tcp", 9, 9),)) == ["9/tcp"]
    assert due(["443/tcp"], (Port("tcp", 443, 443),)) == ["443/tcp"]


@pytest.mark.req("U6")
@pytest.mark.parametrize(
    ("own", "name", "covered"),
    [
        ("cloud.example", "cloud.example", True),
        ("Cloud.Example", "cloud.example", True),
        ("*.cloud.example", "www.cloud.example", True),
        ("*.cloud.example", "*.cloud.example", True),
        ("*.cloud.example", "cloud.example", False),
        ("*.cloud.example", "a.b.cloud.example", False),
        ("*.cloud.example", "*.www.cloud.example", False),
        ("www.cloud.example", "*.cloud.example", False),
    ],
)
def test_which_names_a_certificate_covers(own: str, name: str, covered: bool) -> None:
    assert preflight._covers(own, name) is covered


@pytest.mark.req("U6")
def test_a_strangers_words_are_shown_harmless_and_short() -> None:
    assert preflight._plain("a\x1b[2Jb\nc") == "a?[2Jb?c"
    assert len(preflight._plain("x" * 1000)) == 100
    assert preflight._some(str(n) for n in range(7)) == "0, 1, 2, 3, 4 and 2 more"
