"""What strangers send, without a server: an image comes of it, or words of refusal."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plates.client import request
from plates.intake import image_of_base64, image_of_form, query
from serving.handler import Refused

pytestmark = pytest.mark.req("U1")

FORM = "multipart/form-data; boundary=b"
PART = 'Content-Disposition: form-data; name=image; filename="p"'


@given(st.binary())
def test_an_image_comes_out_as_it_went_in(image: bytes) -> None:
    _, body, headers = request(image or b"x", as_bytes=False)
    assert image_of_form(body, headers["Content-Type"]) == (image or b"x")
    _, body, _ = request(image or b"x", as_bytes=True)
    assert image_of_base64(b'"' + body + b'"') == (image or b"x")
    assert image_of_base64(base64.encodebytes(image or b"x")) == (image or b"x")


@pytest.mark.parametrize(
    "parts",
    [
        f"--b\r\n{PART}\r\n\r\nimage\r\n--b--\r\n",
        f"words before\r\n--b\r\n{PART}\r\n\r\nimage\r\n--b--",
        f"--b\r\n\r\nother\r\n--b\r\nX: y\r\n{PART}\r\n\r\nimage\r\n--b--",
        f"--b\r\n{PART}\r\n\r\nimage\r\n--b\r\n{PART}\r\n\r\nsecond\r\n--b--",
    ],
)
def test_parts(parts: str) -> None:
    assert image_of_form(parts.encode(), FORM) == b"image"


@given(st.binary(), st.text())
@example(b"--b", "")
@example(b"--b\r\n\r\n", "")
@example(b"\r\n--b--", "")
@example(b"--b\r\n" + PART.encode() + b"\r\n\r\nno end", "")
@example(b"--b\r\nContent-Disposition: form-data; name*=image\xff\r\n\r\nx\r\n--b--", "")
def test_whatever_it_is_it_is_refused(body: bytes, words: str) -> None:
    for content_type in (FORM, words, f"multipart/form-data; boundary{words}"):
        with pytest.raises(Refused):
            image_of_form(body, content_type)
    try:
        image_of_base64(body)
        query(words, "", "10.1.0.2")
        query(f"country=eu&topn={words}", "", "10.1.0.2")
    except Refused:
        pass
