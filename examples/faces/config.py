"""What the server can be told: options, or environment variables (FACES_PORT …)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """sight: pixels of the longer side that faces are looked for at; confidence: of the least sure
    face that is told, from 0 to 1; threads: of OpenCV; limits as `serving.limits` has them, and
    upload_seconds for each frame of a stream as well."""

    port: int = 80
    site: str = "cloud"
    sight: int = 320
    confidence: float = 0.6
    max_bytes: int = 4 << 20
    max_pixels: int = 16_000_000
    max_uploads: int = 32 << 20
    max_connections: int = 32
    client_connections: int = 16
    max_streams: int = 8
    client_streams: int = 4
    upload_seconds: float = 30.0
    threads: int = 1
