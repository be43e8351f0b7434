"""After somebody has taken away by hand what was ours, every command still does its work."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.servers import EDGE, nginx_command
from support import need_program
from viscum.lab import CLOUD4, Lab

LAN = ("ip", "link", "add", "lan1", "up", "type", "veth", "peer", "name", "lan1p")


def web(lab: Lab, files: Path, *options: str, on: str = "wlan0") -> None:
    need_program("nginx", "curl")
    ran = lab.viscum(
        "run", "--name", "web", "--on", on, "--target", CLOUD4, "--port", "80/tcp", *options,
        "--", *nginx_command(EDGE, files),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


@pytest.mark.req("N16", "N18")
def test_the_interface_of_a_stopped_service_has_gone(lab: Lab, files: Path) -> None:
    """Nothing is left to attach to, and the maps went with the programs."""
    lab.run("ap", LAN, check=True)
    web(lab, files, on="lan1")
    assert lab.viscum("stop", "web").returncode == 0
    lab.run("ap", ("ip", "link", "del", "lan1"), check=True)
    for command in (("tidy",), ("disable", "web"), ("enable", "web"), ("rm", "web")):
        done = lab.viscum(*command)
        assert done.returncode == 0, (command, done.stderr)
    assert lab.viscum("ls", "--json").stdout.strip() == "[]"
