"""Setting up a checkout, and noticing what tests leave on the machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from support import leaks, machine_state, need_program, wait_until

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", ".hypothesis", "*.o")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a fresh clone holds."""
    target = tmp_path / "checkout"
    shutil.copytree(ROOT, target, ignore=LEFT_OUT)
    return target


def make(directory: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def not_compiled(directory: Path) -> list[Path]:
    """Modules that every start of the command would compile."""
    return [p for p in directory.rglob("*.py") if not os.path.exists(cache_from_source(p))]


@pytest.mark.req("N1")
@pytest.mark.slow
def test_setup_makes_a_checkout_ready_and_does_nothing_twice(checkout: Path) -> None:
    need_program("make")
    first = make(checkout, "setup", PYTHONDONTWRITEBYTECODE="1", PIP_NO_COMPILE="1")
    assert first.returncode == 0, first.stderr
    assert not_compiled(checkout / "src") == []
    assert not_compiled(checkout / ".venv/lib") == []
    assert (checkout / "src/viscum/bpf/viscum.bpf.o").exists()
    command = checkout / ".venv/bin/viscum"
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before = {p: p.stat().st_mtime_ns for p in (checkout / ".venv/bin").iterdir()}
    second = make(checkout, "setup")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert {p: p.stat().st_mtime_ns for p in (checkout / ".venv/bin").iterdir()} == before
    # the object is compiled again when its source changes, and only it
    with (checkout / "src/viscum/bpf/viscum.h").open("a") as header:
        header.write("\n/* changed */\n")
    third = make(checkout, "setup")
    assert third.returncode == 0
    assert third.stdout.splitlines() == ["setup: compiling src/viscum/bpf/viscum.bpf.c"]


@pytest.mark.req("N1")
def test_setup_names_the_step_that_failed(checkout: Path) -> None:
    need_program("make")
    nowhere = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    done = make(checkout, "setup", **nowhere)
    assert done.returncode != 0
    assert "setup: failed while installing Python packages" in done.stderr
    assert "setup: next:" in done.stderr
    assert not (checkout / ".venv/stamp").exists()  # the next run tries again


@pytest.mark.req("N1")
def test_setup_goes_on_after_it_was_killed(checkout: Path) -> None:
    """`python -m venv` installs pip last; killed before, it leaves an environment without."""
    need_program("make")
    python = checkout / ".venv/bin/python"
    half = ["/usr/bin/python3", "-m", "venv", "--without-pip", str(checkout / ".venv")]
    subprocess.run(half, check=True)
    nowhere = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    done = make(checkout, "setup", **nowhere)
    assert "No module named pip" not in done.stderr
    subprocess.run([python, "-m", "pip", "--version"], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.req("N1")
def test_make_help_names_the_targets() -> None:
    words = make(ROOT, "help").stdout
    for target in ("setup", "demo", "test", "lint", "acceptance", "bench-quick", "clean"):
        assert f"\n  {target} " in words


def test_what_is_left_behind_is_noticed() -> None:
    name = f"vt-{os.getpid()}-left"
    before = machine_state()
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        found = leaks(before, timeout=0)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    assert f"namespaces: left behind {name}" in found
    assert f"mounts: left behind /run/netns/{name}" in found
    assert not [line for line in leaks(before, timeout=0) if name in line]


@pytest.mark.req("N1")
@pytest.mark.parametrize("target", ["demo", "test", "acceptance", "vm", "bench-quick"])
def test_without_root_and_sudo_it_says_what_to_do(target: str) -> None:
    need_program("make")
    with tempfile.TemporaryDirectory(prefix="vt-path-", dir="/var/tmp") as programs:
        os.chmod(programs, 0o755)
        for program in ("id", "make", "sh"):  # and no sudo
            os.symlink(shutil.which(program) or program, f"{programs}/{program}")
        done = subprocess.run(
            ["make", "-f", "-", "-o", "setup", target],
            cwd="/",
            env={"PATH": programs},
            user=65534,
            input=(ROOT / "Makefile").read_text(),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    words, make_s = done.stderr.splitlines()
    assert words == f"not root and no sudo; next: as root, make {target}"
    assert make_s.startswith("make: ***")


@pytest.mark.req("N1")
def test_what_root_makes_in_a_users_checkout_is_the_users(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.chown(tmp_path, 65534, 65534)
    words = "mkdir -p build/examples; touch build/examples/figures .git/index; exit 3"
    script = ROOT / "scripts" / "as-root"
    done = subprocess.run(["sh", script, "sh", "-c", words], cwd=tmp_path, check=False)
    assert done.returncode == 3
    owners = {str(p.relative_to(tmp_path)): p.lstat().st_uid for p in tmp_path.rglob("*")}
    assert owners.pop(".git") == owners.pop(".git/index") == 0
    assert set(owners) == {"build", "build/examples", "build/examples/figures", "link"}
    assert set(owners.values()) == {65534}
    assert os.stat("/etc/passwd").st_uid == 0


@pytest.mark.req("N1")
def test_what_root_makes_can_be_read_whatever_the_users_umask(tmp_path: Path) -> None:
    words = ["sh", str(ROOT / "scripts" / "as-root"), "mkdir", "made"]
    for name, owner in (("roots", 0), ("users", 65534)):
        checkout = tmp_path / name
        checkout.mkdir()
        os.chown(checkout, owner, owner)
        subprocess.run(words, cwd=checkout, check=True, umask=0o077)
        assert (checkout / "made").stat().st_mode & 0o777 == 0o755


@pytest.mark.req("N1")
def test_an_interrupted_command_of_roots_is_waited_for(tmp_path: Path) -> None:
    """It takes away what it has made, and then the user gets the rest."""
    os.chown(tmp_path, 65534, 65534)
    words = "trap 'touch cleared; exit 5' INT; touch ready; while :; do sleep 0.01; done"
    child = subprocess.Popen(
        ["sh", ROOT / "scripts" / "as-root", "sh", "-c", words], cwd=tmp_path, process_group=0
    )
    wait_until((tmp_path / "ready").exists, "it runs")
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(10) == 5
    assert (tmp_path / "cleared").stat().st_uid == 65534
