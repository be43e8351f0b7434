"""The play's authority: what a public one, and certbot, are to a real box. By openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """Its certificate is `file`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.file, self._key = directory / "ca.pem", directory / "ca.key"
        _openssl("req", "-x509", *KEY, "-keyout", self._key, "-days", "2",
                 "-subj", "/CN=Example Authority", "-out", self.file)  # fmt: skip

    def issue(self, directory: Path, *names: str) -> Path:
        """fullchain.pem and privkey.pem in there, as certbot leaves them; the directory."""
        directory.mkdir(parents=True)
        request, names_file = directory / "request", directory / "names"
        names_file.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names))
        _openssl("req", *KEY, "-keyout", directory / "privkey.pem", "-subj", f"/CN={names[0]}",
                 "-out", request)  # fmt: skip
        _openssl("x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self._key,
                 "-CAcreateserial", "-days", "2", "-extfile", names_file,
                 "-out", directory / "fullchain.pem")  # fmt: skip
        return directory


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
