"""What a timer calls: mends what somebody took away, without anything resident."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from e2e.servers import EDGE, body, nginx_command
from support import need_program
from viscum.lab import CLOUD4, Lab

SYN = f"tcp 10.9.0.2:40000 > {CLOUD4}:80 syn"


def where(lab: Lab) -> str:
    said = lab.viscum("explain", "--json", "--on", "lan1", SYN)
    return str(json.loads(said.stdout)["reason"])


@pytest.mark.req("N16")
def test_tidy_mends_what_was_taken_away(lab: Lab, files: Path) -> None:
    """An interface that was made anew (a Wi-Fi restart), a link that is down, our nft table."""
    need_program("nginx", "curl", "nft")
    make = ("ip", "link", "add", "lan1", "up", "type", "veth", "peer", "name", "lan1p")
    lab.run("ap", make, check=True)
    ran = lab.viscum(
        "run", "--name", "web", "--on", "wlan0", "--on", "lan1", "--target", CLOUD4,
        "--port", "80/tcp", "--", *nginx_command(EDGE, files),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    status = json.loads(lab.viscum("status", "web", "--json").stdout)
    assert (where(lab), status["drift"]) == ("edge-syn", [])
    instance = status["generations"][0]["instances"][0]

    for command in (
        ("ip", "link", "del", "lan1"),
        make,
        ("ip", "link", "set", instance["link"], "down"),
        ("nft", "delete", "table", "inet", "viscum"),
    ):
        lab.run("ap", command, check=True)
    assert where(lab) == "not-attached"
    assert json.loads(lab.viscum("status", "web", "--json").stdout)["drift"]

    tidied = lab.viscum("tidy")
    assert tidied.returncode == 0, tidied.stderr
    after = json.loads(lab.viscum("status", "web", "--json").stdout)
    assert (where(lab), after["drift"]) == ("edge-syn", [])
    assert after["generations"][0]["instances"][0]["pid"] == instance["pid"]
    assert body(lab, CLOUD4) == EDGE
