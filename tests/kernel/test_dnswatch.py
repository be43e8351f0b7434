"""What of the DNS on a client interface comes to whoever watches it, and what does not."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

import dns.message
import dns.rrset
import pytest

from conftest import Figure
from kernel.topo import AP4, AP6, OTHER4, TARGET4, TARGET6, UE4, UE6, Topo, received, udp
from support import wait_until
from viscum.controller.dns import ears
from viscum.controller.dns.message import asked, question, wire_name
from viscum.controller.dns.voice import Voice
from viscum.controller.events import Events
from viscum.kernel.dnswatch import MAX_BLOCKS, SNAP, Datagram, Watch, filter_for

NAME = "cloud.example"
NAMES = (wire_name(NAME), wire_name("www.cloud.example"))
QUERY = question(NAME, "A", 7)
pytestmark = pytest.mark.req("C4")


def answer(name: str = NAME, kind: str = "A", count: int = 1) -> bytes:
    made = dns.message.make_response(dns.message.make_query(name, kind, id=7))
    addresses = [f"198.51.{100 + n // 250}.{n % 250 + 1}" for n in range(count)]
    made.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "A", *addresses))
    return made.to_wire(max_size=65535)


@pytest.fixture
def watch(topo: Topo) -> Iterator[Watch]:
    made = topo.inside("ap", Watch, "wlan0", NAMES)
    yield made
    made.close()


def got(watch: Watch) -> list[Datagram]:
    """All that waits. What was sent before is there: links of the test are veths, and the packet
    socket has its copy when sendto() returns or the other end has received."""
    return list(iter(watch.read, None))


def bound(topo: Topo, short: str, address: str, port: int = 53) -> socket.socket:
    return topo.udp(short, address, port)


@pytest.mark.parametrize(
    ("client", "server", "where"),
    [(UE4, AP4, "ap"), (UE6, AP6, "ap"), (UE4, OTHER4, "cl"), (UE6, "2001:db8:c::11", "cl")],
)
def test_questions_of_clients_and_their_answers(
    topo: Topo, watch: Watch, client: str, server: str, where: str
) -> None:
    """Of the router's own resolver, and of one beyond it."""
    theirs, mine = bound(topo, where, server), topo.udp("ue", client, 5555)
    mine.sendto(QUERY, (server, 53))
    _, data, sender = received({"": theirs})
    theirs.sendto(answer(), sender)
    mine.recv(1000)
    asked_, told = got(watch)
    assert (asked_.outgoing, told.outgoing) == (False, True)
    assert (str(asked_.source), asked_.source_port, str(asked_.destination)) == (
        client, 5555, server
    )  # fmt: skip
    assert (str(told.source), told.source_port, str(told.destination), told.destination_port) == (
        server, 53, client, 5555
    )  # fmt: skip
    assert (asked_.payload, told.payload) == (data, answer())


def test_what_is_not_wanted_wakes_nobody(topo: Topo, watch: Watch) -> None:
    server, client = bound(topo, "ap", AP4), topo.udp("ue", UE4, 5555)
    other = bound(topo, "ap", AP4, 5353)
    two = QUERY[:4] + b"\0\2" + QUERY[6:]
    update = QUERY[:2] + b"\x28" + QUERY[3:]
    for data in (question("other.example", "A", 7), question("a.b", "A", 7), two, update, b"", b"x",
                 QUERY[:11], QUERY[:13]):  # fmt: skip
        client.sendto(data, (AP4, 53))
        received({"": server})
        server.sendto(data, (UE4, 5555))  # what leaves from port 53 has to be an answer
    for data in (question("other.example", "A", 7), b"\x81" * 100):
        server.sendto(data, (UE4, 5555))
    client.sendto(QUERY, (AP4, 5353))
    received({"": other})
    other.sendto(answer(), (UE4, 5555))
    server.sendto(QUERY, (UE4, 53))  # a question that leaves
    topo.listen("ap", AP4, 53)
    topo.connect(AP4, 53).sendall(QUERY)
    client.sendto(question("www.cloud.example", "AAAA", 9), (AP4, 53))
    last = got(watch)
    assert [asked(d.payload) for d in last] == [(NAMES[1], 28)]


def test_names_in_any_letters_and_names_that_begin_alike(topo: Topo, watch: Watch) -> None:
    server, client = bound(topo, "ap", AP4), topo.udp("ue", UE4, 5555)
    alike = "cloud.example.com"
    for name in ("cLoUd.eXaMpLe", alike, "cloud-example"):
        wire = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0"
        client.sendto(QUERY[:12] + wire + b"\0\1\0\1", (AP4, 53))
        received({"": server})
    assert [asked(d.payload) for d in got(watch)] == [
        (wire_name(NAME), 1), (wire_name(alike), 1)
    ]  # fmt: skip


def test_an_answer_that_comes_from_the_clients_side_is_seen_as_that(
    topo: Topo, watch: Watch
) -> None:
    server, client = bound(topo, "ap", AP4, 5555), bound(topo, "ue", UE4)
    client.sendto(answer(), (AP4, 5555))
    received({"": server})
    (seen,) = got(watch)
    assert (seen.outgoing, str(seen.source)) == (False, UE4)


def test_a_fragmented_answer_is_passed_over_and_a_long_one_is_cut(topo: Topo, watch: Watch) -> None:
    server, client = bound(topo, "ap", AP4), topo.udp("ue", UE4, 5555)
    long = answer(count=200)
    server.sendto(long, (UE4, 5555))
    assert client.recv(10000) == long
    assert got(watch) == []
    topo.run("ap", "ip link set wlan0 mtu 9000")
    topo.run("ue", "ip link set eth0 mtu 9000")
    longer = answer(count=300)
    server.sendto(longer, (UE4, 5555))
    assert client.recv(10000) == longer
    (seen,) = got(watch)
    assert len(longer) > SNAP
    assert seen.payload == longer[: SNAP - 28]


@pytest.mark.parametrize(("target", "client"), [(TARGET4, UE4), (TARGET6, UE6)])
def test_what_a_steered_name_server_answers_is_seen_too(
    topo: Topo, watch: Watch, target: str, client: str
) -> None:
    """It leaves by bpf_redirect_neigh, not by the host's stack."""
    at_edge, mine = bound(topo, "s1", target), topo.udp("ue", client, 5555)
    topo.steer(topo.service(ports=(udp(53),)))
    mine.sendto(QUERY, (target, 53))
    _, _, sender = received({"": at_edge})
    count = topo.since()
    at_edge.sendto(answer(), sender)
    mine.recv(1000)
    assert count() == {"return": 1}
    asked_, told = got(watch)
    assert (asked_.outgoing, told.outgoing, str(told.source)) == (False, True, target)


def test_other_names_from_now_on(topo: Topo, watch: Watch) -> None:
    server, client = bound(topo, "ap", AP4), topo.udp("ue", UE4, 5555)
    watch.names([wire_name("other.example")])
    for name in (NAME, "other.example"):
        client.sendto(question(name, "A", 7), (AP4, 53))
        received({"": server})
    assert [asked(d.payload) for d in got(watch)] == [(wire_name("other.example"), 1)]


def test_more_names_than_a_filter_holds(topo: Topo, watch: Watch) -> None:
    server, client = bound(topo, "ap", AP4), topo.udp("ue", UE4, 5555)
    many = [f"n{n}.cloud.example" for n in range(2 * MAX_BLOCKS)]
    for names in (many[:MAX_BLOCKS], many):
        watch.names([wire_name(name) for name in names])
        client.sendto(question(names[-1], "A", 7), (AP4, 53))
        received({"": server})
        assert [asked(d.payload) for d in got(watch)] == [(wire_name(names[-1]), 1)]
    assert len(filter_for(map(wire_name, many))) < len(
        filter_for(map(wire_name, many[:MAX_BLOCKS]))
    )


def test_an_interface_that_goes_ends_it_with_an_error_or_in_silence(topo: Topo) -> None:
    made = topo.inside("ap", Watch, "wlan0", NAMES)
    topo.run("ap", "ip link set wlan0 down")
    with pytest.raises(OSError, match="down"):
        made.read()
    assert made.read() is None
    made.close()
    with pytest.raises(OSError, match="No such device"):
        topo.inside("ap", lambda: Watch("nothere", NAMES))


def test_a_flood_is_lost_in_the_kernel(topo: Topo, watch: Watch, figure: Figure) -> None:
    """Nobody reads: what finds no room is dropped."""
    client = topo.udp("ue", UE4, 5555)
    server = bound(topo, "ap", AP4)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(3000):
        client.sendto(QUERY, (AP4, 53))
    wait_until(lambda: select.select([watch], [], [], 0)[0], "some of it")
    kept = sum(1 for _ in iter(watch.read, None))
    figure("messages that wait at most", kept, "messages")
    assert 0 < kept < 3000


def test_what_it_costs_the_packets_that_are_none_of_its_business(
    topo: Topo, figure: Figure
) -> None:
    """The kernel copies the head of every packet that leaves for whoever listens, before it asks
    the filter."""
    server = topo.udp("ap", AP4, 5353)
    client = topo.udp("ue", UE4, 5555)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    count, rounds, least = 5000, 6, {"without": 1e9, "with": 1e9}
    for number in range(2 * rounds):
        which = ("without", "with")[number % 2]
        watch = topo.inside("ap", Watch, "wlan0", NAMES) if number % 2 else None
        begun = time.process_time_ns()
        for _ in range(count):
            server.sendto(b"x" * 64, (UE4, 5555))
        least[which] = min(least[which], (time.process_time_ns() - begun) / count)
        if watch is not None:
            assert got(watch) == []
            watch.close()
    for which, took in least.items():
        figure(f"CPU time to send a datagram, {which} the watch", took, "ns")


def test_an_interface_that_can_not_be_listened_on_is_told_once_and_the_others_are(
    topo: Topo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that is not there."""
    events, heard = Events(), list[str]()

    def refuse(interface: str, names: Iterable[bytes]) -> Watch:
        if interface == "lo":
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return Watch(interface, names)

    async def listen() -> None:
        made = ears.Ears(
            (), lambda on, told: heard.append(on), lambda *_: None, Voice(events).listening
        )
        made.own = {ip_address(AP4)}
        made.listen_for([("lo", NAME), ("wlan0", NAME), ("none", NAME)])
        try:
            for watch in (refuse, refuse, Watch, refuse):  # the last has nothing to open
                monkeypatch.setattr(ears, "Watch", watch)
                made.open()
            client.sendto(QUERY, (AP4, 53))
            server.sendto(answer(), received({"": server})[2])
            while not heard:
                await asyncio.sleep(0.01)
        finally:
            made.close()

    server, client = bound(topo, "ap", AP4), topo.udp("ue", UE4, 5555)
    topo.inside("ap", asyncio.run, listen())
    assert heard == ["wlan0"]
    (event,) = events.since()
    assert event.message == (
        "lo: nothing that clients are told there is learnt: [Errno 19] No such device;"
        " it is tried again"
    )
