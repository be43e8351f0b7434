"""The stage that examples are played on: what a killed play leaves is taken away by the next."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import EXAMPLES, installed, stage
from kit.machine import need_reach, note_load
from kit.place import PLACES, clear_up, place
from viscum.errors import ViscumError
from viscum.lab import Lab

# Plays until it is told to end, or is ended.
PLAY = """
from kit import run, stage
def main():
    with stage("test", wan_rtt=0) as made:
        made.apply('''name = "web"
command = ["busybox", "httpd", "-f", "-p", "80", "-h", "/usr/share"]
[steer]
interfaces = ["wlan0"]
targets = ["198.18.0.10"]
''')
        made.server("cloud", ["sleep", "1000"])
        print(made.directory, flush=True)
        input()
run(main)
"""


@pytest.fixture
def playing() -> Iterator[subprocess.Popen[str]]:
    paths = {"PYTHONPATH": str(EXAMPLES)}
    child = subprocess.Popen(
        [sys.executable, "-c", PLAY], env=os.environ | paths, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    yield child
    child.kill()
    child.wait()
    clear_up()


def place_of(child: subprocess.Popen[str]) -> Path:
    assert child.stdout
    return Path(child.stdout.readline().strip())


def left_of(directory: Path) -> list[str]:
    """Namespaces (with what runs in them), of services too, and files."""
    lab = Lab(directory.name)
    status = lab.status()
    return [*status.namespaces, *lab._service_namespaces(), *(str(directory),) * directory.exists()]


def test_a_killed_play_is_cleared_up_by_the_next(playing: subprocess.Popen[str]) -> None:
    directory = place_of(playing)
    playing.kill()
    playing.wait()
    assert len(left_of(directory)) == 5
    clear_up()
    assert left_of(directory) == []


def test_a_lab_that_would_not_go_is_cleared_up_by_the_next() -> None:
    def refuse() -> None:
        raise ViscumError("it would not go")

    with pytest.raises(ViscumError), stage("test", wan_rtt=0) as made:
        made.lab.down = refuse  # type: ignore[method-assign]
    assert len(left_of(made.directory)) == 4
    clear_up()
    assert left_of(made.directory) == []


def test_one_that_plays_is_left_alone(playing: subprocess.Popen[str]) -> None:
    directory = place_of(playing)
    clear_up()
    assert len(left_of(directory)) == 5
    playing.communicate("\n")
    assert playing.returncode == 0
    assert left_of(directory) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_that_is_told_to_end_clears_up_itself(
    playing: subprocess.Popen[str], number: signal.Signals
) -> None:
    """To the whole group, as a terminal does it."""
    directory = place_of(playing)
    os.killpg(playing.pid, number)
    _, said = playing.communicate()
    assert playing.returncode == 128 + number
    assert [line for line in said.splitlines() if not line.startswith("note: the load")] == []
    assert left_of(directory) == []


def test_more_signals_do_not_cut_its_clearing_up_short(playing: subprocess.Popen[str]) -> None:
    """Somebody who is impatient."""
    directory = place_of(playing)
    os.killpg(playing.pid, signal.SIGINT)
    while playing.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(playing.pid, signal.SIGTERM)
        time.sleep(0.05)
    assert left_of(directory) == []


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    link, foreign = PLACES / "vx-test-link", PLACES / "vx-test-foreign"
    try:
        link.symlink_to(tmp_path)
        foreign.mkdir()
        os.chown(foreign, 65534, 65534)
        clear_up()
        assert link.is_symlink()
        assert foreign.is_dir()
        assert (tmp_path / "kept").exists()
    finally:
        link.unlink(missing_ok=True)
        shutil.rmtree(foreign, ignore_errors=True)


def test_a_place_is_new_and_gone_afterwards() -> None:
    with place("test") as first, place("test") as second:
        assert first != second
        clear_up()
        assert first.is_dir()
        assert second.is_dir()
    assert not first.exists()
    assert not second.exists()


def test_a_service_finds_its_files_whatever_the_checkout_is_like() -> None:
    """On the stage, and where a strict sandbox shows them."""
    with stage("game") as made:
        path = made.here("/opt/viscum-examples/game/answers")
        assert made.here(f"no {path}") == f"no {path}"
        assert os.access(path, os.X_OK)
        strict = made.here(
            'name = "strict"\ncommand = ["busybox", "httpd", "-f", "-h", "/usr/share"]\n'
            '[steer]\ninterfaces = ["wlan0"]\ntargets = ["198.18.0.10"]\n'
            '[run]\nsandbox = "strict"\n'
            'ready = ["test", "-x", "/opt/viscum-examples/game/answers"]\n'
        )
        made.apply(strict)
    assert made.here("/opt/viscum-examples/faces/venv/bin/python") == str(
        installed("faces") / "bin" / "python"
    )


@pytest.mark.parametrize(
    ("run", "closed"),
    [
        ('user = "nobody"', True),
        ('user = "nobody"\ncapabilities = ["net-bind-service"]', True),
        ('capabilities = ["net-bind-service"]', True),
        ("", False),
    ],
)
def test_a_home_that_is_closed_is_named(run: str, closed: bool) -> None:
    home = Path(tempfile.mkdtemp(dir=PLACES))
    try:
        os.chown(home, 65533, 65533)
        program = home / "clone" / "python"
        program.parent.mkdir(mode=0o755)
        program.symlink_to(sys.executable)
        spec = (
            'name = "web"\ncommand = ["web"]\n[steer]\ninterfaces = ["wlan0"]\n'
            f'targets = ["198.18.0.10"]\n[run]\n{run}\n'
        )
        if closed:
            with pytest.raises(
                SystemExit, match=f"{home} is closed to .*; next: chmod o.*x {home},"
            ):
                need_reach(spec, program)
            home.chmod(0o711)
        need_reach(spec, program)
    finally:
        shutil.rmtree(home)


def test_a_busy_machine_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note_load.cache_clear()
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 99.0, 99.0))
    note_load()
    assert capsys.readouterr().err == ""
    note_load.cache_clear()
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.5, 0.5))
    note_load()
    note_load()
    [line] = capsys.readouterr().err.splitlines()
    assert "load average is 99.0" in line
