"""The controller's log in journald's native protocol, against a socket that reads it (C7)."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from viscum.controller import log
from viscum.controller.events import Event
from viscum.kernel import journal

pytestmark = pytest.mark.req("C7")


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.settimeout(10)
        yield listener


def read(datagram: bytes) -> dict[str, str]:
    """As journald does: docs/JOURNAL_NATIVE_PROTOCOL.md."""
    found = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(datagram[:8], "little")
            value, datagram = datagram[8 : 8 + size], datagram[8 + size :]
            assert datagram[:1] == b"\n"
            datagram = datagram[1:]
        found[name.decode()] = value.decode()
    return found


def event(**changes: Any) -> Event:
    plain: dict[str, Any] = {"id": 7, "at": 1.5, "kind": "service.crashed", "message": "web ended"}
    return Event(**(plain | changes))


def test_an_event_is_an_entry_with_fields(journald: socket.socket, tmp_path: Path) -> None:
    write = log.to_journal(str(tmp_path / "socket"))
    write(event(level="error", service="web", tenant="acme", data={"status": 7, "log": ["last\n"]}))
    found = read(journald.recv(65536))
    assert json.loads(found.pop("VISCUM_DATA")) == {"status": 7, "log": ["last\n"]}
    assert found == {
        "MESSAGE": "web ended", "PRIORITY": "3", "SYSLOG_IDENTIFIER": "viscumd",
        "VISCUM_KIND": "service.crashed", "VISCUM_EVENT": "7", "VISCUM_SERVICE": "web",
        "VISCUM_TENANT": "acme",
    }  # fmt: skip
    write(event(id=8, level="warning"))
    found = read(journald.recv(65536))
    assert found["PRIORITY"] == "4"
    assert not found.keys() & {"VISCUM_SERVICE", "VISCUM_TENANT", "VISCUM_DATA"}


def test_a_message_brings_no_fields_of_its_own(journald: socket.socket, tmp_path: Path) -> None:
    odd = "one\nPRIORITY=0\n_UID=0 ü"
    log.to_journal(str(tmp_path / "socket"))(event(message=odd))
    found = read(journald.recv(65536))
    assert (found["MESSAGE"], found["PRIORITY"]) == (odd, "6")
    assert "_UID" not in found


@pytest.mark.parametrize("name", ["", "lower", "_UID", "A=B", "A\nB", "A" * 65])
def test_what_is_no_field_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a journal field"):
        journal.entry({name: "x"})


def test_without_a_journal_it_is_json_on_standard_error(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    write = log.to_journal(str(tmp_path / "nobody"))
    write(event())
    assert json.loads(capfdbinary.readouterr().err)["message"] == "web ended"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:  # journald is there again
        listener.bind(str(tmp_path / "nobody"))
        write(event())
        assert read(listener.recv(65536))["MESSAGE"] == "web ended"
        while not capfdbinary.readouterr().err:  # it reads no more: nothing waits for it
            write(event(message="x" * 10000))


def test_the_journal_is_used_where_it_reads_standard_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = os.fstat(2)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert not journal.is_standard_error()
    monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino}")
    assert journal.is_standard_error()
    monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino + 1}")
    assert not journal.is_standard_error()
