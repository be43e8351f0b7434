"""What a server is told: by words, else by the environment, else by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.options import configured

pytestmark = pytest.mark.req("U1", "U4")


@dataclass(frozen=True)
class Config:
    port: int = 80
    upload_seconds: float = 30.0
    spool: Path = Path("/var/spool")
    key: str = ""


def told(*words: str) -> Config:
    return configured(Config, "TINY", "What it is.", words)


def test_by_default() -> None:
    assert told() == Config()


def test_by_the_environment_and_by_words_which_count_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_PORT", "81")
    monkeypatch.setenv("TINY_UPLOAD_SECONDS", "2.5")
    monkeypatch.setenv("TINY_SPOOL", "/srv")
    monkeypatch.setenv("OTHER_KEY", "of another server")
    assert told() == Config(81, 2.5, Path("/srv"))
    assert told("--port", "82", "--key=a b") == Config(82, 2.5, Path("/srv"), "a b")


def test_words_of_the_command_line_are_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["server.py", "--upload-seconds", "3"])
    assert configured(Config, "TINY", "") == Config(upload_seconds=3.0)


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["--port", "http"], "81", "argument --port: invalid int value: 'http'"),
        ([], "http", "argument --port: invalid int value: 'http'"),
        (["--prot", "80"], "81", "unrecognized arguments: --prot 80"),
        (["--upload-seconds"], "81", "argument --upload-seconds: expected one argument"),
    ],
)
def test_what_can_not_be_used_ends_it_with_a_reason(
    words: list[str],
    environment: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TINY_PORT", environment)
    with pytest.raises(SystemExit) as ended:
        told(*words)
    assert ended.value.code == 2
    assert f"tiny: error: {said}" in capsys.readouterr().err


def test_help_names_options_variables_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        told("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "What it is." in text
    assert "--upload-seconds FLOAT $TINY_UPLOAD_SECONDS, by default 30.0" in text
    assert "--key STR $TINY_KEY, by default none" in text
