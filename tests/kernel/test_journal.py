"""The stream protocol of journald, against a socket that listens like it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.conftest import Space
from kernel.instance import Instance, instance
from viscum.kernel import journal, process
from viscum.kernel.process import Launch


@pytest.fixture
def web(space: Space) -> Iterator[Instance]:
    with instance(space.fd) as made:
        yield made


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "stdout"))
        listener.listen()
        listener.settimeout(20)
        yield listener


@pytest.mark.req("N17")
def test_a_server_writes_to_the_journal(
    web: Instance, journald: socket.socket, tmp_path: Path
) -> None:
    path = str(tmp_path / "stdout")
    assert journal.present(path)
    output = journal.connect("web.1.0", unit="viscum-web.service", path=path)
    assert not os.get_inheritable(output)
    stream, _ = journald.accept()
    stream.settimeout(20)
    argv = ("sh", "-c", "echo one; echo two >&2")
    process.start(Launch(argv, web.group, web.netns_fd, output))
    os.close(output)
    said = b""
    while part := stream.recv(4096):  # ends when the server, its only holder, has
        said += part
    stream.close()
    lines = said.decode().splitlines()
    assert lines[:7] == ["web.1.0", "viscum-web.service", "6", "1", "0", "0", "0"]
    assert lines[7:] == ["one", "two"]


@pytest.mark.req("N17")
def test_without_a_journal_there_is_an_error_to_fall_back_on(tmp_path: Path) -> None:
    path = str(tmp_path / "stdout")
    assert not journal.present(path)
    with pytest.raises(FileNotFoundError, match="journal: No such file"):
        journal.connect("web", path=path)
    (tmp_path / "stdout").touch()  # a socket nobody listens on any more is no less an error
    with pytest.raises(ConnectionRefusedError):
        journal.connect("web", path=path)
    with pytest.raises(ValueError, match="one line"):
        journal.connect("web\nroot", path=path)
