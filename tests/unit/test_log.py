"""The controller's log on standard error: it is nothing that the controller would wait for."""

from __future__ import annotations

import os
import sys
import tempfile
from threading import Thread

import pytest

from viscum.controller import log
from viscum.controller.events import Event

pytestmark = pytest.mark.req("C1")

EVENT = Event(id=1, at=0.0, kind="test", message="m" * 3000)


def tell(_: int = 0) -> None:
    log.to_standard_error()(EVENT)
    log.trace(ValueError("v" * 10_000))


def test_a_reader_that_reads_no_more_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pager, or a logger that hangs: the event loop would stand still, deaf to SIGTERM too."""
    reader, writer = os.pipe()
    with open(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        tells = Thread(target=lambda: list(map(tell, range(100))), daemon=True)
        tells.start()
        tells.join(10)
        waited = tells.is_alive()
        os.close(reader)
        tells.join(10)
    assert not waited


def test_that_nobody_reads_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told of a part that failed is told before it is begun anew."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        tell()


def test_what_is_told_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryFile("w+") as file:
        monkeypatch.setattr(sys, "stderr", file)
        tell()
        file.seek(0)
        text = file.read()
    assert f'"message":"{EVENT.message}"' in text
    assert text.endswith("ValueError: " + "v" * 10_000 + "\n")
