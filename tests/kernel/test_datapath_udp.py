"""UDP and QUIC through the eBPF director (§4.3): flows are sticky, both at the edge and away."""

from __future__ import annotations

import socket
import time
from ipaddress import ip_address, ip_network

import pytest

from kernel.topo import (
    OTHER4,
    TARGET4,
    TARGETS,
    UE4,
    Topo,
    generation,
    own4,
    received,
    udp,
)
from viscum import names
from viscum.kernel.director import abi
from viscum.kernel.director.attach import find
from viscum.kernel.director.ebpf import opened

Sockets = dict[str, socket.socket]
SECOND = 1_000_000_000
INITIAL_1 = bytes((0xC3, 0, 0, 0, 1)) + bytes(1195)
INITIAL_2 = bytes((0xD3, 0x6B, 0x33, 0x43, 0xCF)) + bytes(1195)


def servers(topo: Topo, target: str = TARGET4) -> Sockets:
    """The cloud's answers from any address come from the right one: it has it on its link."""
    return {"cloud": topo.udp("cl", target, 443), "edge": topo.udp("s1", target, 443)}


def ask(client: socket.socket, socks: Sockets, data: bytes = b"question") -> str:
    """Sends a datagram and has it answered; who received it."""
    client.send(data)
    where, got, sender = received(socks)
    if where != "nobody":
        assert got == data
        socks[where].sendto(b"answer", sender)
        assert client.recv(100) == b"answer"
    return where


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@pytest.mark.req("N6", "N9")
def test_flows_stay_where_they_began(topo: Topo, target: str) -> None:
    socks = servers(topo, target)
    topo.steer(topo.service(ports=(udp(443),)))
    at_edge = topo.udp_client(target)
    assert ask(at_edge, socks) == "edge"
    topo.change(enabled=False)
    assert topo.inside("ap", topo.director.udp_targets) == {(1, ip_address(target)): 1}
    in_cloud = topo.udp_client(target)
    assert [ask(at_edge, socks), ask(in_cloud, socks)] == ["edge", "cloud"]
    topo.change(enabled=True)
    assert [ask(at_edge, socks), ask(in_cloud, socks)] == ["edge", "cloud"]
    assert ask(topo.udp_client(target), socks) == "edge"
    assert topo.inside("ap", topo.director.udp_flows) == {1: 2}


@pytest.mark.req("N6")
def test_flows_from_before_stay_on_the_cloud_by_arming(topo: Topo, target: str) -> None:
    socks = servers(topo, target)
    old = topo.udp_client(target)
    assert ask(old, socks) == "cloud"
    topo.steer(topo.service(arm_until_ns=now() + 60 * SECOND))
    assert ask(old, socks) == "cloud"
    topo.change(arm_until_ns=now())
    assert ask(old, socks) == "cloud"
    assert ask(topo.udp_client(target), socks) == "edge"


@pytest.mark.req("N6")
def test_flows_from_before_stay_on_the_cloud_by_seeding(topo: Topo, target: str) -> None:
    socks = servers(topo, target)
    old = topo.udp_client(target)
    assert ask(old, socks) == "cloud"
    service = topo.service(arm_until_ns=now() + 60 * SECOND)
    topo.steer(service)
    client, port = old.getsockname()[:2]
    topo.inside("ap", topo.director.seed_udp, service, ((client, port, target, 443),))
    topo.change(arm_until_ns=0)
    assert ask(old, socks) == "cloud"
    assert ask(topo.udp_client(target), socks) == "edge"


@pytest.mark.req("N6")
def test_seeding_takes_no_flow_from_the_edge(topo: Topo) -> None:
    socks = servers(topo)
    topo.steer(topo.service())
    client = topo.udp_client(TARGET4)
    assert ask(client, socks) == "edge"
    flow = (*client.getsockname(), TARGET4, 443)
    topo.inside("ap", topo.director.seed_udp, topo.service(), (flow,))
    assert ask(client, socks) == "edge"


def age(topo: Topo, seconds: int) -> None:
    """As if the flows had been silent for so long."""

    def rewrite() -> None:
        flows = opened(find()).maps["flows"]
        for key, value in list(flows.items()):
            f = abi.flow(value)
            flows.set(key, abi.FLOW.pack(*f._replace(last_ns=f.last_ns - seconds * SECOND)))

    topo.inside("ap", rewrite)


@pytest.mark.req("N6")
def test_a_silent_flow_ends(topo: Topo) -> None:
    socks = servers(topo)
    topo.steer(topo.service(udp_idle_ns=60 * SECOND))
    client = topo.udp_client(TARGET4)
    assert ask(client, socks) == "edge"
    topo.change(enabled=False)
    for _ in range(3):
        age(topo, 40)
        assert ask(client, socks) == "edge", "traffic keeps it alive"
    age(topo, 61)
    assert topo.inside("ap", topo.director.udp_flows) == {}
    assert ask(client, socks) == "cloud"
    topo.change(enabled=True)
    age(topo, 40)
    assert ask(client, socks) == "cloud"
    age(topo, 61)
    assert ask(client, socks) == "edge"


@pytest.mark.req("N6")
def test_answers_keep_a_flow_alive(topo: Topo) -> None:
    """A stream: the server sends, the client is silent for longer than the timeout."""
    socks = servers(topo)
    topo.steer(topo.service(udp_idle_ns=60 * SECOND))
    client = topo.udp_client(TARGET4)
    client.send(b"play")
    _, _, sender = received(socks)
    topo.change(enabled=False)
    for _ in range(3):
        age(topo, 40)
        socks["edge"].sendto(b"frame", sender)
        assert client.recv(100) == b"frame"
    age(topo, 40)
    assert ask(client, socks) == "edge"


@pytest.mark.req("N6", "N10")
def test_when_the_socket_goes_the_flow_goes_to_the_cloud(topo: Topo, target: str) -> None:
    socks = servers(topo, target)
    topo.steer(topo.service())
    client = topo.udp_client(target)
    assert ask(client, socks) == "edge"
    socks.pop("edge").close()
    assert ask(client, socks) == "cloud"
    socks["edge"] = topo.udp("s1", target, 443)
    assert ask(client, socks) == "cloud", "it does not go back and forth"
    assert ask(topo.udp_client(target), socks) == "edge"


@pytest.mark.req("N6")
@pytest.mark.parametrize("initial", [INITIAL_1, INITIAL_2], ids=["version 1", "version 2"])
def test_only_a_quic_initial_opens_a_flow(topo: Topo, initial: bytes) -> None:
    socks = servers(topo)
    topo.steer(topo.service(quic_initial_only=True))
    short, handshake = bytes((0x43,)) + bytes(50), bytes((0xE3, 0, 0, 0, 1)) + bytes(1195)
    old = topo.udp_client(TARGET4)
    assert [ask(old, socks, p) for p in (short, handshake, initial)] == ["cloud"] * 3
    assert ask(topo.udp_client(TARGET4), socks, handshake) == "cloud"
    assert ask(topo.udp_client(TARGET4), socks, initial[:600]) == "cloud"
    swapped = bytes((initial[0] ^ 0x10,)) + initial[1:]  # the other version's type bits
    assert ask(topo.udp_client(TARGET4), socks, swapped) == "cloud"
    new = topo.udp_client(TARGET4)
    assert [ask(new, socks, p) for p in (initial, handshake, short)] == ["edge"] * 3
    topo.change(enabled=False)
    assert ask(new, socks, short) == "edge"
    assert ask(topo.udp_client(TARGET4), socks, initial) == "cloud"


@pytest.mark.req("N6")
def test_a_connected_socket_needs_no_entry(topo: Topo) -> None:
    cloud = topo.udp("cl", TARGET4, 443)
    topo.steer(topo.service())
    client = topo.udp_client(TARGET4)
    server = topo.sock("s1", socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((TARGET4, 443))
    server.connect(client.getsockname())
    topo.change(enabled=False)
    counted = topo.since()
    for _ in range(2):
        topo.inside("ap", lambda: opened(find()).maps["flows"].clear())
        client.send(b"?")
        assert server.recv(10) == b"?"
        server.send(b"!")
        assert client.recv(10) == b"!"
    assert counted()["edge-udp-connected"] == 2
    assert received({"cloud": cloud}, timeout=0)[0] == "nobody"


@pytest.mark.req("N6")
@pytest.mark.parametrize("size", [1, 1400, 4000, 60000])
def test_answers_leave_from_the_address_the_client_sent_to(
    topo: Topo, target: str, size: int
) -> None:
    """The server is bound to the wildcard address and its own is the source it would choose."""
    edge = topo.udp("s1", "::" if ":" in target else "", 443)
    topo.steer(topo.service())
    other = OTHER4 if target == TARGET4 else "2001:db8:c::11"
    topo.change(targets=(*TARGETS, ip_network(other)))
    topo.sh(f"ip -n {topo.name}-s1 addr add {other} dev lo" + " nodad" * (":" in target))
    counted = topo.since()
    client = topo.udp("ue", "::" if ":" in target else "", 40000)
    for address in (target, other, target):
        client.sendto(b"question", (address, 443))
        _, _, sender = received({"edge": edge})
        answer = bytes(n & 255 for n in range(size))
        edge.sendto(answer, sender)
        got, source = client.recvfrom(65535)
        assert got == answer
        assert source[:2] == (address, 443)
    assert counted()["return-source"] == 3


@pytest.mark.req("N6")
def test_questions_in_fragments(topo: Topo, target: str) -> None:
    socks = servers(topo, target)
    topo.steer(topo.service(ports=(udp(443),)))
    client = topo.udp_client(target)
    assert [ask(client, socks, bytes(4000)) for _ in range(3)] == ["edge"] * 3
    topo.change(enabled=False)
    assert ask(client, socks, bytes(4000)) == "edge"
    assert ask(topo.udp_client(target), socks, bytes(4000)) == "cloud"


@pytest.mark.req("N9")
def test_an_older_epoch_is_the_clouds(topo: Topo) -> None:
    """disable --now: there is nothing to reset in UDP, so its flows go to the cloud at once."""
    socks = servers(topo)
    topo.steer(topo.service())
    client = topo.udp_client(TARGET4)
    assert ask(client, socks) == "edge"
    topo.change(enabled=False, udp_epoch=1)
    assert topo.inside("ap", topo.director.udp_flows) == {}
    assert ask(client, socks) == "cloud"
    topo.change(enabled=True)
    assert ask(client, socks) == "cloud"


@pytest.mark.req("N8")
def test_generations(topo: Topo) -> None:
    topo.add_service(2)
    socks = {"old": topo.udp("s1", TARGET4, 443), "cloud": topo.udp("cl", TARGET4, 443)}
    topo.steer(topo.service())
    first = topo.udp_client(TARGET4)
    assert ask(first, socks) == "old"
    socks["new"] = topo.udp("s2", TARGET4, 443)
    topo.change(generations=(generation(2, 2), generation(1, 1, accepting=False)))
    assert ask(first, socks) == "old"
    assert ask(topo.udp_client(TARGET4), socks) == "new"
    topo.change(generations=(generation(2, 2),))
    assert ask(first, socks) == "cloud", "its instance is gone"


@pytest.mark.req("N10")
def test_when_down_drop(topo: Topo) -> None:
    socks = {"cloud": topo.udp("cl", TARGET4, 443)}
    topo.steer(topo.service(enabled=False, drop_when_down=True))
    old = topo.udp_client(TARGET4)
    assert ask(old, socks) == "cloud"
    topo.change(enabled=True)
    assert ask(old, socks) == "cloud", "a flow of the cloud"
    new = topo.udp_client(TARGET4)
    counted = topo.since()
    new.send(b"?")
    assert counted() == {"drop-down": 1}
    socks["edge"] = topo.udp("s1", TARGET4, 443)
    assert ask(new, socks) == "edge"


@pytest.mark.req("N10")
def test_a_deleted_link(topo: Topo, target: str) -> None:
    socks = servers(topo, target)
    topo.steer(topo.service())
    client = topo.udp_client(target)
    assert ask(client, socks) == "edge"
    topo.sh(f"ip -n {topo.name}-ap link del {names.link(1)}")
    assert ask(client, socks) == "cloud"
    assert ask(topo.udp_client(target), socks) == "cloud"


@pytest.mark.req("N6", "N10", "N13")
def test_at_the_limit_nothing_is_lost_and_the_edge_keeps_its_flows() -> None:
    """More flows than entries: the kernel forgets the oldest, which are judged anew."""
    with Topo(sizes={"flows": 1024, "replies": 1024}) as topo:
        topo.add_service(1)
        socks = servers(topo)
        topo.steer(topo.service())
        first = topo.udp_client(TARGET4)
        assert ask(first, socks) == "edge"
        many = topo.udp("ue", UE4, 1)
        counted = topo.since()
        for port in range(1000, 6000):
            many.sendto(b"x", (TARGET4, port))  # nobody listens there: flows of the cloud
        assert counted()["cloud-udp-no-socket"] == 5000
        entries = topo.inside("ap", lambda: len(opened(find()).contents("flows")))
        assert entries <= 1024
        assert ask(first, socks) == "edge"
        assert ask(topo.udp_client(TARGET4), socks) == "edge"


@pytest.mark.req("N6")
def test_own_addresses_are_not_claimed(topo: Topo) -> None:
    """What the server sends from its own address, to nobody's question, is left to the stack."""
    topo.steer(topo.service())
    receiver = topo.udp("ue", UE4, 5000)
    sender = topo.udp("s1", str(own4(1)), 6000)
    counted = topo.since()
    sender.sendto(b"hello", (UE4, 5000))
    got, source = receiver.recvfrom(100)
    assert (got, source) == (b"hello", (str(own4(1)), 6000))
    assert counted() == {"own-out": 1}


@pytest.mark.req("N10")
def test_more_flows_than_are_remembered(target: str) -> None:
    """The flow that was silent longest is forgotten and judged anew; every packet passes."""
    with Topo(sizes={"flows": 64}) as topo:
        topo.add_service(1)
        socks = servers(topo, target)
        topo.steer(topo.service(ports=(udp(443),)))
        first = topo.udp_client(target)
        assert ask(first, socks) == "edge"
        clients = [topo.udp_client(target) for _ in range(300)]
        assert [ask(client, socks) for client in clients] == ["edge"] * 300
        assert topo.inside("ap", topo.director.udp_flows)[1] <= 64
        assert ask(first, socks) == "edge", "begins anew where the service is"
        topo.change(enabled=False)
        assert ask(first, socks) == "edge", "remembered again"
        assert ask(clients[0], socks) == "cloud", "forgotten, and new flows are the cloud's"
        assert ask(clients[0], socks) == "cloud"
