"""TLS for the API on TCP: the operator's certificate, and maybe certificates of clients."""

from __future__ import annotations

import ssl
from pathlib import Path

from viscum.controller.settings import Api as Settings
from viscum.errors import InputError, Problem


def place(listen: str) -> tuple[str, int]:
    """ADDRESS:PORT, an IPv6 address in brackets. Raises InputError."""
    address, colon, port = listen.rpartition(":")
    if not colon or not address or not port.isdecimal() or not 0 < int(port[:6]) < 65536:
        raise InputError(
            Problem("api.listen", listen, "is not ADDRESS:PORT", "write 0.0.0.0:7443 or [::]:7443")
        )
    return address.removeprefix("[").removesuffix("]"), int(port)


def files(settings: Settings) -> tuple[str, ...]:
    return tuple(
        file
        for file in (settings.certificate, settings.key, settings.client_ca)
        if file is not None
    )


def marks(settings: Settings) -> tuple[tuple[int, int] | None, ...]:
    """Differ when a file has been replaced or written to."""
    found: list[tuple[int, int] | None] = []
    for file in files(settings):
        try:
            there = Path(file).stat()
            found.append((there.st_ino, there.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)


def context(settings: Settings) -> ssl.SSLContext:
    """TLS 1.2 at least. Raises InputError naming the file that can't be used."""
    assert settings.certificate is not None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    key = "api.certificate", f"{settings.certificate} with {settings.key}"
    try:
        # Without the empty password OpenSSL would ask for one, of a terminal that is not there.
        made.load_cert_chain(settings.certificate, settings.key, password=lambda: "")
        if settings.client_ca is not None:
            key = "api.client-ca", settings.client_ca
            made.load_verify_locations(settings.client_ca)
            made.verify_mode = ssl.CERT_OPTIONAL  # who has none may show a token
    except OSError as error:  # ssl.SSLError is one
        raise InputError(
            Problem(
                *key, f"can't be used: {error.strerror or error}", "give PEM files, no password"
            )
        ) from None
    return made
