"""`viscum top` on a real terminal (tmux), with and without a controller."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import LabFactory
from e2e import echo
from e2e.daemon import running
from support import need_program, wait_until
from viscum.lab import CLOUD4, Lab

PROGRAM = str(Path(sys.executable).with_name("viscum"))


class Terminal:
    """tmux of its own, in which a command runs on the access point."""

    def __init__(
        self, lab: Lab, *words: str, width: int = 80, height: int = 24, **env: str
    ) -> None:
        need_program("tmux")
        self.name = f"vt-{os.getpid()}-{id(self)}"
        size = ["-x", str(width), "-y", str(height)]
        # tmux gives its own TERM to what runs in it
        given = [f"{key}={value}" for key, value in env.items()]
        command = [*lab.enter("ap"), "env", *given, PROGRAM, *words]
        environment = lab.environment("ap") | {"LANG": "C.UTF-8"}
        for fixed in ("LINES", "COLUMNS"):  # what runs these tests may say how large its own is
            environment.pop(fixed, None)
        self("-f", "/dev/null", "new-session", "-d", *size, *command, env=environment)
        self("set-option", "-g", "remain-on-exit", "on")

    def __call__(self, *words: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-L", self.name, *words], capture_output=True, text=True, env=env
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def press(self, *keys: str) -> None:
        for key in keys:
            self("send-keys", key)

    def screen(self, colours: bool = False) -> str:
        """With what has scrolled away, which is none while `top` runs: once it has ended, tmux says
        so in a line of its own."""
        return self("capture-pane", "-p", "-S", "-", *(["-e"] if colours else []))

    def shows(self, text: str) -> str:
        """The screen once it shows that."""
        last = [""]

        def there() -> bool:
            last[0] = self.screen()
            return text in last[0]

        try:
            wait_until(there, repr(text))
        except AssertionError as error:
            raise AssertionError(f"{error}; it shows:\n{last[0]}") from None
        return last[0]

    def ended(self) -> bool:
        return self("display-message", "-p", "#{pane_dead}").strip() == "1"

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.name, "kill-server"], capture_output=True)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture(scope="module")
def box(lab_factory: LabFactory) -> Iterator[Lab]:
    """A lab with two services."""
    lab = lab_factory()
    echo.start(lab, "cloud", "cloud", "--ports", "7000,7001")
    echo.run(lab, "--target", CLOUD4, name="alpha", server=echo.command("edge", "--say", "hello"))
    echo.run(
        lab, "--target", CLOUD4, "--port", "7001/tcp", name="beta",
        server=echo.command("edge", "--ports", "7001"),
    )  # fmt: skip
    yield lab
    lab.down()


def line(screen: str, name: str) -> str:
    return next(row for row in screen.splitlines() if row.startswith(name))


def rates(screen: str, name: str) -> list[str]:
    """IN and OUT."""
    return line(screen, name).split()[4:6]


@pytest.mark.req("C9")
def test_without_a_controller(box: Lab) -> None:
    with Terminal(box, "top") as terminal, echo.hold(box, CLOUD4) as client:
        client.ask("x" * 3000)
        first = terminal.shows("alpha")
        assert "viscum: this box  2 services" in first
        assert all(len(row) <= 80 for row in first.splitlines())
        assert line(first, "alpha").split()[1:4] == ["running", "100%", "1"]
        wait_until(
            lambda: client.ask("y" * 3000) and "0" not in rates(terminal.screen(), "alpha"),
            "traffic to be shown",
        )
        assert "cpu " in terminal.screen(), "the host's load"
        # which one, and everything about it
        terminal.press("Down", "Enter")
        terminal.shows("beta: running")
        terminal.press("Escape", "Up", "Enter")
        detail = terminal.shows("hello")
        assert "alpha: running, steering edge 100%" in detail
        assert "edge-established" in detail
        terminal.press("q")
        wait_until(terminal.ended, "it to end")


@pytest.mark.req("C9")
def test_it_changes_what_is_confirmed(box: Lab) -> None:
    with Terminal(box, "top") as terminal:
        terminal.shows("alpha")
        terminal.press("d")
        terminal.shows("disable alpha: new flows go to the cloud? y/n")
        terminal.press("n")
        terminal.shows("nothing was changed")
        assert echo.status(box, "alpha")["steering"] == "edge"
        terminal.press("d", "y")
        terminal.shows("alpha: disabled")
        wait_until(lambda: line(terminal.screen(), "alpha").split()[2] == "cloud", "it to show")
        assert echo.who(box, CLOUD4) == "cloud"
        terminal.press("e", "y")
        terminal.shows("alpha: enabled")
        with echo.hold(box, CLOUD4) as client:
            assert client.name == "edge"
            terminal.press("D")
            terminal.shows("reset what is open after 30 s? y/n")
            terminal.press("y")
            terminal.shows("alpha: draining")
            assert client.alive()
        echo.viscum(box, "enable", "alpha")


@pytest.mark.req("C9")
def test_order_size_and_colour(box: Lab) -> None:
    with Terminal(box, "top") as terminal:
        plain = terminal.shows("beta")
        assert plain.index("alpha") < plain.index("beta")
        terminal.press("r")
        wait_until(
            lambda: (s := terminal.screen()).index("beta") < s.index("alpha"), "turned round"
        )
        assert "\x1b[32m" in terminal.screen(colours=True)
        for width, height in ((40, 10), (200, 50), (12, 3), (80, 24)):
            terminal("resize-window", "-x", str(width), "-y", str(height))
            wanted = "FLOWS" if width >= 40 else "viscum"
            terminal.shows(wanted)
            assert not terminal.ended()
        assert "RTT99" in terminal.screen()
    with Terminal(box, "top", NO_COLOR="1") as terminal:
        terminal.shows("alpha")
        assert not re.search(r"\x1b\[[34][0-7]m", terminal.screen(colours=True))
    with Terminal(box, "top", TERM="no-such-terminal") as terminal:
        terminal.shows("can't be used")
        terminal.shows("next: viscum top --once")


@pytest.mark.req("C9")
@pytest.mark.parametrize("place", ["its own box", "--host"])
def test_with_a_controller(box: Lab, place: str) -> None:
    with running(box) as daemon:
        where = ("--host", f"unix://{box.state_dir}/api.sock") if place == "--host" else ()
        with Terminal(box, *where, "top") as terminal:
            shown = terminal.shows("alpha")
            assert f"{box.state_dir}/api.sock"[:20] in shown
            if place == "its own box":  # from elsewhere the guard tells, which is off in tests
                wait_until(lambda: "cpu " in terminal.screen().splitlines()[1], "the box's load")
            terminal.press("Enter")
            terminal.shows("alpha: running, steering edge 100%")
            terminal.press("Escape", "d", "y")
            terminal.shows("alpha: disabled")
            assert echo.status(box, "alpha")["steering"] == "cloud"
            terminal.press("e", "y")
            terminal.shows("alpha: enabled")
            if place == "--host":
                return
            pid = echo.status(box, "alpha")["generations"][0]["instances"][0]["pid"]
            os.kill(pid, 9)
            daemon.wait("service.restarted", "alpha")
            wait_until(lambda: line(terminal.screen(), "alpha").split()[-1] == "1", "the restart")
            terminal.press("Enter")
            terminal.shows("alpha was started again and listens")
            daemon.kill()
            terminal.shows("trying again")
            daemon.start()
            wait_until(lambda: "trying again" not in terminal.screen(), "it to be back")


@pytest.mark.req("C9")
def test_once_and_as_json(box: Lab) -> None:
    with echo.hold(box, CLOUD4):
        text = echo.viscum(box, "top", "--once").stdout
        found = json.loads(echo.viscum(box, "top", "--json").stdout)
    assert line(text, "alpha").split()[1:4] == ["running", "100%", "1"]
    assert text == "\n".join(row.rstrip() for row in text.splitlines()) + "\n"
    alpha, beta = found["services"]
    assert (alpha["name"], alpha["flows"], beta["flows"]) == ("alpha", 1, 0)
    assert alpha["memory"] > 0
    assert alpha["decisions"]
    piped = echo.viscum(box, "top").stdout
    assert "alpha" in piped, "without a terminal it is --once"
