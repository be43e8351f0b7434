"""A phone that sends every photo of a directory, and says what it was told: a line of JSON each.

python client.py URL DIRECTORY [--bytes]
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
TIMEOUT = 60


def photos_of(directory: Path) -> list[Path]:
    """By their names; hidden ones are another program's. Raises OSError."""
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def request(image: bytes, as_bytes: bool) -> tuple[str, bytes, dict[str, str]]:
    """OpenALPR's method, the body and its headers."""
    if as_bytes:
        return "recognize_bytes", base64.b64encode(image), {"Content-Type": "application/json"}
    boundary = secrets.token_hex(16)
    head = (
        f"--{boundary}\r\nContent-Disposition: form-data; name=image; filename=photo\r\n"
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + image + f"\r\n--{boundary}--\r\n".encode()
    return "recognize", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def send(url: str, image: bytes, as_bytes: bool = False, **parameters: str) -> dict[str, Any]:
    """The answer, with its status and the seconds it took from the connection's first packet to the
    answer's last. Raises OSError."""
    where = urlsplit(url)
    method, body, headers = request(image, as_bytes)
    words = urlencode({"country": "eu", "secret_key": "none", **parameters})
    began = time.perf_counter()
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 80, timeout=TIMEOUT)
    try:
        connection.request("POST", f"/v2/{method}?{words}", body, headers)
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    finally:
        connection.close()
    return answer | {"status": response.status, "seconds": time.perf_counter() - began}


def resolved(url: str) -> str:
    """With an address for the name, asked for once: a phone knows it from then on. Raises
    OSError."""
    where = urlsplit(url)
    address = socket.gethostbyname(where.hostname or "")
    return f"http://{address}:{where.port or 80}/"


def main() -> None:
    parser = argparse.ArgumentParser(description="Sends photos to be read.")
    parser.add_argument("url", help="for example http://cloud.example/")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--bytes", action="store_true", help="as base64, to recognize_bytes")
    parser.add_argument("--camera", default="", help="its name, by default the phone's address")
    words = parser.parse_args()
    url = resolved(words.url)
    for path in photos_of(words.directory):
        answer = send(url, path.read_bytes(), words.bytes, camera=words.camera)
        print(json.dumps({"photo": path.name, **answer}), flush=True)
    if not photos_of(words.directory):
        sys.exit(f"no photos in {words.directory}; they are called {', '.join(SUFFIXES)}")


if __name__ == "__main__":
    main()
