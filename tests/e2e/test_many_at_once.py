"""Commands about several services: all are begun before the first is waited for."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e import echo
from e2e.daemon import running
from support import wait_until
from viscum.lab import CLOUDS4, Lab

ONE, TWO = CLOUDS4[0], CLOUDS4[1]
HERE: tuple[str, ...] = ()

pytestmark = pytest.mark.req("N8", "N9")


@pytest.fixture
def box(lab: Lab) -> Lab:
    echo.start(lab, "cloud", "cloud")
    return lab


def serve(lab: Lab, *flags: str, server: tuple[str, ...] = ()) -> None:
    """`one` and `two`, which wait for their last flow for a minute; flags, server: of `one`."""
    echo.run(lab, "--drain", "60s", "--target", ONE, *flags, name="one", server=server)
    echo.run(lab, "--drain", "60s", "--target", TWO, name="two")


@contextmanager
def command(lab: Lab, *words: str) -> Iterator[subprocess.Popen[str]]:
    child = echo.begin(lab, *words)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def told(child: subprocess.Popen[str], name: str) -> str:
    """The next line that says what became of the service."""
    assert child.stdout
    return next((line for line in child.stdout if line.startswith(f"{name} ")), "")


def ends(lab: Lab, words: tuple[str, ...], verb: str, *, stays: bool) -> None:
    """Both have a flow; that of `two` ends first, and with it all that is to be done for `two`."""
    with (
        echo.hold(lab, ONE) as first,
        echo.hold(lab, TWO) as second,
        command(lab, *words) as child,
    ):

        def moved(target: str, old: echo.Held) -> bool:
            with echo.hold(lab, target) as new:
                return new.name != "cloud" and new.pid != old.pid if stays else new.name == "cloud"

        wait_until(
            lambda: child.poll() is not None or (moved(ONE, first) and moved(TWO, second)),
            "both are begun",
        )
        assert first.alive()
        assert second.alive()
        assert child.poll() is None
        second.close()
        assert verb in told(child, "two")
        assert first.alive()
        assert child.poll() is None
        first.close()
        assert verb in told(child, "one")
        assert child.wait(20) == 0


@pytest.mark.parametrize("word", ["rm", "stop", "restart"])
def test_all_begin_before_the_first_is_waited_for(box: Lab, word: str) -> None:
    serve(box)
    verb = {"rm": "removed", "stop": "stopped", "restart": "moved to new processes"}[word]
    ends(box, (word, "--all"), verb, stays=word == "restart")


def test_from_afar(box: Lab) -> None:
    with running(box) as daemon:
        daemon.wait("api.listens")
        serve(box)
        daemon.wait("service.added", "two")
        there = ("--host", f"unix://{box.state_dir / 'api.sock'}")
        ends(box, (*there, "restart", "one", "two"), "moved to new processes", stays=True)
        ends(box, (*there, "rm", "--all"), "removed", stays=False)


def test_apply(box: Lab, tmp_path: Path) -> None:
    serve(box)
    for name in ("one", "two"):
        text = echo.viscum(box, "export", name).stdout
        (tmp_path / f"{name}.toml").write_text(text.replace('"edge"', '"newer"'))
    ends(box, ("apply", str(tmp_path)), "moved to a new generation", stays=True)


def test_one_that_ends_before_its_next_begins_holds_nobody_up(box: Lab) -> None:
    serve(box, "--upgrade", "replace")
    with echo.hold(box, ONE) as first, command(box, "restart", "--all") as child:
        assert "moved to new processes" in told(child, "two")
        assert echo.who(box, ONE) == "cloud"
        assert first.alive()
        first.close()
        assert "moved to new processes" in told(child, "one")
        assert child.wait(20) == 0
    assert echo.who(box, ONE) == "edge"


def test_one_that_fails_is_said_and_the_others_go_on(box: Lab, files: Path) -> None:
    program = files / "server.py"
    program.write_text(Path(echo.__file__).read_text())
    python, *options, _, name = echo.command("edge")
    serve(box, server=(python, *options, str(program), name))
    program.unlink()
    with command(box, "restart", "--all") as child:
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (1, "two moved to new processes\n")
    assert "one" in err
    assert echo.who(box, ONE) == "edge", "the old one goes on"


@pytest.mark.parametrize(
    "words", [("rm", "--all"), ("rm", "one", "two"), ("stop", "--all"), ("apply", "--prune")]
)
def test_one_that_is_gone_when_its_turn_comes_is_no_fault(
    box: Lab, words: tuple[str, ...], tmp_path: Path
) -> None:
    """It was due since an earlier command, and the first one's turn finished it."""
    serve(box)
    if words[0] == "apply":
        (tmp_path / "one.toml").write_text(echo.viscum(box, "export", "one").stdout)
        words += (str(tmp_path),)
    with echo.hold(box, ONE):
        with echo.hold(box, TWO):
            echo.viscum(box, "rm", "--no-wait", "--all")
        wait_until(lambda: echo.status(box, "two")["flows"] == 0, "its last flow to end")
        done = echo.viscum(box, *words, "--no-wait")
    assert "two is gone already" in done.stderr
    assert echo.status(box, "two") == {}


def test_what_is_to_be_done_to_one_that_is_gone_is_not_done(box: Lab) -> None:
    serve(box)
    with echo.hold(box, TWO):
        echo.viscum(box, "rm", "--no-wait", "two")
    wait_until(lambda: echo.status(box, "two")["flows"] == 0, "its last flow to end")
    done = box.viscum("stop", "one", "two")
    assert done.returncode == 2
    assert "no such service" in done.stderr
