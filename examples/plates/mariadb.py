"""A real MariaDB in the lab's cloud: its own data directory, a password, TLS and nothing without
it. Started and ended by the example; never the machine's."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from viscum.lab import Lab
from viscum.lab.plan import CLOUDS4

ADDRESS, PORT = CLOUDS4[1], 3306
USER = "nobody"  # whom mariadbd runs as; it refuses to be root
TABLES = Path(__file__).with_name("tables.sql")


def certificate(directory: Path, name: str, whom: str) -> None:
    """NAME.crt and NAME.key: signed by itself, for `IP:…` or `DNS:…`."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", str(directory / f"{name}.key"), "-days", "2", "-subj", f"/CN={name}",
         "-addext", f"subjectAltName={whom}", "-out", str(directory / f"{name}.crt")],
        check=True, capture_output=True,
    )  # fmt: skip


class MariaDB:
    """password: a file with that of the user who may insert; ca: what proves the server."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        """Raises subprocess.CalledProcessError."""
        self._lab = lab
        self._directory = directory
        self._server: subprocess.Popen[Any] | None = None
        self.password = directory / "password"
        self.ca = directory / "server.crt"
        directory.mkdir()
        self.password.write_text(secrets.token_urlsafe(24))
        certificate(directory, "server", f"IP:{ADDRESS}")
        words = TABLES.read_text().replace("PASSWORD", self.password.read_text())
        (directory / "tables.sql").write_text(words)
        for path in (directory, *directory.iterdir()):
            shutil.chown(path, USER)
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={directory}/data", "--skip-test-db",
             f"--user={USER}", "--innodb-log-file-size=8M"],
            check=True, capture_output=True,
        )  # fmt: skip

    def start(self) -> None:
        """Raises AssertionError if it does not answer within 30 s."""
        own = self._directory
        log = (own / "log").open("ab")
        self._server = self._lab.popen(
            "cloud",
            ["mariadbd", "--no-defaults", f"--datadir={own}/data", f"--user={USER}",
             f"--socket={own}/socket", f"--pid-file={own}/pid", f"--init-file={own}/tables.sql",
             f"--bind-address={ADDRESS}", f"--port={PORT}", "--require-secure-transport=ON",
             f"--ssl-cert={own}/server.crt", f"--ssl-key={own}/server.key", "--skip-name-resolve",
             "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M"],
            stdout=log, stderr=log,
        )  # fmt: skip
        end = time.monotonic() + 30
        while self._ask("SELECT 1").returncode:
            assert self._server.poll() is None, (own / "log").read_text()
            assert time.monotonic() < end, "MariaDB does not answer"
            time.sleep(0.1)

    def stop(self) -> None:
        """As an operator would."""
        assert self._server
        self._server.terminate()
        self._server.wait(30)
        self._server = None

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """It accepts connections (the kernel does) and answers nothing."""
        assert self._server
        self._server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.send_signal(signal.SIGCONT)

    def rows(self, what: str = "plate", where: str = "TRUE") -> list[list[str]]:
        """What is there, in the order it was taken. AssertionError with MariaDB's own words."""
        done = self._ask(f"SELECT {what} FROM plates.plates WHERE {where} ORDER BY taken, id")
        assert done.returncode == 0, done.stderr
        return [line.split("\t") for line in done.stdout.splitlines()]

    def await_rows(self, count: int, seconds: float = 30) -> list[list[str]]:
        """Until there are so many. AssertionError if it takes longer."""
        end = time.monotonic() + seconds
        while len(found := self.rows()) < count:
            assert time.monotonic() < end, f"{len(found)} of {count} rows after {seconds} s"
            time.sleep(0.1)
        return found

    def _ask(self, words: str) -> subprocess.CompletedProcess[str]:
        """As root of the machine, on its socket."""
        return subprocess.run(
            ["mariadb", "--no-defaults", f"--socket={self._directory}/socket", "-BN", "-e", words],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
