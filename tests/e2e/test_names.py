"""Targets that are names: asked for again in time, and learnt from what clients are told."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
import pytest
from msgspec.structs import replace

from conftest import Figure
from e2e.api import Client
from e2e.daemon import Daemon, running
from e2e.echo import status
from e2e.nameserver import Zone, ask
from e2e.net import (
    DGRAM,
    PORT,
    apply,
    connect,
    flow,
    inside,
    ok,
    peer_command,
    sock,
    start_peer,
    who,
    who_udp,
)
from e2e.net import ask as say
from e2e.peers import content
from support import need_program, wait_until
from viscum.lab import Lab
from viscum.lab.plan import AP_LAN4, AP_WAN4, CLOUD_NAME, CLOUDS4, CLOUDS6, ue4
from viscum.spec import toml_value
from viscum.store import Store

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
    until(lambda: who(lab, THIRD4) == who(lab, THIRD6) == "edge", "both to be steered")
    with connect(lab, THIRD4) as conn:
        assert say(conn)[0] == "edge"
        rows = {
            row["address"]: row
            for row in Client(lab.state_dir / "api.sock")
            .get("/v1/services/web/names")
            .json["items"]
        }
    assert {a: row["source"] for a, row in rows.items()} == {
        FIRST4: "resolver", FIRST6: "resolver", THIRD4: "seen", THIRD6: "seen"
    }  # fmt: skip
    assert rows[THIRD4]["name"] == CLOUD_NAME
    assert rows[THIRD4]["first"] <= rows[THIRD4]["last"] < rows[THIRD4]["expires"]
    assert rows[THIRD4]["flows"] >= 1
    assert rows[FIRST6]["flows"] == 0
    daemon.kill()
    assert targets(lab) == {FIRST4, FIRST6, THIRD4, THIRD6}
    assert who(lab, THIRD4) == "edge"
    daemon.start()
    asked = len(names.asked())
    until(lambda: len(names.asked()) >= asked + 2, "the new controller to ask")
    assert THIRD4 in targets(lab)
    until(lambda: targets(lab) == {FIRST4, FIRST6}, "what is told to nobody any more to go")
    assert daemon.stop() == 0
    assert daemon.faults() == []


@named
@pytest.mark.req("C4")
def test_what_the_router_itself_tells_its_clients_is_learnt(lab: Lab, figure: Figure) -> None:
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
    until(lambda: ":53" in lab.run("ap", ["ss", "-Hlun"]).stdout, "dnsmasq")
    with running(lab) as daemon:
        listening(lab)
        assert ask(lab, CLOUD_NAME, server=AP_LAN4) == [NEXT4]
        told = time.monotonic()
        until(lambda: who(lab, NEXT4) == "edge", "it to be steered")
        figure("from the answer until its address is steered", time.monotonic() - told, "s")
        daemon.wait("names.changed", "web")


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


def listening(lab: Lab) -> None:
    until(lambda: "p_raw" in packet_sockets(lab) or "p_dgr" in packet_sockets(lab), "ears")


def packet_sockets(lab: Lab) -> str:
    return ok(lab.run("ap", ["ss", "-H0n"]))


# ---- whoever wants to bring an address ---------------------------------------------------------

FORGED = "203.0.113.66"  # where a forged answer leads
CLIENT_PORT = 5555


def forged(query: bytes, address: str = FORGED, number: int | None = None) -> bytes:
    """An answer to the query, with the number it asks for or another one."""
    made = dns.message.make_response(dns.message.from_wire(query))
    made.id = made.id if number is None else number
    name = made.question[0].name
    made.answer.append(dns.rrset.from_text(name, 60, "IN", "A", address))
    return made.to_wire()


def throw(lab: Lab, role: str, source: str, data: bytes, port: int = CLIENT_PORT) -> None:
    """A datagram from port 53 of `source`, whose ever that is, to the first client."""
    udp = struct.pack("!4H", 53, port, 8 + len(data), 0) + data
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
                       socket.inet_aton(source), socket.inet_aton(ue4()))  # fmt: skip
    with closing(
        inside(lab, role, socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    ) as raw:
        raw.sendto(head + udp, (ue4(), 0))


@two_clients
@pytest.mark.req("C4")
def test_forged_answers_bring_nothing(lab: Lab) -> None:
    names = zone(lab, **{"for": {ue4(): {"A": [NEXT4], "ttl": 60}}})
    serve(lab, 'learn = "on"', hold="60s")
    evil = sock(lab, "cloud", THIRD4, DGRAM)
    evil.bind((THIRD4, 53))
    with running(lab) as daemon, evil, sock(lab, "ue", SERVER, DGRAM) as client:
        listening(lab)
        client.bind((ue4(), CLIENT_PORT))
        client.settimeout(3)

        def asks(server: str = SERVER) -> bytes:
            """A question whose answer does not come, but for the forged one."""
            query = dns.message.make_query(CLOUD_NAME, "A").to_wire()
            client.sendto(query, (server, 53))
            return query

        def nothing() -> None:
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.recv(2000)
            client.settimeout(3)

        names.set(CLOUD_NAME, A=[FIRST4], AAAA=[FIRST6], **{"for": {ue4(): {"silent": ["A"]}}})
        # Nobody has asked; or something else, or from elsewhere.
        throw(lab, "cloud", SERVER, forged(dns.message.make_query(CLOUD_NAME, "A").to_wire()))
        client.recv(2000)
        query = asks()
        throw(lab, "cloud", SERVER, forged(query, number=dns.message.from_wire(query).id ^ 1))
        client.recv(2000)
        throw(lab, "cloud", THIRD4, forged(query))
        client.recv(2000)
        # A server that nobody trusts, whom a client may ask whatever it likes.
        query = asks(THIRD4)
        asked, (address, port) = evil.recvfrom(2000)
        evil.sendto(forged(asked), (address, port))
        client.recv(2000)
        # Another client, who knows all of the question, but this box is not on the way.
        throw(lab, "ue2", SERVER, forged(asks()))
        client.recv(2000)
        # In the router's own name: the kernel lets it in from nowhere.
        query = asks(AP_LAN4)
        throw(lab, "cloud", AP_LAN4, forged(query))
        nothing()
        # After all this an honest answer is learnt, and nothing else was.
        names.set(CLOUD_NAME, A=[FIRST4], AAAA=[FIRST6], **{"for": {ue4(): {"A": [NEXT4]}}})
        assert ask(lab, CLOUD_NAME, server=SERVER) == [NEXT4]
        daemon.wait("names.changed", "web")
        until(lambda: NEXT4 in targets(lab), "the honest answer")
        assert targets(lab) == {FIRST4, FIRST6, NEXT4}
        # And by way of this box: after that no answer is believed for a while.
        names.set(CLOUD_NAME, A=[FIRST4], AAAA=[FIRST6], **{"for": {ue4(): {"silent": ["A"]}}})
        ok(lab.run("ue2", ["ip", "route", "add", ue4(), "via", AP_LAN4]))
        throw(lab, "ue2", SERVER, forged(asks()))
        client.recv(2000)
        daemon.wait("names.forged")
        throw(lab, "ue2", AP_LAN4, forged(asks(AP_LAN4)))
        nothing()
        names.set(CLOUD_NAME, A=[FIRST4, THIRD4], AAAA=[FIRST6])
        until(lambda: THIRD4 in targets(lab), "what is asked for")
        assert targets(lab) == {FIRST4, FIRST6, NEXT4, THIRD4}


@named
@pytest.mark.req("C4")
def test_a_flood_of_questions_and_answers_costs_little(lab: Lab, figure: Figure) -> None:
    zone(lab, **{"for": {ue4(): {"A": [NEXT4], "ttl": 60}}})
    serve(lab, 'learn = "on"', hold="60s")
    count = 20_000
    with running(lab) as daemon, sock(lab, "ue", AP_LAN4, DGRAM) as client:
        listening(lab)
        server = sock(lab, "ap", AP_LAN4, DGRAM)
        server.bind((AP_LAN4, 53))
        client.bind((ue4(), CLIENT_PORT))
        wanted = dns.message.make_query(CLOUD_NAME, "A").to_wire()
        others = dns.message.make_query("www.example", "A").to_wire()
        with server:
            for name, query in (("other names", others), ("the declared name", wanted)):
                told = forged(query, address=NEXT4)
                before, begun = cpu(daemon), time.monotonic()
                for _ in range(count):
                    client.sendto(query, (AP_LAN4, 53))
                    server.sendto(told, (ue4(), CLIENT_PORT))
                took = time.monotonic() - begun
                used = cpu(daemon) - before
                figure(f"{count} questions and answers of {name}, sent in", took, "s")
                figure(f"the controller's CPU time for those of {name}", used * 1000, "ms")
        until(lambda: ask(lab, CLOUD_NAME, server=SERVER) and NEXT4 in targets(lab), "to hear")


@named
@pytest.mark.req("C4")
def test_without_names_nothing_is_asked_or_heard(lab: Lab, figure: Figure) -> None:
    names = zone(lab)
    apply(lab, SPEC.format(command=toml_value(list(peer_command("edge", PORT))), hold="1s",
                           names='learn = "on"').replace(CLOUD_NAME, FIRST4))  # fmt: skip
    with running(lab) as daemon:
        assert who(lab, FIRST4) == "edge"
        before = memory(daemon)
        assert (names.asked(), packet_sockets(lab)) == ([], "")
        serve(lab, "learn = 'on'")
        until(lambda: len(names.asked()) >= 4, "two rounds")
        listening(lab)
        figure("memory that the first name costs", (memory(daemon) - before) / 1024, "MB")
        serve(lab, 'refresh = "off"')
        until(lambda: packet_sockets(lab) == "", "nobody to listen")
        count = len(names.asked())
        names.set(CLOUD_NAME, A=[NEXT4])
        until(lambda: daemon.ended() or status(lab)["state"] == "running", "a look")
        assert len(names.asked()) == count
        assert targets(lab) == {FIRST4, FIRST6}


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
