"""The ground the tests stand on: requirements, skips and figures of tests/conftest.py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent


def run(directory: Path, code: str, *options: str, **environment: str) -> tuple[int, str]:
    """A run of pytest of its own over one file; (exit status, output)."""
    for name in ("conftest.py", "support.py"):
        shutil.copy(TESTS / name, directory)
    (directory / "unit").mkdir()
    (directory / "unit" / "test_it.py").write_text(f"import pytest\n{code}")
    clean = {k: v for k, v in os.environ.items() if k != "VISCUM_REQUIRE_ALL"}
    words = [sys.executable, "-m", "pytest", f"-c{ROOT}/pyproject.toml", f"--rootdir={directory}"]
    done = subprocess.run(
        [*words, "-opythonpath=.", "-pno:cacheprovider", *options, str(directory)],
        cwd=directory,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


NUMBERS = [*(f"N{n}" for n in range(1, 19)), *(f"C{n}" for n in range(1, 10)), "U6"]
ALL = f"@pytest.mark.req(*{NUMBERS})\n"


def test_acceptance_shows_requirement_tests_result_and_figure(tmp_path: Path) -> None:
    code = f"{ALL}def test_a(figure):\n    figure('round trip', 61.25, 'ms')\n"
    status, words = run(tmp_path, code, "--acceptance")
    assert status == 0, words
    assert re.search(
        r"N18 +1 passed\n +unit/test_it.py::test_a: passed\n +round trip: 61.25 ms", words
    )
    assert "not proved" not in words


@pytest.mark.parametrize("code", ["pass", "assert False", "pytest.skip('no')"])
def test_acceptance_fails_for_a_requirement_that_nothing_proves(tmp_path: Path, code: str) -> None:
    others = f"@pytest.mark.req(*{[n for n in NUMBERS if n != 'N18']})\ndef test_a(): pass\n"
    numbers = "" if code == "pass" else "@pytest.mark.req('N18')\n"
    status, words = run(tmp_path, f"{others}{numbers}def test_b(): {code}\n", "--acceptance")
    assert status == 1
    assert "not proved: N18\n" in words


def test_an_unknown_requirement_is_refused(tmp_path: Path) -> None:
    status, words = run(tmp_path, "@pytest.mark.req('N99')\ndef test_a(): pass\n")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "no requirement N99" in words


@pytest.mark.parametrize(
    "code",
    [
        "def test_a(): pytest.skip('nginx is not installed')",
        "@pytest.mark.skip(reason='later')\ndef test_a(): pass",
        "pytest.skip('all of it', allow_module_level=True)",
    ],
    ids=["call", "mark", "module"],
)
def test_require_all_makes_a_skip_a_failure(tmp_path: Path, code: str) -> None:
    status, words = run(tmp_path, code, VISCUM_REQUIRE_ALL="1")
    assert status not in (0, pytest.ExitCode.NO_TESTS_COLLECTED), words
    assert "skipped, but VISCUM_REQUIRE_ALL=1" in words


def test_without_it_a_skip_is_a_skip(tmp_path: Path) -> None:
    status, words = run(tmp_path, "def test_a(): pytest.skip('nginx is not installed')")
    assert (status, "1 skipped" in words) == (0, True)


def test_what_the_kernel_lacks_may_be_skipped(tmp_path: Path) -> None:
    code = "from support import need_kernel\ndef test_a(): need_kernel('netem', False)"
    status, words = run(tmp_path, code, VISCUM_REQUIRE_ALL="1")
    assert status == 0, words
    assert "this kernel lacks netem" in words
