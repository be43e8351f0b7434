"""Which host a command acts for: the state directory, and the network namespace it runs in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from conftest import LabFactory
from e2e import snapshot
from e2e.servers import EDGE, body, cloud_web, nginx_command
from support import need_program
from viscum.lab import CLOUD4, Lab

VISCUM = str(Path(sys.executable).with_name("viscum"))
RUN = ("run", "--name", "web", "--on", "wlan0", "--target", CLOUD4, "--port", "80/tcp", "--")


def services(lab: Lab) -> list[str]:
    return [s["name"] for s in json.loads(lab.viscum("ls", "--json").stdout)]


@pytest.mark.req("N3")
def test_two_hosts_on_one_machine_do_not_see_each_other(
    lab_factory: LabFactory, files: Path
) -> None:
    need_program("nginx", "curl")
    one, two = lab_factory(), lab_factory()
    for lab in (one, two):
        cloud_web(lab)
    before = snapshot.operator(two)
    command = nginx_command(EDGE, files)
    assert one.viscum(*RUN, *command).returncode == 0
    assert (body(one, CLOUD4), body(two, CLOUD4)) == (EDGE, "cloud")
    assert (services(one), services(two)) == (["web"], [])
    assert snapshot.differences(before, snapshot.operator(two)) == []

    assert two.viscum(*RUN, *command).returncode == 0  # the same name, slot, ids and addresses
    assert two.viscum("disable", "web").returncode == 0
    assert (body(one, CLOUD4), body(two, CLOUD4)) == (EDGE, "cloud")
    assert two.viscum("rm", "--all").returncode == 0
    assert (services(one), services(two)) == (["web"], [])
    assert body(one, CLOUD4) == EDGE


@pytest.mark.req("N3", "N15")
@pytest.mark.parametrize("command", [(*RUN, "sleep", "9"), ("rm", "--all")])
def test_two_hosts_in_one_namespace_are_refused(
    lab: Lab, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Each would take the other's objects for what a killed command left, and remove them."""
    ran = lab.viscum(*RUN, "busybox", "httpd", "-f", "-p", "[::]:80")
    assert ran.returncode == 0, ran.stderr
    before = snapshot.operator(lab)
    other = {**lab.environment("ap"), "VISCUM_STATE_DIR": str(tmp_path / "other")}
    refused = lab.run("ap", [VISCUM, *command], env=other)
    assert refused.returncode == 2, refused.stderr
    assert "another state directory has services in this network namespace" in refused.stderr
    assert "VISCUM_STATE_DIR" in refused.stderr
    assert "nsenter --net=" in refused.stderr
    assert snapshot.differences(before, snapshot.operator(lab)) == []
    assert not (tmp_path / "other").exists()
    assert services(lab) == ["web"]


COMMANDS = [
    (*RUN, "sleep", "9"),
    ("enable", "web"),
    ("disable", "web"),
    ("stop", "web"),
    ("start", "web"),
    ("restart", "web"),
    ("rm", "web"),
    ("rm", "--all"),
    ("exec", "web", "--", "true"),
    ("tidy",),
    ("ls",),
    ("status", "web"),
    ("logs", "web"),
    ("export", "web"),
    ("explain", "web", f"tcp 10.9.0.2:40000 > {CLOUD4}:80 syn"),
]


@pytest.mark.req("N3")
def test_commands_refuse_a_private_mount_namespace(lab: Lab) -> None:
    """`ip netns exec` makes one: namespaces mounted there would be lost with it, and what is shown
    from there would not be what is."""
    ran = lab.viscum(*RUN, "busybox", "httpd", "-f", "-p", "[::]:80")
    assert ran.returncode == 0, ran.stderr
    before = snapshot.operator(lab), snapshot.traces(lab)
    words = ["unshare", "-m", "--propagation", "slave", "nsenter", f"--net=/run/netns/{lab.ap}"]
    for command in COMMANDS:
        done = lab.run("ap", [*words, VISCUM, *command])
        assert done.returncode == 1, (command, done.stdout, done.stderr)
        assert "nsenter --net=/run/netns/NAME viscum" in done.stderr, (command, done.stderr)
        assert "ip netns exec" in done.stderr
    examined = lab.run("ap", [*words, VISCUM, "doctor", "--json"])
    assert examined.returncode == 1, examined.stderr
    findings = [f for f in json.loads(examined.stdout) if "ip netns exec" in f["what"]]
    assert [f["level"] for f in findings] == ["fail"]
    assert "nsenter --net=/run/netns/NAME viscum" in findings[0]["fix"]
    after = snapshot.operator(lab), snapshot.traces(lab)
    assert snapshot.differences(before[0], after[0]) == []
    assert before[1] == after[1]
