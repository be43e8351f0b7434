"""What the eBPF director measures beside its work: handshakes, and the server's own bytes (C7)."""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import ip_address

import pytest

from kernel.test_datapath_return import honour as route_marked
from kernel.topo import OTHER4, OTHER6, TARGET4, UE4, Topo, accepted, any_address, is6, received
from support import wait_until
from viscum.kernel.director import attach
from viscum.kernel.director.ebpf import opened
from viscum.kernel.director.explain import Packet
from viscum.model import Histogram

pytestmark = pytest.mark.req("C7")

SYN_ACK = "tcp flags & (syn|ack) == (syn|ack) drop"
RST = "tcp flags & rst == rst drop"
REPEATED = 40.0  # seconds; the pauses double from one, and an emulated machine misses the first


def segment(*flags: str, sport: int = 5000, seq: int = 1) -> Packet:
    return Packet("tcp", ip_address(UE4), ip_address(TARGET4), sport, 80, frozenset(flags), seq)


def send(topo: Topo, packet: Packet) -> None:
    """From the client's namespace, past its TCP, with the checksum that a server wants to see."""
    ip = bytearray(packet.frame("")[14:])
    pseudo = bytes(ip[12:20]) + struct.pack("!HH", 6, len(ip) - 20) + bytes(ip[20:])
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", ip, 36, ~(total + (total >> 16)) & 0xFFFF)
    sock = topo.sock("ue", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sock.sendto(ip, (str(packet.dst), 0))


def block(topo: Topo, short: str, hook: str, rule: str) -> None:
    chain = f"chain c {{ type filter hook {hook} priority 0; {rule}; }}"
    topo.nft(short, f"table inet t {{ {chain}; }}")


def timed(topo: Topo) -> tuple[int, int]:
    """How many SYN-ACKs and how many round trips were measured."""
    counters = topo.counters()
    return counters.connect.count, counters.rtt.count


def lies_in_its_bucket(histogram: Histogram) -> bool:
    """Of a single value."""
    (bucket,) = (n for n, count in enumerate(histogram.counts) if count)
    return 1 << bucket >> 1 <= histogram.sum_us < 1 << bucket


def test_every_connection_is_timed_once(topo: Topo, target: str) -> None:
    server = topo.listen("s1", any_address(target))
    topo.steer(topo.service())
    for n in range(1, 6):
        client = topo.connect(target)
        _, conn = accepted({"edge": server})
        assert conn is not None
        client.sendall(b"?")
        assert conn.recv(1) == b"?"
        conn.sendall(b"!")
        assert client.recv(1) == b"!"
        assert timed(topo) == (n, n)
    counters = topo.counters()
    assert counters.connect.sum_us >= 0
    assert counters.rtt.quantile(1.0)


def test_a_connection_of_the_cloud_is_not_timed(topo: Topo) -> None:
    topo.listen("s1", "0.0.0.0")
    topo.listen("cl", "0.0.0.0")
    topo.steer(topo.service(enabled=False))
    topo.connect(TARGET4)
    assert topo.counters().packets["cloud-disabled"] == 1
    assert timed(topo) == (0, 0)


def test_a_late_syn_ack_counts_from_the_first_syn_and_the_round_trip_from_it(topo: Topo) -> None:
    topo.listen("s1", "0.0.0.0")
    topo.steer(topo.service())
    block(topo, "ue", "output", RST)  # the client's kernel knows nothing of this connection
    block(topo, "s1", "output", SYN_ACK)
    send(topo, segment("syn"))
    wait_until(lambda: topo.counters().packets.get("edge-syn"), "the SYN to reach the edge")
    began = time.monotonic()
    time.sleep(0.05)
    assert timed(topo) == (0, 0)
    waited = time.monotonic() - began
    topo.nft("s1", "delete table inet t")
    wait_until(lambda: timed(topo)[0], "the SYN-ACK that is sent again", REPEATED)
    send(topo, segment("ack", seq=2))
    wait_until(lambda: timed(topo)[1], "the ACK")
    assert timed(topo) == (1, 1)
    counters = topo.counters()
    assert counters.connect.sum_us >= waited * 1e6
    assert lies_in_its_bucket(counters.connect)
    assert counters.rtt.sum_us < counters.connect.sum_us


def test_a_syn_ack_sent_twice_tells_no_round_trip(topo: Topo) -> None:
    server = topo.listen("s1", "0.0.0.0")
    topo.steer(topo.service())
    block(topo, "ue", "input", SYN_ACK)
    client = topo.sock("ue", socket.AF_INET, socket.SOCK_STREAM)
    client.setblocking(False)
    assert client.connect_ex((TARGET4, 80))
    wait_until(lambda: timed(topo) == (1, 0), "the SYN-ACK")
    topo.nft("ue", "delete table inet t")
    where, _ = accepted({"edge": server}, REPEATED)
    assert where == "edge"
    assert timed(topo) == (1, 0)


def test_the_round_trip_is_from_the_syn_ack_to_the_ack(topo: Topo) -> None:
    topo.listen("s1", "0.0.0.0")
    topo.steer(topo.service())
    block(topo, "ue", "output", RST)  # the client's kernel knows nothing of this connection
    send(topo, segment("syn"))
    wait_until(lambda: timed(topo) == (1, 0), "the SYN-ACK")
    began = time.monotonic()
    time.sleep(0.05)
    waited = time.monotonic() - began
    for _ in range(2):
        send(topo, segment("ack", seq=2))
    wait_until(lambda: timed(topo)[1], "the ACK")
    assert timed(topo) == (1, 1)
    rtt = topo.counters().rtt
    assert rtt.sum_us >= waited * 1e6
    assert lies_in_its_bucket(rtt)


def test_data_after_the_ack_is_no_second_one(topo: Topo) -> None:
    """TCP_DEFER_ACCEPT: the server waits for data with no more than a request socket."""
    server = topo.listen("s1", "0.0.0.0")
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    topo.steer(topo.service())
    client = topo.connect(TARGET4)
    assert timed(topo) == (1, 1)
    client.sendall(b"?")
    _, conn = accepted({"edge": server})
    assert conn is not None
    assert topo.counters().packets["edge-request"] >= 2
    assert timed(topo) == (1, 1)


def test_a_handshake_with_a_cookie_is_timed(topo: Topo) -> None:
    server = topo.listen("s1", "0.0.0.0")
    topo.sysctl("s1", **{"net/ipv4/tcp_syncookies": 2})
    topo.steer(topo.service())
    topo.connect(TARGET4)
    where, _ = accepted({"edge": server})
    assert where == "edge"
    assert topo.counters().packets["edge-cookie"] == 1
    assert timed(topo) == (1, 1)


def test_a_syn_that_had_to_be_repeated_is_not_timed(topo: Topo) -> None:
    """With when-down = "drop" it goes to a full server again instead of to the cloud."""
    server = topo.listen("s1", "0.0.0.0", backlog=0)
    topo.steer(topo.service(drop_when_down=True))
    topo.connect(TARGET4)  # fills the queue
    wait_until(lambda: "1 " in topo.run("s1", "ss -Htln sport = :80"), "the queue to be full")
    block(topo, "ue", "output", RST)
    before = timed(topo)
    send(topo, segment("syn"))
    wait_until(lambda: topo.counters().packets["edge-syn"] == 2, "the first SYN")
    time.sleep(0.15)  # sooner it would count as the network's copy
    accepted({"edge": server})
    send(topo, segment("syn"))
    wait_until(lambda: topo.counters().packets.get("return", 0) >= 2, "the SYN-ACK")
    assert topo.counters().packets["edge-syn"] == 3
    assert timed(topo) == before


def test_what_the_map_forgot_is_not_timed_and_goes_on(topo: Topo) -> None:
    server = topo.listen("s1", "0.0.0.0")
    topo.steer(topo.service())
    block(topo, "ue", "output", RST)
    send(topo, segment("syn"))
    wait_until(lambda: timed(topo) == (1, 0), "the SYN-ACK")
    topo.inside("ap", lambda: opened(attach.find()).maps["syns"].clear())
    send(topo, segment("ack", seq=2))
    wait_until(lambda: topo.counters().packets.get("edge-request"), "the ACK")
    assert timed(topo) == (1, 0)
    topo.nft("ue", "delete table inet t")
    topo.connect(TARGET4)
    assert accepted({"edge": server})[0] == "edge"


def test_more_syns_than_the_map_holds_end_nothing() -> None:
    with Topo(sizes={"syns": 64}) as topo:
        topo.add_service(1)
        server = topo.listen("s1", "0.0.0.0")
        topo.steer(topo.service())
        client = topo.connect(TARGET4)
        _, conn = accepted({"edge": server})
        assert conn is not None
        topo.raw(segment("syn"), times=2000, fresh_ports=True)
        wait_until(lambda: topo.counters().packets["edge-syn"] == 2001, "the flood")
        client.sendall(b"?")
        assert conn.recv(1) == b"?"
        topo.connect(TARGET4)
        assert accepted({"edge": server})[0] == "edge"
        assert timed(topo) == (2, 2)


@pytest.mark.parametrize("honour", [False, True], ids=["bypass", "honour"])
def test_the_servers_own_bytes_are_told_apart(topo: Topo, target: str, honour: bool) -> None:
    edge = topo.udp("s1", target, 443)
    topo.steer(topo.service(honour_firewall=honour))
    if honour:
        route_marked(topo, target)
    other = OTHER6 if is6(target) else OTHER4
    there = topo.udp("cl", other, 53)
    header = 14 + (40 if is6(target) else 20) + 8
    client = topo.udp_client(target)
    client.send(bytes(100))
    _, data, address = received({"edge": edge})
    edge.sendto(data + data, address)
    assert len(client.recv(1000)) == 200
    own = topo.udp("s1", any_address(target), 1053)
    own.sendto(bytes(300), (other, 53))
    where, _, address = received({"cloud": there})
    assert where == "cloud"
    there.sendto(bytes(50), address)
    assert len(own.recv(1000)) == 50
    counters = topo.counters()
    assert counters.in_bytes == header + 100
    assert counters.out_bytes == header + 200
    assert counters.own_out_bytes == header + 300
    assert counters.own_in_bytes == header + 50
    back = "return-stack" if honour else "return"
    assert counters.packets == {"edge-udp-new": 1, back: 1, "own-in": 1, "own-out": 1}
