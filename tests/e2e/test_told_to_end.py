"""The controller ends when it is told to, whatever goes on just then."""

from __future__ import annotations

import pytest

from e2e.api import client
from e2e.daemon import Daemon
from viscum.kernel import endpoint
from viscum.lab import Lab


@pytest.fixture
def daemon(lab: Lab) -> Daemon:
    return Daemon(lab).start()


@pytest.mark.req("C5")
def test_a_client_that_asks_and_never_reads(daemon: Daemon) -> None:
    """Its second answer waits until the first one is taken."""
    api = client(daemon)
    ask = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    held = endpoint.connect_unix(api.where, 10)
    held.sendall(ask * 8)
    assert api.get("/v1/host").status == 200
    assert daemon.stop() == 0
    held.close()
