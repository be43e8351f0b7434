"""What may be a secret is not printed."""

from __future__ import annotations

import pytest

from viscum.cli.run import show_diff
from viscum.spec import from_mapping


def test_a_diff_shows_no_values_of_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    spec = from_mapping(
        {
            "name": "web",
            "command": ["/bin/true"],
            "steer": {"interfaces": ["wlan0"], "targets": ["198.18.0.10"]},
            "run": {"environment": {"TOKEN": "hunter2"}, "user": "nobody"},
        }
    )
    show_diff("web", None, spec)
    said = capsys.readouterr().out
    assert "hunter2" not in said
    assert "run.environment.TOKEN: (changed)" in said
    assert "nobody" in said
