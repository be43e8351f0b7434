"""The sockets a controller is spoken to by, and who is at the other end of one."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from typing import Any, Protocol

from msgspec import Struct

Listener = socket.socket

BACKLOG = 256
SO_PEERGROUPS = 59  # asm-generic/socket.h, since Linux 4.13
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_GROUPS = 1024  # bytes; as many as Python gives room


class Peer(Struct, frozen=True):
    """The process at the other end of a Unix socket, as it was when it connected (or listened)."""

    pid: int
    uid: int
    groups: frozenset[int]


class _Socket(Protocol):
    """socket.socket, or what asyncio shows of it."""

    def getsockopt(self, level: int, option: int, size: int, /) -> Any: ...


def listen_unix(path: str, gid: int) -> socket.socket:
    """Listens at `path`, for root and the group `gid`; what an ended process left there is
    replaced. Raises OSError, FileExistsError if something else than a socket is there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "is there, and is not a socket", path)
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        # Before it listens: nobody can have connected by then.
        os.chown(path, 0, gid)
        os.chmod(path, 0o660)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def listen_tcp(address: str, port: int) -> socket.socket:
    """Listens at an address (IPv6 ones without brackets). Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def connect_unix(path: str, timeout: float | None) -> socket.socket:
    """A connection to who listens at `path`. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Not as Python does it: a non-blocking connect(2) does not wait for room in the backlog.
    limit = struct.pack("ll", int(timeout or 0), 0)
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        connection.connect(path)
        connection.settimeout(timeout)
    except BlockingIOError:
        connection.close()
        raise TimeoutError(errno.ETIMEDOUT, "it does not answer", path) from None
    except BaseException:
        connection.close()
        raise
    return connection


def peer(connection: _Socket) -> Peer:
    """SO_PEERCRED and SO_PEERGROUPS of a Unix socket (unix(7))."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUPS)
        groups = struct.unpack(f"={len(raw) // 4}I", raw)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        groups = ()  # it is in more than 256: only its own one counts
    return Peer(pid, uid, frozenset((gid, *groups)))
