"""Certificates for the tests, made by openssl: an authority, a server's, clients'."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

LOCAL = "DNS:localhost,IP:127.0.0.1"
# What `openssl ca`, the only one that takes dates, insists on
CONFIGURATION = """
[ca]
default_ca = here
[here]
database = {0}/index
new_certs_dir = {0}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
[any]
commonName = supplied
"""


class Authority:
    """In a directory of its own; every certificate is NAME.crt with NAME.key. above: who vouches
    for this one, in the same directory; none: itself."""

    def __init__(
        self,
        directory: Path,
        name: str = "ca",
        above: Authority | None = None,
        *,
        alt: str = LOCAL,
        valid: tuple[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.name = name
        if above is not None:
            above.issue(name, valid=valid, extensions="basicConstraints=critical,CA:TRUE")
            return
        (directory / "index").touch()
        (directory / "ca.cnf").write_text(CONFIGURATION.format(directory))
        self._openssl(
            "req", "-x509", *self._key(name), "-days", "2", "-subj", f"/CN={name}",
            "-addext", f"subjectAltName={alt}", "-out", str(self.crt(name)),
        )  # fmt: skip

    def crt(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def issue(
        self,
        name: str,
        common_name: str = "",
        *,
        days: int = 2,
        alt: str = LOCAL,
        valid: tuple[str, str] | None = None,
        extensions: str = "",
    ) -> None:
        """alt: its names, by default for localhost, if a server uses it; valid: from and until
        YYYYMMDDHHMMSSZ, instead of `days` from now on."""
        request = self.directory / f"{name}.csr"
        file = self.directory / f"{name}.ext"
        file.write_text(f"subjectAltName={alt}\n{extensions}\n")
        self._openssl(
            "req", *self._key(name), "-subj", f"/CN={common_name or name}", "-out", str(request)
        )
        times = ("-startdate", valid[0], "-enddate", valid[1]) if valid else ("-days", str(days))
        self._openssl(
            "ca", "-batch", "-notext", "-config", str(self.directory / "ca.cnf"), *times,
            "-cert", str(self.crt(self.name)), "-keyfile", str(self.key(self.name)),
            "-in", str(request), "-extfile", str(file), "-out", str(self.crt(name)),
        )  # fmt: skip

    def bundle(self, name: str, *others: str) -> Path:
        """NAME's certificate with others', as servers send them."""
        path = self.directory / f"{name}-bundle.crt"
        path.write_text("".join(self.crt(n).read_text() for n in (name, *others)))
        return path

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
