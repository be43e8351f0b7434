"""Targets that are names: asked for again in time, and learnt from what clients are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from e2e.daemon import Daemon, running
from e2e.echo import status
from e2e.nameserver import Zone, ask
from e2e.net import (
    PORT,
    apply,
    connect,
    ok,
    peer_command,
    start_peer,
    who,
)
from e2e.peers import content
from support import need_program, wait_until
from viscum.lab import Lab
from viscum.lab.plan import AP_LAN4, AP_WAN4, CLOUD_NAME, CLOUDS4, CLOUDS6, ue4
from viscum.spec import toml_value

SERVER = CLOUDS4[3]  # the cloud's name server
FIRST4, NEXT4, THIRD4 = CLOUDS4[:3]
FIRST6, NEXT6, THIRD6 = CLOUDS6[:3]
MB = 1 << 20

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


@named
@pytest.mark.req("C4")
def test_both_families_follow_the_name(lab: Lab) -> None:
    names = zone(lab)
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


@named
@pytest.mark.req("C4")
def test_a_download_goes_on_when_its_address_has_left(lab: Lab) -> None:
    names = zone(lab)
    serve(lab)
    size = 32 * MB
    with running(lab) as daemon, connect(lab, FIRST4) as conn, conn.makefile("rb") as stream:
        conn.sendall(f"get {size} 5\n".encode())
        assert stream.readline() == b"edge\n"
        assert stream.read(MB) == next(content(5, size))
        for number in range(5):  # it comes back and goes again while the flow is open
            names.set(CLOUD_NAME, A=[(NEXT4, FIRST4)[number % 2]], AAAA=[NEXT6])
            there = number % 2 == 1
            wait_until(lambda there=there: (FIRST4 in targets(lab)) is there, "the change")  # type: ignore[misc]
        assert FIRST4 in local(lab), "its flow is open"
        assert who(lab, FIRST4) == "cloud", "and no new one is taken"
        blocks = content(5, size)
        next(blocks)
        for block in blocks:
            assert stream.read(len(block)) == block
        assert len(stream.read(64)) == 64
        conn.close()
        stream.close()
        wait_until(lambda: FIRST4 not in local(lab), "the last of it to go with the flow")
        assert daemon.events("service.flows-reset") == []


@named
@pytest.mark.req("C4")
def test_what_cannot_be_asked_for_stays(lab: Lab) -> None:
    names = zone(lab)
    serve(lab, hold="300ms")
    with running(lab) as daemon:
        wait_until(lambda: len(names.asked()) >= 2, "the first round")
        # One family fails: the other moves, and what there is of this one stays.
        names.set(CLOUD_NAME, A=[NEXT4], AAAA_rcode=2)
        failed = daemon.wait("names.failed", "web")
        assert "cloud.example AAAA: 198.18.0.13: SERVFAIL" in failed["message"]
        wait_until(lambda: NEXT4 in targets(lab), "the address that could be asked for")
        assert FIRST6 in targets(lab)
        before = targets(lab)
        # Neither is there, or nobody answers: all stays, for longer than anything is held.
        names.set(CLOUD_NAME, A_rcode=3, AAAA_rcode=3)
        count = len(names.asked())
        wait_until(lambda: len(names.asked()) >= count + 6, "more rounds")
        assert targets(lab) >= before - {FIRST4}
        # And when it answers again, by TCP only and along a chain, all is well.
        names.set(CLOUD_NAME, CNAME="edge.example")
        names.set("edge.example", A=[THIRD4], AAAA=[THIRD6], tcp=True)
        wait_until(lambda: targets(lab) == {THIRD4, THIRD6}, "the new addresses", 30)
        assert who(lab, THIRD6) == "edge"
        assert len(daemon.events("names.failed")) == 1, "told once, not at every try"


@named
@pytest.mark.req("C4")
def test_a_name_cannot_bring_just_any_address(lab: Lab) -> None:
    names = zone(lab)
    serve(lab)
    command = toml_value(list(peer_command("other", PORT)))
    apply(
        lab,
        f"""
name = "other"
command = {command}
[steer]
interfaces = ["wlan0"]
targets = ["{THIRD4}"]
ports = ["7000/tcp"]
""",
    )
    with running(lab) as daemon:
        bad = [AP_WAN4, AP_LAN4, ue4(), THIRD4, "127.0.0.1", "10.9.9.9", "224.0.0.9", "100.64.0.1"]
        names.set(CLOUD_NAME, A=[*bad, NEXT4], AAAA=[FIRST6, "fe80::1", "::ffff:198.18.0.11", "::"])
        wait_until(lambda: NEXT4 in targets(lab), "the good one")
        assert targets(lab) <= {FIRST4, NEXT4, FIRST6}
        why = {e["data"]["why"] for e in daemon.events("names.refused", "web")}
        assert len(why) == len(bad) + 3
        for words in (
            f"{AP_WAN4} is this box's own address (on wan0)",
            f"{ue4()} is in a network of this box's LAN (on wlan0)",
            f"{THIRD4} is a target of other's",
            "127.0.0.1 is loopback",
            "10.9.9.9 is not a public address, and steer.names.within does not name it",
        ):
            assert words in why
        # Within what the operator names, and nowhere else.
        serve(lab, 'within = ["10.9.9.0/24", "2001:db8:c::/64"]')
        wait_until(lambda: "10.9.9.9" in targets(lab), "what is within")
        wait_until(lambda: NEXT4 not in targets(lab), "what is not to go")
        assert who(lab, "10.9.9.9") == "edge"


@named
@pytest.mark.req("C4")
def test_what_only_a_client_is_told_is_learnt_and_outlives_the_controller(lab: Lab) -> None:
    names = zone(lab, **{"for": {ue4(): {"A": [THIRD4], "AAAA": [THIRD6], "ttl": 1}}})
    serve(lab, 'learn = "on"', hold="3s")
    daemon = Daemon(lab).start()
    listening(lab)
    assert who(lab, THIRD4) == "cloud"
    assert ask(lab, CLOUD_NAME, "A", server=SERVER) == [THIRD4]
    assert ask(lab, CLOUD_NAME, "AAAA", server=SERVER) == [THIRD6]
    daemon.wait("names.changed", "web")
    wait_until(lambda: who(lab, THIRD4) == who(lab, THIRD6) == "edge", "both to be steered")
    daemon.kill()
    assert targets(lab) == {FIRST4, FIRST6, THIRD4, THIRD6}
    assert who(lab, THIRD4) == "edge"
    daemon.start()
    asked = len(names.asked())
    wait_until(lambda: len(names.asked()) >= asked + 2, "the new controller to ask")
    assert THIRD4 in targets(lab)
    wait_until(lambda: targets(lab) == {FIRST4, FIRST6}, "what is told to nobody any more to go")
    assert daemon.stop() == 0
    assert daemon.faults() == []


@named
@pytest.mark.req("C4")
def test_what_the_router_itself_tells_its_clients_is_learnt(lab: Lab) -> None:
    """A real dnsmasq, and a client's own port."""
    zone(lab)
    serve(lab, 'learn = "on"', hold="30s")
    words = ["dnsmasq", "-k", "-C", "/dev/null", "-h", "-R", "--pid-file=", "--user=root"]
    words += [
        f"--listen-address={AP_LAN4}",
        "--bind-interfaces",
        f"--address=/{CLOUD_NAME}/{NEXT4}",
    ]
    lab.popen("ap", words)
    wait_until(lambda: ":53" in lab.run("ap", ["ss", "-Hlun"]).stdout, "dnsmasq")
    with running(lab) as daemon:
        listening(lab)
        assert ask(lab, CLOUD_NAME, server=AP_LAN4) == [NEXT4]
        daemon.wait("names.changed", "web")
        assert who(lab, NEXT4) == "edge"


def listening(lab: Lab) -> None:
    wait_until(lambda: "p_raw" in packet_sockets(lab) or "p_dgr" in packet_sockets(lab), "ears")


def packet_sockets(lab: Lab) -> str:
    return ok(lab.run("ap", ["ss", "-H0n"]))
