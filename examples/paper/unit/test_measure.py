"""U7: a part that cannot run says why, and figures are what was measured."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kit import Figures
from paper import measure
from paper.docker import CANNOT, docker
from paper.measured import Measured, Missing, Ours, number
from support import need_program

pytestmark = pytest.mark.req("U7")


def test_a_part_that_needs_docker_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SystemExit) as ended, docker(None):  # type: ignore[arg-type]
        pass
    assert ended.value.code == CANNOT
    assert "apt-get install docker.io" in capsys.readouterr().err


class Ends(measure.Part):
    """A part that says something and ends with this status."""

    @property
    def argv(self) -> list[str]:
        program = f"import sys; print('{self.what}', file=sys.stderr); sys.exit({self.about})"
        return [sys.executable, "-c", program]


def test_a_part_that_ends_badly_leaves_a_reason_and_no_old_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places = [tmp_path / "build", tmp_path / "kept"]
    for place, name in zip(places, ("BUILD", "KEPT"), strict=True):
        monkeypatch.setattr(measure, name, place)
        place.mkdir()
    old = ("paper-part.json", "paper-part.csv", "paper-part-series.csv")
    for status, named in ((CANNOT, "cannot"), (1, "failed"), (0, "failed")):
        for place in places:
            for name in old:
                (place / name).write_text("[]")
        found = measure.run(Ends("part", "no such thing", status, series=old[2:]))
        why = "no such thing" if status else "No such file or directory: .*paper-part.json"
        assert found.outcome == named
        assert re.search(why, found.why), "one that ends well has to keep something"
        assert not any((place / name).exists() for place in places for name in old)


@pytest.mark.parametrize("given", ["", "rtt,", " rtt", "nonsense"])
def test_only_of_what_there_is_not(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["measure", "--only", given])
    with pytest.raises(SystemExit) as ended:
        measure.chosen()
    assert ended.value.code == 2
    assert "there is no part" in capsys.readouterr().err


def test_which_examples_are_to_be_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["measure", "--examples", "--only", "rtt,tls,plates"])
    with pytest.raises(SystemExit):
        measure.chosen()
    assert capsys.readouterr().out.split() == ["plates", "tls"]


def test_a_second_run_is_told_to_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "KEPT", tmp_path)
    os.close(measure.alone())
    held = measure.alone()
    with pytest.raises(SystemExit, match="another make paper"):
        measure.alone()
    os.close(held)


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert measure.commit() == "unknown"


def test_reading_the_commit_leaves_the_index_to_its_owner(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also when git would like to refresh it: a file has been touched."""
    need_program("git")
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    assert measure.commit() == "unknown"
    file, index = tmp_path / "file", tmp_path / ".git" / "index"
    file.write_text("as it was")
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com")
    for words in ("init -q", "add file", "commit -q -m first"):
        subprocess.run([*git, *words.split()], check=True)
    if os.geteuid() == 0:
        for path in (tmp_path, *tmp_path.rglob("*")):
            os.chown(path, 65534, 65534)
    os.utime(file, (1, 1))
    before = index.stat()
    assert re.fullmatch("[0-9a-f]{7,}", measure.commit())
    file.write_text("changed")
    assert re.fullmatch(r"[0-9a-f]{7,}\+", measure.commit())
    after = index.stat()
    assert (after.st_ino, after.st_uid, after.st_mtime_ns) == (
        before.st_ino, before.st_uid, before.st_mtime_ns,
    )  # fmt: skip


def test_a_ratio_of_what_was_measured_in_turn_has_its_spread(tmp_path: Path) -> None:
    """Of many samples, or of those that have no partner, it is that of the medians."""
    figures = Figures("part")
    figures.add("few", [1.0, 4.0, 9.0], "ms")
    figures.add("others", [1.0, 2.0, 3.0], "ms")
    figures.add("more", [2.0, 2.0], "ms")
    figures.add("never", math.inf, "ms")
    figures.save(tmp_path)
    found = Measured(["part"], tmp_path)
    assert found.ratio("part", "few", "others") == Ours(2, "×", "1 … 3, n=3")
    assert found.ratio("part", "few", "more") == Ours(2, "×")
    with pytest.raises(Missing):
        found.ratio("part", "never", "few")


def test_only_a_report_of_everything_goes_to_docs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measure, "OUTCOMES", tmp_path / "outcomes.json")
    outcomes: dict[str, object] = {part.name: {} for part in measure.PARTS}
    measure.keep(outcomes)
    assert measure.page() == measure.ROOT / "docs" / "paper.md"
    outcomes.pop("game")
    measure.keep(outcomes)
    assert measure.page().is_relative_to(measure.KEPT)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (512_345.6, "512,346"),
        (60.512, "60.5"),
        (0.0722, "0.0722"),
        (0.00003, "0.00003"),
        (math.inf, "never"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text
