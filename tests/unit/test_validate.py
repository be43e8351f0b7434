"""What is checked of a spec against its surroundings, as far as no kernel is needed."""

from __future__ import annotations

import socket

import pytest

from viscum import validate
from viscum.spec import Port, Spec, Steer


@pytest.mark.req("N4")
def test_a_name_whose_answers_rotate_has_the_same_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round-robin DNS; else every `apply` would find a change. No server here rotates on demand."""
    answers = ["198.18.0.11", "198.18.0.10", "2001:db8:c::10"]

    def rotated(name: str, port: None, **_: object) -> list[tuple[object, ...]]:
        answers.append(answers.pop(0))
        return [(0, 0, 0, "", (address, 0)) for address in answers]

    monkeypatch.setattr(socket, "getaddrinfo", rotated)
    targets = ("cdn.example", "198.18.0.9")
    steer = Steer(interfaces=("wlan0",), targets=targets, ports=(Port("tcp", 80, 80),))
    spec = Spec(name="web", command=("httpd",), steer=steer)
    first, *others = (validate.resolve(spec) for _ in range(3))
    assert others == [first, first]
    assert set(first) == {"198.18.0.9/32", "198.18.0.10/32", "198.18.0.11/32", "2001:db8:c::10/128"}
