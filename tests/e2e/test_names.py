"""Targets that are names: asked for again in time, and learnt from what clients are told."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.daemon import Daemon, running
from e2e.echo import status
from e2e.nameserver import Zone
from e2e.net import PORT, apply, peer_command, start_peer, who
from support import need_program
from viscum.lab import Lab
from viscum.lab.plan import CLOUD_NAME, CLOUDS4, CLOUDS6
from viscum.spec import toml_value

DNS = CLOUDS4[3]  # the cloud's name server
FIRST4, NEXT4, THIRD4 = CLOUDS4[:3]
FIRST6, NEXT6, THIRD6 = CLOUDS6[:3]

SPEC = """
name = "web"
command = {command}
[steer]
interfaces = ["wlan0"]
targets = ["cloud.example"]
ports = ["7000/tcp"]
[steer.names]
min-ttl = "200ms"
hold = "{hold}"
{names}
"""

named = pytest.mark.parametrize("lab", [{"dns": True, "firewall": "none"}], indirect=True)


def serve(lab: Lab, names: str = "", hold: str = "1s") -> None:
    """The service, with the addresses that the lab's own name server has."""
    need_program("dnsmasq")
    command = toml_value(list(peer_command("edge", PORT)))
    apply(lab, SPEC.format(command=command, names=names, hold=hold))


def prepared(lab: Lab, **zone: Any) -> tuple[Zone, Daemon]:
    """A name server that can be changed; a controller that will ask it, not started yet."""
    start_peer(lab)
    names = Zone(lab, DNS)
    names.set(CLOUD_NAME, **({"A": [FIRST4], "AAAA": [FIRST6]} | zone))
    daemon = Daemon(lab)
    daemon.configure(f'[names]\nservers = ["{DNS}"]\n')
    return names, daemon


def targets(lab: Lab) -> set[str]:
    """The hosts that are steered."""
    return {t.partition("/")[0] for t in status(lab)["targets"]}


@named
@pytest.mark.req("C4")
def test_both_families_follow_the_name(lab: Lab) -> None:
    names, _ = prepared(lab)
    serve(lab)
    with running(lab) as daemon:
        assert who(lab, FIRST4) == who(lab, FIRST6) == "edge"
        names.set(CLOUD_NAME, A=[NEXT4], AAAA=[NEXT6])
        changed = daemon.wait("names.changed", "web")
        assert changed["data"] == {"added": [f"{NEXT4}/32", f"{NEXT6}/128"], "removed": []}
        assert who(lab, NEXT4) == who(lab, NEXT6) == "edge"
        gone = daemon.wait("names.changed", "web", 2)
        assert gone["data"] == {"added": [], "removed": [f"{FIRST4}/32", f"{FIRST6}/128"]}
        assert who(lab, FIRST4) == who(lab, FIRST6) == "cloud"
        assert targets(lab) == {NEXT4, NEXT6}
