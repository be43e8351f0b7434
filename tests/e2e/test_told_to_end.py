"""The controller ends when it is told to, whatever goes on just then."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest

from e2e import echo
from e2e.api import Answer, client, web
from e2e.daemon import Daemon
from support import wait_until
from viscum import store
from viscum.kernel import endpoint
from viscum.lab import Lab


@pytest.fixture
def daemon(lab: Lab) -> Daemon:
    return Daemon(lab).start()


@pytest.mark.req("C1")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_takes_its_leave(daemon: Daemon, number: signal.Signals) -> None:
    """Also when the terminal it was started on goes."""
    assert daemon.process is not None
    daemon.process.send_signal(number)
    assert daemon.wait_for_end() == 0
    assert daemon.events("controller.stopping")


@pytest.mark.req("C1")
def test_under_nohup_it_stays(lab: Lab) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        daemon = Daemon(lab).start()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    assert client(daemon).get("/v1/host").status == 200
    assert daemon.events("controller.stopping") == []
    assert daemon.stop() == 0


@pytest.mark.req("C5")
def test_a_client_that_asks_and_never_reads(daemon: Daemon) -> None:
    """Its second answer waits until the first one is taken."""
    api = client(daemon)
    ask = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    held = endpoint.connect_unix(api.where, 10)
    held.sendall(ask * 8)
    assert api.get("/v1/host").status == 200
    assert daemon.stop() == 0
    held.close()


@pytest.mark.req("C1", "C5")
def test_a_change_that_has_begun_is_finished(daemon: Daemon, lab: Lab, files: Path) -> None:
    """Who asked for it is told that nobody waits for it any more, and so is the audit log."""
    asks = Asks(daemon, files, f"test -e {files / 'go'}", "25s")
    daemon.tell_to_end()
    asks.join()
    assert (asks.answer.status, asks.answer.json["type"]) == (503, "urn:viscum:problem:ending")
    assert not daemon.ended()
    (files / "go").touch()
    assert daemon.wait_for_end() == 0

    assert echo.status(lab)["generations"][0]["state"] == "live"
    entries = [json.loads(line) for line in (daemon.config / "audit.log").open()]
    assert [e["outcome"] for e in entries if e["action"] == "service.put"] == [
        "begun", "the controller was ended: finished, if it had begun",
    ]  # fmt: skip
    assert daemon.faults() == []


@pytest.mark.req("C1", "C5")
def test_a_change_that_fails_after_all_is_told(daemon: Daemon, lab: Lab, files: Path) -> None:
    assert client(daemon).put("/v1/services/web", web()).status == 201
    asks = Asks(daemon, files, "false", "3s")
    assert daemon.stop() == 0
    asks.join()
    (fault,) = daemon.faults()
    assert "what was being done meanwhile failed: web: " in fault["message"]
    assert [g["number"] for g in echo.status(lab)["generations"]] == [1]
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.req("C1", "C5")
def test_what_waits_for_another_command_waits_no_longer(daemon: Daemon, lab: Lab) -> None:
    """It has changed nothing yet."""
    api = client(daemon)
    assert api.put("/v1/services/web", web()).status == 201
    with store.lock(str(lab.state_dir), "a long command", 5, print):
        asks = threading.Thread(target=api.post, args=("/v1/services/web/restart",))
        asks.start()
        wait_until(
            lambda: "service.restart" in (daemon.config / "audit.log").read_text(), "its intention"
        )
        assert daemon.stop() == 0
    asks.join()
    assert [g["number"] for g in echo.status(lab)["generations"]] == [1]
    assert daemon.faults() == []


class Asks(threading.Thread):
    """For a server that is ready when `condition` is true; begun when that is looked at."""

    def __init__(self, daemon: Daemon, files: Path, condition: str, within: str) -> None:
        super().__init__()
        self.api, begun = client(daemon), files / "begun"
        ready = ["sh", "-c", f"touch {begun}; {condition}"]
        self.spec = web(run={"ready": ready, "start-timeout": within, "environment": {"A": "b"}})
        self.answer: Answer
        self.start()
        wait_until(begun.exists, "its server to be started")

    def run(self) -> None:
        self.answer = self.api.put("/v1/services/web", self.spec)
