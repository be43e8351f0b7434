"""Targets that are names: asked for again in time, and what becomes of their addresses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from e2e.daemon import Daemon, running
from e2e.nameserver import ask
from e2e.naming import (
    FIRST4,
    FIRST6,
    MB,
    NEXT4,
    NEXT6,
    SERVER,
    THIRD4,
    THIRD6,
    listening,
    local,
    named,
    serve,
    targets,
    until,
    zone,
)
from e2e.net import (
    PORT,
    apply,
    connect,
    flow,
    inside,
    ok,
    peer_command,
    who,
    who_udp,
)
from e2e.net import ask as say
from e2e.peers import content
from viscum.lab import Lab
from viscum.lab.plan import AP_LAN4, AP_WAN4, CLOUD_NAME, ue4
from viscum.spec import toml_value
from viscum.store import Store


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
        for number in range(3):  # it comes back and goes again while the flow is open
            names.set(CLOUD_NAME, A=[(NEXT4, FIRST4)[number % 2]], AAAA=[NEXT6])
            there = number % 2 == 1
            until(lambda there=there: (FIRST4 in targets(lab)) is there, "the change")  # type: ignore[misc]
        assert FIRST4 in local(lab), "its flow is open"
        assert who(lab, FIRST4) == "cloud", "and no new one is taken"
        blocks = content(5, size)
        next(blocks)
        for block in blocks:
            assert stream.read(len(block)) == block
        assert len(stream.read(64)) == 64
        conn.close()
        stream.close()
        until(lambda: FIRST4 not in local(lab), "the last of it to go with the flow")
        assert daemon.events("service.flows-reset") == []


@named
@pytest.mark.req("C4")
def test_udp_flows_of_an_address_go_on_and_it_goes_with_the_last(lab: Lab) -> None:
    names = zone(lab)
    serve(lab)
    text = (lab.directory / "spec.toml").read_text().replace("7000/tcp", "7000/udp")
    apply(lab, text + '[steer.udp]\nidle = "3s"\narm = "0s"\n')
    with running(lab), talking(lab, FIRST4) as old:
        names.set(CLOUD_NAME, A=[NEXT4], AAAA=[NEXT6])
        until(lambda: FIRST4 not in targets(lab), "it to leave")
        with talking(lab, NEXT4) as new:
            settled(lab)
            assert who_udp(lab, FIRST4) == "cloud"
            assert FIRST4 in local(lab)
            assert old.answers == {"edge"}, "its flow goes on"
            old.end()
            until(lambda: FIRST4 not in local(lab), "it to go with its last flow")
            assert new.answers == {"edge"}, "that of another address goes on"


class Talk(threading.Thread):
    """A UDP flow that never rests, and who answers it."""

    def __init__(self, conn: socket.socket) -> None:
        super().__init__(daemon=True)
        self.conn = conn
        self.answers = {say(conn)[0]}
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            self.answers.add(say(self.conn)[0])

    def end(self) -> None:
        self._ended.set()
        self.join()


@contextmanager
def talking(lab: Lab, target: str) -> Iterator[Talk]:
    with flow(lab, target) as conn:
        talk = Talk(conn)
        try:
            yield talk
        finally:
            talk.end()


def settled(lab: Lab) -> None:
    """What is due has been looked at (by this command, and by the controller meanwhile)."""
    ok(lab.viscum("tidy"))


@named
@pytest.mark.req("C4")
def test_what_cannot_be_asked_for_stays(lab: Lab) -> None:
    names = zone(lab)
    serve(lab, hold="300ms")
    with running(lab) as daemon:
        until(lambda: len(names.asked()) >= 2, "the first round")
        # One family fails: the other moves, and what there is of this one stays.
        names.set(CLOUD_NAME, A=[NEXT4], AAAA_rcode=2)
        failed = daemon.wait("names.failed", "web")
        assert "cloud.example AAAA: 198.18.0.13: SERVFAIL" in failed["message"]
        until(lambda: NEXT4 in targets(lab), "the address that could be asked for")
        assert FIRST6 in targets(lab)
        assert most_between(names.asked(), " A", " AAAA") >= 6, "it was asked for again and again"
        before = targets(lab)
        # Neither is there, or nobody answers: all stays, for longer than anything is held.
        names.set(CLOUD_NAME, A_rcode=3, AAAA_rcode=3)
        count = len(names.asked())
        until(lambda: len(names.asked()) >= count + 6, "more rounds")
        assert targets(lab) >= before - {FIRST4}
        # And when it answers again, by TCP only and along a chain, all is well.
        names.set(CLOUD_NAME, CNAME="edge.example")
        names.set("edge.example", A=[THIRD4], AAAA=[THIRD6], tcp=True)
        until(lambda: targets(lab) == {THIRD4, THIRD6}, "the new addresses")
        assert who(lab, THIRD6) == "edge"
        assert len(daemon.events("names.failed")) == 1, "told once, not at every try"


def most_between(lines: list[str], end: str, what: str) -> int:
    """How often `what` was asked at most between two times that `end` was."""
    most = count = 0
    for line in lines:
        count = 0 if line.endswith(end) else count + line.endswith(what)
        most = max(most, count)
    return most


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
        until(lambda: NEXT4 in targets(lab), "the good one")
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
        until(lambda: "10.9.9.9" in targets(lab), "what is within")
        until(lambda: NEXT4 not in targets(lab), "what is not to go")
        assert who(lab, "10.9.9.9") == "edge"


@named
@pytest.mark.req("C4", "C6")
def test_a_tenant_gets_no_address_beyond_its_allowance(lab: Lab) -> None:
    names = zone(lab)
    serve(lab, 'learn = "on"')
    daemon = Daemon(lab)
    tenants = daemon.config / "tenants"
    tenants.mkdir()
    (tenants / "acme.toml").write_text(
        f'domains = ["{CLOUD_NAME}"]\ntargets = ["{FIRST4}", "{NEXT4}", "2001:db8:c::/64"]\n'
    )
    # As if it had made it: what a tenant's spec has to be is tested elsewhere.
    store = Store(str(lab.state_dir))
    world = inside(lab, "ap", store.load, "", "")
    store.save(world.with_record(replace(world.services["web"], tenant="acme")))
    with running(lab) as daemon:
        names.set(CLOUD_NAME, A=[FIRST4, NEXT4, THIRD4], AAAA=[THIRD6],
                  **{"for": {ue4(): {"A": ["203.0.113.9"]}}})  # fmt: skip
        daemon.wait("names.changed", "web")
        until(lambda: targets(lab) == {FIRST4, NEXT4, THIRD6}, "what is allowed")
        listening(lab)
        ask(lab, CLOUD_NAME, server=SERVER)
        until(lambda: len(daemon.events("names.refused", "web")) == 2, "the refusals")
        assert {e["data"]["why"] for e in daemon.events("names.refused", "web")} == {
            f"{THIRD4} is beyond the tenant's allowance",
            "203.0.113.9 is beyond the tenant's allowance",
        }
        assert {e["tenant"] for e in daemon.events("names.refused")} == {"acme"}
        assert targets(lab) == {FIRST4, NEXT4, THIRD6}
