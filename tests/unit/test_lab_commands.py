"""The lab's commands: what they ask of it, and that they say at once that they need root."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from viscum.cli.app import app
from viscum.errors import ViscumError
from viscum.lab import Lab
from viscum.lab.plan import Firewall, Settings


@pytest.mark.req("N2")
@pytest.mark.parametrize(
    "words", [["lab", "up"], ["lab", "down"], ["lab", "exec", "ue", "--", "true"], ["demo"]]
)
def test_without_root(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("viscum.lab.Lab.up", lambda self: pytest.fail("began"))
    monkeypatch.setattr("viscum.lab.Lab.down", lambda self: pytest.fail("began"))
    monkeypatch.setattr("viscum.lab.Lab.exec_in", lambda *a: pytest.fail("began"))
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ViscumError), done.output
    assert "sudo" in done.exception.hint


@pytest.mark.req("N2")
def test_every_setting_has_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Settings] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("viscum.lab.Lab.up", lambda self: asked.append(self.settings))
    given = [
        "--wan-rtt", "20ms", "--wan-rate", "1gbit", "--radio-rate", "0", "--loss", "0.1",
        "--clients", "3", "--firewall", "strict", "--dns",
    ]  # fmt: skip
    for words in ([], given):
        done = CliRunner().invoke(app, ["lab", "up", *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    usual, other = asked
    assert usual == Lab().settings
    assert other == Settings(usual.prefix, 3, 0.02, 1e9, 0, 0.1, Firewall.STRICT, dns=True)
