"""What the server is told: options, or environment variables of the same name (PLATES_PORT …)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    """database: HOST:PORT, empty for none (then what is recognised stays in the spool);
    database_seconds: how long it may take to answer; key: who has it may ask, empty for anybody;
    limits in bytes and seconds; max_uploads: of all uploads at a time."""

    port: int = 80
    tls_port: int = 443
    tls_certificate: str = ""
    tls_key: str = ""
    spool: Path = Path("/var/lib/plates/spool")
    spool_limit: int = 64 << 20
    database: str = ""
    database_user: str = "plates"
    database_password_file: str = ""
    database_ca: str = ""
    database_seconds: float = 10.0
    batch_seconds: float = 1.0
    site: str = "cloud"
    key: str = ""
    max_bytes: int = 12 << 20
    max_decoded: int = 256 << 20
    max_uploads: int = 36 << 20
    max_connections: int = 32
    client_connections: int = 8
    upload_seconds: float = 30.0
    threads: int = 1
