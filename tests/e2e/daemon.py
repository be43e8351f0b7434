"""A controller on the lab's access point, for tests: started, read, killed, started again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import wait_until
from viscum.lab import Lab


class Daemon:
    """viscumd; what it tells goes to a file, one event a line."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.config = lab.directory / "etc"
        self.config.mkdir(exist_ok=True)
        self.log = lab.directory / "viscumd.log"
        self.process: subprocess.Popen[Any] | None = None
        if not (self.config / "controller.toml").exists():
            self.configure("")

    def configure(self, text: str) -> None:
        """Without its guard, unless `text` is about it: the machine that runs the tests is short
        of something now and then, and services would give way."""
        guard = "" if "[guard]" in text else '[guard]\nmode = "off"\n'
        (self.config / "controller.toml").write_text(text + guard)

    def start(self) -> Daemon:
        """Returns when it looks after the host."""
        begun = len(self.events("controller.started"))
        with self.log.open("ab") as log:
            self.process = self.lab.popen(
                "ap",
                [str(Path(sys.executable).with_name("viscumd"))],
                stderr=log,
                env=self.lab.environment("ap") | {"VISCUM_CONFIG_DIR": str(self.config)},
            )
        wait_until(
            lambda: len(self.events("controller.started")) > begun or self.ended(),
            "the controller to start",
        )
        assert not self.ended(), self.log.read_text()
        return self

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def kill(self) -> None:
        """As a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        self.tell_to_end()
        return self.wait_for_end()

    def tell_to_end(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait_for_end(self) -> int:
        assert self.process is not None
        return self.process.wait(30)

    def events(self, kind: str = "", service: str = "") -> list[dict[str, Any]]:
        """What it has told so far, of all its lives."""
        try:
            lines = self.log.read_text().splitlines()
        except FileNotFoundError:
            return []
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [
            e
            for e in found
            if (not kind or e["kind"] == kind) and (not service or e["service"] == service)
        ]

    def wait(self, kind: str, service: str = "", count: int = 1, timeout: float = 20) -> Any:
        """The count-th event of that kind."""
        try:
            return wait_until(
                lambda: self.events(kind, service)[count - 1 : count],
                f"{kind} of {service or 'anybody'}",
                timeout,
            )[0]
        except AssertionError as error:
            raise AssertionError(f"{error}; the last ones were {self.events()[-5:]}") from None

    def faults(self) -> list[dict[str, Any]]:
        return self.events("controller.error")


@contextmanager
def running(lab: Lab) -> Iterator[Daemon]:
    """One that runs inside the block, is told to end after it, and made no mistake."""
    daemon = Daemon(lab).start()
    try:
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            status = daemon.stop()
            assert status == 0, daemon.log.read_text()
    assert daemon.faults() == [], daemon.log.read_text()
