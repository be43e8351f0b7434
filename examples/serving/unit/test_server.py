"""A server that can't have its port."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from serving.limits import Room
from serving.server import Server
from serving.tiny import Config, Handler

pytestmark = pytest.mark.req("U1", "U4")


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as other:
        yield other.getsockname()[1]


def refused(port: int) -> object:
    with pytest.raises(SystemExit) as ended:
        Server(Handler, Room(Config()), port)
    return ended.value.code  # words: printed by Python, which ends with 1


def test_a_port_that_is_in_use_is_named(taken: int) -> None:
    assert refused(taken) == f"tiny: can't listen on port {taken}: Address already in use"


def test_a_port_that_there_is_not() -> None:
    assert refused(70000) == "tiny: can't listen on port 70000: bind(): port must be 0-65535."
