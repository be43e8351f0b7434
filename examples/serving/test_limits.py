"""Who is slow, takes much or goes away takes nothing from others, and not for long."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest

from e2e.stranger import drip, refused, whole
from serving.conftest import CONNECTIONS, EACH, MOST, SECONDS, Tiny, answer, head
from serving.handler import LINGER

pytestmark = pytest.mark.req("U1", "U4")

OTHER = "ap"  # the router: of another network than the two clients, with IPv6 as well


@contextlib.contextmanager
def held(
    tiny: Tiny, number: int, role: str = "ue", data: bytes = b""
) -> Iterator[list[socket.socket]]:
    """So many connections, which have sent this and wait."""
    with contextlib.ExitStack() as all_of_them:
        those = [all_of_them.enter_context(tiny.connect(role)) for _ in range(number)]
        for one in those:
            one.sendall(data)
        yield those


@contextlib.contextmanager
def at_least(seconds: float) -> Iterator[None]:
    """What is in it takes no less."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began >= seconds


# --- time ----------------------------------------------------------------------------------------


def test_a_slow_upload_is_told_so(hasty: Tiny) -> None:
    with at_least(SECONDS), hasty.connect() as slow:
        slow.sendall(head(1000))
        told = answer(drip(slow, b"A" * 1000))
    refused(told, 408, f"the upload took more than {SECONDS:g} s")


def test_a_slow_request_is_hung_up_on(hasty: Tiny) -> None:
    with at_least(SECONDS), hasty.connect() as slow:
        assert drip(slow, head(1000)) == b""


def hello() -> bytes:
    """How TLS begins."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="tiny")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_a_slow_handshake_is_hung_up_on(hasty: Tiny) -> None:
    with at_least(SECONDS), hasty.connect(port=hasty.tls_port) as slow:
        assert drip(slow, hello()) == b""


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_one_who_says_nothing_is_hung_up_on(hasty: Tiny, scheme: str) -> None:
    port = {"http": hasty.port, "https": hasty.tls_port}[scheme]
    with at_least(SECONDS), hasty.connect(port=port) as silent:
        assert whole(silent) == b""


def test_one_who_does_not_read_is_hung_up_on(hasty: Tiny) -> None:
    ask = b"GET /large HTTP/1.1\r\n\r\n"
    with at_least(SECONDS), held(hasty, EACH, data=ask) as those:
        assert all(one.recv(1) for one in those)  # and no more
        hasty.await_status(200)


def test_one_who_is_refused_and_stays_is_hung_up_on(tiny: Tiny) -> None:
    """Also by a server that would wait long for an upload."""
    with at_least(LINGER), held(tiny, EACH, data=head(MOST + 1)) as those:
        assert all(one.recv(1) for one in those)
        tiny.await_status(200)


def test_every_request_has_its_time(hasty: Tiny) -> None:
    end = time.monotonic() + 1.5 * SECONDS
    with hasty.connect() as client:
        while time.monotonic() < end:
            client.sendall(head(2) + b"ab")
            response = HTTPResponse(client)
            response.begin()
            assert (response.status, response.read()) == (200, b'{"bytes": 2}')


def test_who_is_slow_delays_nobody(tiny: Tiny) -> None:
    """Nor does one in the middle of a handshake."""
    with held(tiny, 1, data=head(3) + b"a"), tiny.connect(port=tiny.tls_port) as slow:
        slow.sendall(hello()[:100])
        for scheme in ("http", "https"):
            assert tiny.curl("-d", "abc", scheme=scheme) == (200, {"bytes": 3})


# --- room ----------------------------------------------------------------------------------------


def test_who_takes_many_connections_takes_them_from_nobody_else(tiny: Tiny) -> None:
    with held(tiny, EACH):
        tiny.await_status(503)
        refused(tiny.curl(), 503, "too many connections")
        assert tiny.curl(role=OTHER)[0] == 200
        with held(tiny, CONNECTIONS - EACH, OTHER):
            tiny.await_status(503, role=OTHER)
            assert b"\r\nRetry-After: 5\r\n" in tiny.told(b"", OTHER)
        tiny.await_status(200, role=OTHER)
        assert tiny.curl()[0] == 503
    tiny.await_status(200)


def test_connections_of_all_ports_are_counted_together(tiny: Tiny) -> None:
    """Of TLS there are no words: the client would have to be listened to first."""
    with held(tiny, EACH):
        tiny.await_status(503)
        with tiny.connect(port=tiny.tls_port) as one_more:
            assert whole(one_more) == b""


def test_who_has_a_network_is_one_client(tiny: Tiny) -> None:
    """With IPv6; with IPv4 everybody has an address."""
    with held(tiny, EACH):
        tiny.await_status(503)
        assert tiny.curl(role="ue2")[0] == (503 if ":" in tiny.address else 200)


def test_uploads_of_one_client_leave_memory_for_anothers(tiny: Tiny) -> None:
    """What an upload says it has counts, before it has come: for each two of the largest, for all
    three."""
    upload = ("-d", "x")
    with held(tiny, 2, data=head(MOST)):
        tiny.await_status(503, *upload)
        refused(tiny.curl(*upload), 503, "too many uploads")
        assert tiny.curl(*upload, role=OTHER)[0] == 200
        with held(tiny, 1, OTHER, head(MOST)):
            tiny.await_status(503, *upload, role=OTHER)
            came = tiny.told(head(1) + b"x", OTHER)
            assert b"\r\nRetry-After: 5\r\n" in came
            refused(answer(came), 503, "too many uploads")
        tiny.await_status(200, *upload, role=OTHER)
    tiny.await_status(200, *upload)


def test_one_that_goes_in_the_middle_of_its_upload_is_forgotten(tiny: Tiny) -> None:
    """And what it had taken is there for others."""
    with contextlib.ExitStack() as gone:
        for _ in range(2):
            connection = gone.enter_context(tiny.connect())
            connection.sendall(head(MOST) + b"AAAA")
            reset = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        tiny.await_status(503, "-d", "x")
    tiny.await_status(200, "-d", "x")
