"""A service whose target is a name, in the lab, for the tests of names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.daemon import Daemon
from e2e.echo import status
from e2e.nameserver import Zone
from e2e.net import (
    PORT,
    apply,
    ok,
    peer_command,
    start_peer,
)
from support import need_program, wait_until
from viscum.lab import Lab
from viscum.lab.plan import CLOUD_NAME, CLOUDS4, CLOUDS6
from viscum.spec import toml_value

SERVER = CLOUDS4[3]  # the cloud's name server
FIRST4, NEXT4, THIRD4 = CLOUDS4[:3]
FIRST6, NEXT6, THIRD6 = CLOUDS6[:3]
MB = 1 << 20
LONG = 30.0  # seconds; for a box that has much else to do

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


def until(condition: Callable[[], Any], what: str) -> None:
    wait_until(condition, what, LONG)


named = pytest.mark.parametrize("lab", [{"dns": True, "firewall": "none"}], indirect=True)
two_clients = pytest.mark.parametrize(
    "lab", [{"dns": True, "firewall": "none", "clients": 2}], indirect=True
)


def serve(lab: Lab, names: str = "", hold: str = "1s") -> None:
    """The service, with the addresses that the lab's own name server has."""
    need_program("dnsmasq")
    command = toml_value(list(peer_command("edge", PORT)))
    apply(lab, SPEC.format(command=command, names=names, hold=hold))


def zone(lab: Lab, **records: Any) -> Zone:
    """A name server that can be changed, and the file that makes the controller ask it."""
    start_peer(lab)
    names = Zone(lab, SERVER)
    names.set(CLOUD_NAME, **({"A": [FIRST4], "AAAA": [FIRST6]} | records))
    Daemon(lab).configure(f'[names]\nservers = ["{SERVER}"]\ntrust = ["{SERVER}"]\n')
    return names


def targets(lab: Lab) -> set[str]:
    """The hosts that are steered."""
    return {t.partition("/")[0] for t in status(lab)["targets"]}


def local(lab: Lab) -> set[str]:
    """The targets in the service's namespace: also of those that only old flows still use."""
    namespace = status(lab)["generations"][0]["instances"][0]["namespace"]
    words = ok(lab.run("ap", ["ip", "-n", namespace, "-j", "addr", "show", "dev", "lo"]))
    return {a["local"] for link in json.loads(words) for a in link["addr_info"]} - {
        "127.0.0.1", "::1"
    }  # fmt: skip


def listening(lab: Lab) -> None:
    until(lambda: "p_raw" in packet_sockets(lab) or "p_dgr" in packet_sockets(lab), "ears")


def packet_sockets(lab: Lab) -> str:
    return ok(lab.run("ap", ["ss", "-H0n"]))


def cpu(daemon: Daemon) -> float:
    """Seconds that it has used."""
    assert daemon.process is not None
    words = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def memory(daemon: Daemon) -> float:
    """Resident, in kB."""
    assert daemon.process is not None
    text = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return float(text.split("VmRSS:")[1].split()[0])
