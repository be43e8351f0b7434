"""What a request holds: parameters of its query, the picture in its body. Stands between strangers
and the rest; whatever can't be used is refused in words."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from hmac import compare_digest
from urllib.parse import parse_qs

from serving.handler import Refused

MAX_CAMERA = 64


@dataclass(frozen=True)
class Query:
    """Those of OpenALPR's parameters that mean something here, and `camera`: who took it."""

    country: str
    state: str
    topn: int
    return_image: bool
    camera: str


def query(words: str, key: str, client: str) -> Query:
    """key: what secret_key has to be, if anything; client: the camera if none is named. Raises
    Refused."""
    try:
        given = parse_qs(words, keep_blank_values=True, errors="strict", max_num_fields=32)
        found = {name: values[-1] for name, values in given.items()}
    except ValueError as error:
        raise Refused(400, f"the query can't be read: {error}") from None
    if key and not compare_digest(found.get("secret_key", "").encode(), key.encode()):
        raise Refused(401, "invalid secret_key")
    country = found.get("country", "")
    if not country:
        raise Refused(400, "parameter country is missing; for example country=eu")
    where = (country + found.get("state", "")).replace(",", "").replace("-", "")
    if not (where.isascii() and where.isalnum()):
        raise Refused(400, "parameters country and state are letters, as in country=eu&state=de")
    topn = found.get("topn", "10")
    if not (topn.isascii() and topn.isdigit() and len(topn) < 5 and 1 <= int(topn) <= 1000):
        raise Refused(400, "parameter topn is a number from 1 to 1000")
    if found.get("return_image", "0") not in ("0", "1"):
        raise Refused(400, "parameter return_image is 0 or 1")
    camera = found.get("camera") or client
    if len(camera) > MAX_CAMERA or not camera.isprintable():
        raise Refused(400, f"parameter camera has at most {MAX_CAMERA} printable characters")
    image_too = found.get("return_image") == "1"
    return Query(country[:16], found.get("state", "")[:16], int(topn), image_too, camera)


def image_of_form(body: bytes, content_type: str) -> bytes:
    """The part `image` of multipart/form-data. Raises Refused."""
    header = Message()
    header["content-type"] = content_type
    if header.get_content_type() != "multipart/form-data":
        raise Refused(415, "send multipart/form-data with a part named image")
    boundary = header.get_boundary()
    if not boundary:
        raise Refused(400, "the Content-Type names no boundary")
    # Every part begins on a line of its own with two dashes and the boundary.
    line = b"--" + boundary.encode()
    end = 0 if body.startswith(line) else body.find(b"\r\n" + line)
    while end >= 0:
        start, end = end, body.find(b"\r\n" + line, end + 2)
        blank = body.find(b"\r\n\r\n", start, end)
        if end < 0 or blank < 0:
            break
        described = BytesHeaderParser().parsebytes(body[start:blank].partition(line)[2].lstrip())
        if described.get_param("name", header="content-disposition") == "image":
            if blank + 4 == end:
                raise Refused(400, "the part named image is empty")
            return body[blank + 4 : end]
    raise Refused(400, "there is no part named image")


def image_of_base64(body: bytes) -> bytes:
    """The whole body is base64, maybe in the quotes of JSON. Raises Refused."""
    words = body.translate(None, b" \t\r\n").strip(b'"')
    if not words:
        raise Refused(400, "image_bytes is empty; the body is the image in base64")
    try:
        return base64.b64decode(words, validate=True)
    except binascii.Error as error:
        raise Refused(400, f"image_bytes is not base64: {error}") from None
