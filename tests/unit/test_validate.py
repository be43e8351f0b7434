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
    steer = Steer(("wlan0",), ("cdn.example", "198.18.0.9"), (Port("tcp", 80, 80),))
    first, *others = (validate.resolve(Spec("web", ("httpd",), steer=steer)) for _ in answers)
    assert others == [first, first]
    assert set(first) == {"198.18.0.9/32", "198.18.0.10/32", "198.18.0.11/32", "2001:db8:c::10/128"}
