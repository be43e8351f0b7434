"""Addresses learnt from what clients are told, and whoever wants to bring one by that."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import closing

import dns.message
import dns.rrset
import pytest

from conftest import Figure
from e2e.api import Client
from e2e.daemon import Daemon, running
from e2e.echo import status
from e2e.nameserver import ask
from e2e.naming import (
    FIRST4,
    FIRST6,
    NEXT4,
    SERVER,
    SPEC,
    THIRD4,
    THIRD6,
    cpu,
    listening,
    memory,
    named,
    packet_sockets,
    serve,
    targets,
    two_clients,
    until,
    zone,
)
from e2e.net import (
    DGRAM,
    PORT,
    apply,
    connect,
    inside,
    ok,
    peer_command,
    sock,
    who,
)
from e2e.net import ask as say
from viscum.lab import Lab
from viscum.lab.plan import AP_LAN4, CLOUD_NAME, ue4
from viscum.spec import toml_value


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
