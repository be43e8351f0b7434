"""run → redirect → rm, with real nginx and curl, as the README shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from e2e.servers import EDGE, body, cloud_web, nginx_command
from support import need_program
from viscum.lab import CLOUD4, CLOUD6, Lab


@pytest.mark.req("N2", "N5", "N18")
@pytest.mark.parametrize("target", [CLOUD4, CLOUD6])
def test_a_server_moves_to_the_edge_and_back(lab: Lab, target: str, files: Path) -> None:
    need_program("nginx", "curl")
    cloud_web(lab)
    assert body(lab, target) == "cloud"

    ran = lab.viscum(
        "run", "--name", "web", "--on", "wlan0", "--target", target, "--port", "80/tcp", "--",
        *nginx_command(EDGE, files),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert body(lab, target) == EDGE

    (service,) = json.loads(lab.viscum("ls", "--json").stdout)
    assert service["state"] == "running"

    removed = lab.viscum("rm", "web")
    assert removed.returncode == 0, removed.stderr
    assert body(lab, target) == "cloud"
    assert json.loads(lab.viscum("ls", "--json").stdout) == []
