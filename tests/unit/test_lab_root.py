"""The lab's commands say at once that they need root, before they begin to take one away."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from viscum.cli.app import app
from viscum.errors import ViscumError


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
