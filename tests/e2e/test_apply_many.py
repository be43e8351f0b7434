"""Several files at once, as at boot: one server that fails does not keep the others away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from e2e.servers import EDGE, body, nginx_command
from support import need_program
from viscum.lab import CLOUDS4, Lab
from viscum.spec import from_mapping, to_toml


def write(directory: Path, name: str, target: str, command: tuple[str, ...]) -> None:
    steer = {"interfaces": ["wlan0"], "targets": [target], "ports": ["80/tcp"]}
    spec = from_mapping({"name": name, "command": list(command), "steer": steer})
    (directory / f"{name}.toml").write_text(to_toml(spec))


@pytest.mark.req("N2", "N16")
def test_the_others_are_started(lab: Lab, files: Path) -> None:
    need_program("nginx", "curl", "busybox")
    write(files, "a", CLOUDS4[0], nginx_command(EDGE, files))
    write(files, "b", CLOUDS4[1], ("busybox", "false"))
    write(files, "c", CLOUDS4[2], nginx_command(EDGE, files))

    applied = lab.viscum("apply", "--prune", str(files))
    assert applied.returncode == 1
    assert "b: 'busybox false' ended before it listened" in applied.stderr
    assert "everything" not in applied.stderr  # a and c are there
    found = {s["name"]: s["state"] for s in json.loads(lab.viscum("ls", "--json").stdout)}
    assert found == {"a": "running", "c": "running"}
    assert [body(lab, CLOUDS4[n]) for n in (0, 2)] == [EDGE, EDGE]


@pytest.mark.req("N2", "N16")
def test_nothing_is_pruned_when_something_failed(lab: Lab, files: Path) -> None:
    """What was to take the old one's place may be what failed."""
    need_program("nginx", "curl", "busybox")
    write(files, "a", CLOUDS4[0], nginx_command(EDGE, files))
    assert lab.viscum("apply", str(files)).returncode == 0
    (files / "a.toml").unlink()
    write(files, "b", CLOUDS4[1], ("busybox", "false"))

    applied = lab.viscum("apply", "--prune", str(files))
    assert applied.returncode == 1
    assert "a stays" in applied.stderr
    assert body(lab, CLOUDS4[0]) == EDGE
