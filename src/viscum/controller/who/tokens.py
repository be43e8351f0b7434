"""CONFIG_DIR/tokens.json: who may speak to the controller, by a token or a client certificate.

A token is 32 random bytes; what is kept of it is its SHA-256. A slow hash would protect a password
that can be guessed; 256 random bits can't be, and a fast one leaves a small router's CPU alone. The
file is read again when it has changed, so that what a command takes away counts at once.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from viscum.errors import InputError, Problem, ViscumError
from viscum.kernel import files

FILE = "tokens.json"
PREFIX = "viscum"
ROLES = ("viewer", "operator", "admin")
Role = Literal["viewer", "operator", "admin"]
Kind = Literal["token", "certificate"]


class Credential(Struct, frozen=True):
    """One line of the file. Times are seconds since 1970.

    name: the principal's; tenant None: the host's own; digest: the token's SHA-256 in hex, or ""
    for a certificate, whose subject's common name is `name`; expires None: never.
    """

    id: str
    name: str
    role: Role
    tenant: str | None
    created: float
    expires: float | None
    kind: Kind = "token"
    digest: str = ""

    def valid(self, moment: float) -> bool:
        return self.expires is None or moment < self.expires


class Tokens:
    """Those of one host."""

    def __init__(self, config_dir: str) -> None:
        self.path = Path(config_dir) / FILE
        self._mark: tuple[int, int] | None = None
        self._known: dict[str, Credential] = {}

    def all(self) -> dict[str, Credential]:
        """By id, expired ones too. Raises ViscumError for a file that is not what it should be."""
        try:
            there = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._mark, self._known = None, {}
            return self._known
        mark = (there.st_ino, there.st_mtime_ns)
        if mark != self._mark:
            self._known = self._read()
            self._mark = mark
        return self._known

    def by_token(self, token: str) -> Credential | None:
        """Whose it is, if it counts now. Takes as long for a wrong one as for a right one."""
        given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        prefix, _, rest = token.partition("_")
        known = self.all().get(rest.partition("_")[0])
        digest = known.digest if known else "0" * 64
        if not hmac.compare_digest(digest, given) or prefix != PREFIX or known is None:
            return None
        return known if known.valid(time.time()) else None

    def by_certificate(self, subject: str) -> Credential | None:
        """By its subject's common name; that the certificate is good, TLS has checked."""
        moment = time.time()
        found = [
            c
            for c in self.all().values()
            if c.kind == "certificate" and c.name == subject and c.valid(moment)
        ]
        return found[0] if found else None

    def by_id(self, number: str) -> Credential | None:
        known = self.all().get(number)
        return known if known and known.valid(time.time()) else None

    def add(
        self,
        name: str,
        role: Role,
        tenant: str | None,
        lifetime: float | None,
        kind: Kind = "token",
    ) -> tuple[Credential, str]:
        """(what is kept, the token: told now and never again; "" for a certificate)."""
        _check_name(name)
        if lifetime is not None and lifetime <= 0:
            raise InputError(Problem("expires", "0", "ends it before it begins", "give a time"))
        with files.exclusive(self.path):
            known = self._read()
            if kind == "certificate" and any(
                c.kind == kind and c.name == name for c in known.values()
            ):
                raise InputError(
                    Problem("NAME", name, "is known as a certificate", "remove it first")
                )
            number = secrets.token_hex(4)
            while number in known:
                number = secrets.token_hex(4)
            token = f"{PREFIX}_{number}_{secrets.token_urlsafe(32)}" if kind == "token" else ""
            moment = time.time()
            new = Credential(
                number,
                name,
                role,
                tenant,
                moment,
                None if lifetime is None else moment + lifetime,
                kind,
                hashlib.sha256(token.encode()).hexdigest() if token else "",
            )
            self._write({**known, number: new})
        return new, token

    def remove(self, ids: set[str]) -> list[Credential]:
        """What was removed of them; counts from the next request on."""
        with files.exclusive(self.path):
            known = self._read()
            gone = [c for c in known.values() if c.id in ids]
            if gone:
                self._write({c.id: c for c in known.values() if c.id not in ids})
        return gone

    def _read(self) -> dict[str, Credential]:
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=list[Credential])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            raise ViscumError(
                f"{self.path} can't be read: {error}",
                state="no token counts",
                hint="restore it, or move it away and make tokens anew",
            ) from None
        return {c.id: c for c in found}

    def _write(self, known: dict[str, Credential]) -> None:
        files.write_private(self.path, msgspec.json.format(msgspec.json.encode([*known.values()])))


def _check_name(name: str) -> None:
    if not name or len(name) > 64 or not name.isprintable():
        raise InputError(
            Problem(
                "NAME", name[:80], "is no name for a principal", "use 1 to 64 printable characters"
            )
        )
