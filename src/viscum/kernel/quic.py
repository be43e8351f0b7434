"""The same question over QUIC, by aioquic (the extra `quic`): import it only to ask.

aioquic judges a certificate by what this box trusts, as its other clients do, and ends at the first
thing that is wrong.
"""

from __future__ import annotations

import logging
import re
import select
import ssl
import time

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted

from viscum.kernel.prober import Sock, Sockets
from viscum.kernel.tls import NoHandshake

# It would tell the operator, in its own words, what the answer here says.
logging.getLogger("quic").disabled = True

PATTERN = re.compile(r"\w+Pattern\(pattern=b?('[^']*')\)")  # a certificate's name, as it shows it
CERTIFICATE = range(0x100 + 42, 0x100 + 50)  # TLS alerts that speak of one, RFC 9001 4.8


def ask(sockets: Sockets, port: int, name: str | None, protocols: list[str], end: float) -> str:
    """Why a client that wants `name` would reject the certificate; "": it would not. name
    None: any will do. Raises NoHandshake, OSError."""
    for address, sock in sockets:
        try:
            return _asked(sock, (address, port), name, protocols, end)
        except ConnectionRefusedError:
            continue
    raise NoHandshake("nothing listens there")


def _asked(
    sock: Sock, where: tuple[str, int], name: str | None, protocols: list[str], end: float
) -> str:
    trusted = ssl.get_default_verify_paths()
    connection = QuicConnection(
        configuration=QuicConfiguration(
            alpn_protocols=protocols,
            server_name=name,
            verify_mode=ssl.CERT_REQUIRED,
            cafile=trusted.cafile,
            capath=trusted.capath,
        )
    )
    connection.connect(where, time.monotonic())
    try:
        while True:
            for datagram, _ in connection.datagrams_to_send(time.monotonic()):
                sock.sendto(datagram, where)
            while (event := connection.next_event()) is not None:
                if isinstance(event, HandshakeCompleted):
                    return ""
                if isinstance(event, ConnectionTerminated):
                    return _ended(event)
            _wait(connection, sock, where, end)
    finally:
        connection.close()
        for datagram, _ in connection.datagrams_to_send(time.monotonic()):
            sock.sendto(datagram, where)


def _wait(connection: QuicConnection, sock: Sock, where: tuple[str, int], end: float) -> None:
    """Until something has come, or is due. Raises NoHandshake.

    A server that is bound to every address answers one of the box from another, which clients do
    not see: the director puts the target's back.
    """
    now = time.monotonic()
    if now >= end:
        raise NoHandshake("it does not answer a client's hello")
    due = min(connection.get_timer() or end, end)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if poll.poll(max(0.0, due - now) * 1000):
        data, sender = sock.recvfrom(65536)
        if sender[1] == where[1]:
            connection.receive_datagram(data, where, time.monotonic())
    elif (timer := connection.get_timer()) is not None and timer <= time.monotonic():
        connection.handle_timer(time.monotonic())


def _ended(event: ConnectionTerminated) -> str:
    if event.error_code in CERTIFICATE:
        return PATTERN.sub(r"\1", event.reason_phrase)
    raise NoHandshake(event.reason_phrase or f"it ends with QUIC's error {event.error_code:#x}")
