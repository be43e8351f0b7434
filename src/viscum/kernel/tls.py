"""The certificate a server shows, and why clients would reject it. Loads OpenSSL: import it late.

OpenSSL itself is asked, as most clients would: it ends at the first thing that is wrong, so what
one handshake refuses is asked for by others, each with all the rest allowed.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct

# Makes a connection within so many seconds. Raises OSError.
Connect = Callable[[float], socket.socket]

# openssl/x509_vfy.h; Python names the first flag only
PARTIAL_CHAIN = ssl.VERIFY_X509_PARTIAL_CHAIN
NO_CHECK_TIME = 0x200000
EARLY, EXPIRED = 9, 10
SELF_SIGNED, SELF_SIGNED_ROOT = 18, 19
NO_ISSUER = (2, 20, 21)
OTHER_NAME = 62

# What OpenSSL calls an answer that is no TLS at all
NONSENSE = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG",
            "HTTP_REQUEST", "UNEXPECTED_RECORD", "BAD_RECORD_TYPE")  # fmt: skip

# chain: the server does not send the certificate of its issuer; stale: an issuer's has expired
Wrong = Literal["name", "early", "expired", "self-signed", "issuer", "chain", "stale", "other"]


class Shown(Struct, frozen=True):
    """A certificate. names: DNS names and addresses; since, until: seconds since 1970; referred:
    it says where its issuer's certificate is to be had, as those of public authorities do."""

    names: tuple[str, ...]
    issuer: str
    since: float
    until: float
    referred: bool = False


class Fault(Struct, frozen=True):
    """detail: OpenSSL's words."""

    wrong: Wrong
    detail: str = ""


class NoHandshake(Exception):
    """Why no certificate was shown, in words."""


def at(addresses: Sequence[str], port: int) -> Connect:
    """Connects from this box itself, to the first that accepts."""

    def connect(seconds: float) -> socket.socket:
        for address in addresses[:-1]:
            try:
                return socket.create_connection((address, port), seconds / len(addresses))
            except OSError:
                continue
        return socket.create_connection((addresses[-1], port), seconds / len(addresses))

    return connect


def trusts() -> bool:
    """Whether this box knows any authority: without, nothing can be said of who signed."""
    paths = ssl.get_default_verify_paths()  # None for what is not there
    return bool(paths.cafile) or (bool(paths.capath) and bool(os.listdir(paths.capath)))


def ask(connect: Connect, name: str | None, end: float) -> tuple[Shown, tuple[Fault, ...]]:
    """What is shown to a client that wants `name` (None: it asks for an address, and whatever name
    is right), until `end` (time.monotonic). Raises NoHandshake, OSError."""
    asking = _Asking(connect, name, end)
    if trusts():
        found, refused = asking.verified(_context(named=name is not None))
        if found is not None:
            return _shown(found), ()
        if refused is None:
            raise NoHandshake("it shows no certificate")
    return asking.judged()


def shown(connect: Connect, name: str | None, end: float) -> Shown:
    """Whatever is wrong with it. Raises NoHandshake, OSError."""
    return _Asking(connect, name, end).seen()[0]


class _Asking:
    def __init__(self, connect: Connect, name: str | None, end: float) -> None:
        self.connect, self.name, self.end = connect, name, end

    def verified(
        self, context: ssl.SSLContext
    ) -> tuple[dict[str, Any] | None, ssl.SSLCertVerificationError | None]:
        """(the certificate, None), or (None, what is wrong with it first)."""
        try:
            with self._connected(context) as tls:
                return tls.getpeercert() or None, None
        except ssl.SSLCertVerificationError as error:
            return None, error

    def seen(self) -> tuple[Shown, str, int]:
        """The certificate, also as PEM, and with how many it was sent."""
        unsure = _context(named=False)
        unsure.verify_mode = ssl.CERT_NONE
        with self._connected(unsure) as tls:
            der, sent = tls.getpeercert(binary_form=True), _sent(tls)
        if der is None:
            raise NoHandshake("it shows no certificate")
        pem = ssl.DER_cert_to_PEM_cert(der)
        found, refused = self.verified(_context(pem, named=False))
        if found is None:  # it is its own authority here, so this is about what it is made of
            raise NoHandshake(refused.verify_message if refused else "its certificate changes")
        return _shown(found), pem, sent

    def judged(self) -> tuple[Shown, tuple[Fault, ...]]:
        """All that is wrong with it."""
        certificate, pem, sent = self.seen()
        faults: list[Fault] = []
        if self.name is not None:
            _, refused = self.verified(_context(pem, named=True))
            if refused is not None:
                faults.append(_fault(refused, certificate, sent))
        now = time.time()
        if now < certificate.since:
            faults.append(Fault("early"))
        elif now > certificate.until:
            faults.append(Fault("expired"))
        if trusts():
            _, refused = self.verified(_context(named=False, timeless=True))
            if refused is None and not faults:  # then it is one of the issuers'
                _, refused = self.verified(_context(named=False))
                if refused is not None and refused.verify_code in (EARLY, EXPIRED):
                    faults.append(Fault("stale", refused.verify_message))
                    refused = None
            if refused is not None:
                faults.append(_fault(refused, certificate, sent))
        return certificate, tuple(faults)

    def _connected(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """Shaken hands. Raises NoHandshake, SSLCertVerificationError, OSError."""
        sock = self.connect(self._left())
        try:
            sock.settimeout(self._left())
            return context.wrap_socket(sock, server_hostname=self.name)
        except ssl.SSLCertVerificationError:
            raise
        except TimeoutError:
            raise NoHandshake("it does not answer a client's hello") from None
        except (ssl.SSLEOFError, ConnectionError):
            raise NoHandshake("it ends the connection instead of answering a client's hello") from (
                None
            )
        except ssl.SSLError as error:
            reason = error.reason or ""
            if reason in NONSENSE:
                raise NoHandshake("it answers a client's hello with something else") from None
            words = reason.lower().replace("_", " ") or str(error)
            what = "refuses a client's hello" if "ALERT" in reason else "can't be talked to"
            raise NoHandshake(f"it {what}: {words}") from None
        finally:
            sock.close()  # wrap_socket has taken what was in it, or failed

    def _left(self) -> float:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("it takes too long")
        return left


def _context(anchor: str = "", *, named: bool, timeless: bool = False) -> ssl.SSLContext:
    """Of a client that trusts what the box trusts, or only `anchor`, whose time does not matter."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False  # no browser does any more
    context.check_hostname = named
    if anchor:
        context.load_verify_locations(cadata=anchor)
        context.verify_flags |= PARTIAL_CHAIN
    else:
        context.load_default_certs()
    if anchor or timeless:
        context.verify_flags |= NO_CHECK_TIME
    return context


def _fault(refused: ssl.SSLCertVerificationError, certificate: Shown, sent: int) -> Fault:
    code, words = refused.verify_code, refused.verify_message
    if code == OTHER_NAME:
        return Fault("name", words)
    if code == SELF_SIGNED:
        return Fault("self-signed", words)
    if code in NO_ISSUER and sent == 1 and certificate.referred:
        return Fault("chain", words)
    if code in (SELF_SIGNED_ROOT, *NO_ISSUER):
        return Fault("issuer", words)
    return Fault("other", words)


def _sent(tls: ssl.SSLSocket) -> int:
    """How many certificates the server sends; 0: not known. Public since Python 3.13."""
    inner = getattr(tls, "_sslobj", None)
    asked = getattr(tls, "get_unverified_chain", None) or getattr(
        inner, "get_unverified_chain", None
    )
    return len(asked() or ()) if asked else 0


def _shown(found: dict[str, Any]) -> Shown:
    """Of what getpeercert() says."""
    issuer = {key: value for parts in found.get("issuer", ()) for key, value in parts}
    return Shown(
        names=tuple(str(value) for _, value in found.get("subjectAltName", ())),
        issuer=issuer.get("commonName") or issuer.get("organizationName") or "",
        since=float(ssl.cert_time_to_seconds(found["notBefore"])),
        until=float(ssl.cert_time_to_seconds(found["notAfter"])),
        referred=bool(found.get("caIssuers")),
    )
