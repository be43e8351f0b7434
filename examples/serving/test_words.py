"""What is asked is answered, what can't be used is refused in words, and the server goes on."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from e2e.stranger import refused, whole
from serving.conftest import MOST, Tiny, answer, head
from viscum.lab import ue4, ue6

pytestmark = pytest.mark.req("U1", "U4")

NEXT = b"GET /hidden HTTP/1.1\r\n\r\n"  # must not be taken for a request


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file four times as large as may be."""
    path = tmp_path / "large"
    path.write_bytes(bytes(MOST * 4))
    return path


def test_a_body_is_answered_and_the_next_on_the_same_connection(tiny: Tiny) -> None:
    came = tiny.told(head(3) + b"abc" + head(0) + head(2) + b"de")
    assert came.count(b"HTTP/1.1 200 ") == 3
    assert re.findall(rb'{"bytes": (\d)}', came) == [b"3", b"0", b"2"]


def test_a_body_may_be_as_large_as_is_said(tiny: Tiny, large: Path) -> None:
    large.write_bytes(bytes(MOST))
    assert tiny.curl("--data-binary", f"@{large}") == (200, {"bytes": MOST})


def test_who_asks_is_known_by_the_address(tiny: Tiny) -> None:
    """Of IPv4 too, where the socket is of IPv6."""
    assert tiny.curl() == (200, {"client": ue6() if ":" in tiny.address else ue4()})


@pytest.mark.parametrize("length", ["", "-5", "+5", "5 5", "0x5", "1e9", "²", "5, 5", "5\r\n 5"])
def test_what_is_no_length(tiny: Tiny, length: str) -> None:
    refused(answer(tiny.told(head(length) + b"12345")), 411, "no Content-Length")


def test_two_lengths_are_none(tiny: Tiny) -> None:
    came = tiny.told(head(3, more="Content-Length: 30\r\n") + b"abc" + NEXT)
    refused(answer(came), 411, "no Content-Length")


@pytest.mark.parametrize("words", [(), ("-H", "Transfer-Encoding: chunked", "-d", "x")])
def test_a_body_of_no_length(tiny: Tiny, words: tuple[str, ...]) -> None:
    said = "not in chunks" if words else "no Content-Length"
    refused(tiny.curl("-X", "POST", *words), 411, said)


@pytest.mark.parametrize("length", [MOST + 1, 10**11, "9" * 5000])
def test_one_who_asks_first_is_told_at_once_that_it_is_too_large(
    tiny: Tiny, length: object
) -> None:
    with tiny.connect() as connection:
        connection.sendall(head(length, more="Expect: 100-continue\r\n"))
        refused(answer(whole(connection)), 413, f"{str(length)[:20]} bytes; at most {MOST}")


@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"])
def test_too_large_an_upload_is_told_so(tiny: Tiny, large: Path, expect: str) -> None:
    """Also to one who sends all of it without waiting for an answer."""
    told = tiny.curl("-H", expect, "--data-binary", f"@{large}")
    refused(told, 413, f"at most {MOST}")


@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
@pytest.mark.parametrize("expect", ["Expect: 100-continue\r\n", ""])
def test_one_who_does_not_wait_is_answered_too(
    tiny: Tiny, large: Path, method: str, expect: str
) -> None:
    """Whose bytes are on their way when the answer is: a connection closed under them would be
    reset, and the words lost."""
    data = head(large.stat().st_size, method, expect) + large.read_bytes()
    status, told = answer(tiny.told(data))
    assert status == (413 if expect else {"POST": 413, "GET": 200, "PUT": 501}[method])
    assert "client" in told or told["error_code"] == status


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "BREW"])
def test_other_methods(tiny: Tiny, method: str) -> None:
    refused(tiny.curl("-X", method), 501, f"Unsupported method ('{method}')")


CHUNKED = "Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("begin", "status"),
    [
        (head(len(NEXT), "GET"), 200),
        (head(len(NEXT), "PUT"), 501),
        (head("x"), 411),
        (head(MOST + 1), 413),
        (head(1, "POST", CHUNKED), 411),
        (head(1, "GET", CHUNKED), 200),
    ],
    ids=["GET", "PUT", "no length", "too large", "chunked", "chunked GET"],
)
def test_a_body_that_nobody_reads_is_not_the_next_request(
    tiny: Tiny, begin: bytes, status: int
) -> None:
    assert answer(tiny.told(begin + NEXT))[0] == status


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"GET /" + b"a" * 70_000, 414, "bad request"),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 70_000, 431, "Line too long"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101, 431, "Too many headers"),
        (b"GET http://[/ HTTP/1.1", 400, "the path can't be read"),
        (b"POST http://[/ HTTP/1.1", 400, "the path can't be read"),
    ],
    ids=["long line", "long header", "many headers", "GET nowhere", "POST nowhere"],
)
def test_what_is_no_request(tiny: Tiny, data: bytes, status: int, words: str) -> None:
    refused(answer(tiny.told(data + b"\r\n\r\n" + b"x" * 70_000)), status, words)


@pytest.mark.parametrize(
    "line", [b"nonsense", b"GET / HTTP/9.9", b"\x16\x03\x01\xff\x00", b"a " * 9]
)
def test_what_is_not_even_http(tiny: Tiny, line: bytes) -> None:
    """It gets the words alone."""
    assert json.loads(tiny.told(line + b"\r\n\r\n"))["error_code"] in (400, 505)


def test_half_an_upload_is_not_taken_for_a_whole(tiny: Tiny) -> None:
    refused(answer(tiny.told(head(1000) + b"AAAA")), 400, "ended after 4 of 1000 bytes")


def test_by_tls_too(tiny: Tiny, large: Path) -> None:
    assert tiny.curl("-d", "abc", scheme="https") == (200, {"bytes": 3})
    large_one = ("-H", "Expect:", "--data-binary", f"@{large}")
    refused(tiny.curl(*large_one, scheme="https"), 413, f"at most {MOST}")


def test_what_is_no_tls_is_hung_up_on(tiny: Tiny) -> None:
    with tiny.connect(port=tiny.tls_port) as connection:
        connection.sendall(head(3) + b"abc")
        assert b"HTTP" not in whole(connection)


def test_a_failure_is_told_and_in_the_log(own: Tiny) -> None:
    """And ends nothing but the request."""
    refused(own.curl("-d", "fail"), 500, "the server has failed; its log says more")
    own.await_words("RuntimeError: as it was asked to")
    assert own.curl("-d", "abc") == (200, {"bytes": 3})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_is_told_to_end_answers_what_is_in_work(own: Tiny, number: signal.Signals) -> None:
    """And takes nothing more: then Viscum sends who comes to the cloud."""
    with own.connect() as slow:
        slow.sendall(head(4) + b"ab")
        own.await_words("an upload")
        own.child.send_signal(number)
        own.await_words("takes no more")
        with pytest.raises(ConnectionRefusedError):
            own.connect()
        slow.sendall(b"cd")
        assert answer(whole(slow)) == (200, {"bytes": 4})
    assert own.child.wait() == 0
