"""Certificates for the tests, made by openssl: an authority, a server's, clients'."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


class Authority:
    """In a directory of its own; every certificate is NAME.crt with NAME.key."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.directory = directory
        self.name = name
        self._openssl(
            "req", "-x509", *self._key(name), "-days", "2", "-subj", f"/CN={name}",
            "-out", str(self.crt(name)),
        )  # fmt: skip

    def crt(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def issue(self, name: str, common_name: str = "", *, days: int = 2) -> None:
        """For localhost and 127.0.0.1, if a server uses it."""
        request = self.directory / f"{name}.csr"
        extensions = self.directory / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl(
            "req", *self._key(name), "-subj", f"/CN={common_name or name}", "-out", str(request)
        )
        self._openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.crt(self.name)),
            "-CAkey", str(self.key(self.name)), "-CAcreateserial", "-days", str(days),
            "-extfile", str(extensions), "-out", str(self.crt(name)),
        )  # fmt: skip

    def trust(self, client: str = "") -> ssl.SSLContext:
        """A client's context; client: whose certificate it shows."""
        made = ssl.create_default_context(cafile=str(self.crt(self.name)))
        if client:
            made.load_cert_chain(self.crt(client), self.key(client))
        return made

    def _key(self, name: str) -> tuple[str, ...]:
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", str(self.key(name)))  # fmt: skip

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True)
