"""After somebody has taken away by hand what was ours, every command still does its work."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest

from e2e.servers import EDGE, body, nginx_command
from support import need_program
from viscum.kernel import cgroupfs, netns, syscalls
from viscum.lab import CLOUD4, Lab
from viscum.names import HostNames

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


def instance(lab: Lab) -> dict[str, str]:
    status = json.loads(lab.viscum("status", "web", "--json").stdout)
    found: dict[str, str] = status["generations"][0]["instances"][0]
    return found


@pytest.mark.req("N16", "N18")
@pytest.mark.parametrize("command", ["tidy", "disable web", "restart web", "stop web", "rm web"])
def test_the_name_of_a_namespace_has_gone(lab: Lab, files: Path, command: str) -> None:
    """The server lives on in it, and with it the namespace's id."""
    web(lab, files)
    assert body(lab, CLOUD4) == EDGE
    before = instance(lab)
    subprocess.run(["ip", "netns", "del", before["namespace"]], check=True)

    done = lab.viscum(*command.split())
    assert done.returncode == 0, done.stderr
    if command in ("tidy", "disable web"):
        after = instance(lab)
        assert (after["pid"], after["listens"]) == (before["pid"], before["listens"])
    if command in ("tidy", "restart web"):
        assert body(lab, CLOUD4) == EDGE
    assert lab.viscum("rm", "--all").returncode == 0
    assert lab.viscum("ls", "--json").stdout.strip() == "[]"


@pytest.mark.req("N9", "N16")
def test_a_service_drains_though_the_name_of_its_namespace_has_gone(lab: Lab, files: Path) -> None:
    web(lab, files, "--drain", "30s")
    with netns.opened(lab.ue) as fd:
        client = syscalls.in_netns(fd, socket.create_connection, (CLOUD4, 80), 5)
    with client:
        subprocess.run(["ip", "netns", "del", instance(lab)["namespace"]], check=True)
        done = lab.viscum("rm", "--no-wait", "web")
        assert done.returncode == 0, done.stderr
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 200 " in client.recv(1000)


@pytest.mark.req("N1")
@pytest.mark.parametrize("which", ["all", "default"])
def test_a_box_on_which_ipv6_is_switched_off(lab: Lab, files: Path, which: str) -> None:
    """IPv4 services run there as anywhere; that IPv6 was switched off matters to new links only."""
    off = f"net.ipv6.conf.{which}.disable_ipv6=1"
    lab.run("ap", ("sysctl", "-qw", off), check=True)
    web(lab, files)
    assert body(lab, CLOUD4) == EDGE


@pytest.mark.req("N16", "N18")
@pytest.mark.parametrize("left", ["", "/web"])
def test_a_command_was_killed_between_two_mkdirs(lab: Lab, files: Path, left: str) -> None:
    """The empty group of the host or the service goes; not with the server that is in it."""
    prefix = HostNames(str(lab.state_dir)).prefix
    root = Path(cgroupfs.hierarchies().roots[0])
    (root / f"{prefix}{left}").mkdir(parents=True)
    web(lab, files)
    assert body(lab, CLOUD4) == EDGE
    assert lab.viscum("rm", "web").returncode == 0
    assert not (root / prefix).exists()

    (root / f"{prefix}{left}").mkdir(parents=True)
    assert lab.viscum("rm", "--all").returncode == 0
    assert not (root / prefix).exists()


@pytest.mark.req("N10", "N16")
@pytest.mark.parametrize("command", ["tidy", "disable web", "stop web", "rm web", "rm --all --now"])
def test_the_link_of_a_service_has_gone(lab: Lab, files: Path, command: str) -> None:
    """What stays is connected again; what goes is not mended, nor waited for."""
    web(lab, files)
    lab.run("ap", ("ip", "link", "del", instance(lab)["link"]), check=True)
    done = lab.viscum(*command.split())
    assert done.returncode == 0, done.stderr
    if command == "tidy":
        assert body(lab, CLOUD4) == EDGE
    assert lab.viscum("rm", "--all").returncode == 0
