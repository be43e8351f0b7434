"""The rest of IP through the eBPF director: extension headers, errors, echo, fragments (§4.4)."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address, ip_network

import pytest

from kernel.topo import (
    TARGET4,
    TARGET6,
    TARGETS,
    UE4,
    UE6,
    Topo,
    accepted,
    any_address,
    is6,
    received,
    tcp,
    udp,
)
from viscum.kernel.director.explain import Packet

SECOND = 1_000_000_000


@pytest.mark.req("N7")
@pytest.mark.parametrize("options", [(54,), (59,), (54, 59)], ids=["hop", "dst", "both"])
def test_extension_headers(topo: Topo, options: tuple[int, ...]) -> None:
    """IPV6_HOPOPTS 54, IPV6_DSTOPTS 59: the numbers Linux gives these socket options."""
    socks = {"cloud": topo.listen("cl", "::"), "edge": topo.listen("s1", "::")}
    topo.steer(topo.service())
    client = topo.sock("ue", socket.AF_INET6, socket.SOCK_STREAM)
    for option in options:
        client.setsockopt(socket.IPPROTO_IPV6, option, bytes((0, 0, 1, 4, 0, 0, 0, 0)))
    client.connect((TARGET6, 80))
    where, server = accepted(socks)
    assert where == "edge"
    assert server is not None
    client.sendall(b"?")
    assert server.recv(1) == b"?"


@pytest.mark.req("N7")
def test_headers_that_sockets_do_not_send(topo: Topo) -> None:
    """Routing and authentication headers, several in a row, and one that is cut off."""
    topo.listen("s1", "::")
    topo.steer(topo.service())
    syn = Packet("tcp", ip_address(UE6), ip_address(TARGET6), 1, 80, frozenset({"syn"}))
    routing, authentication = bytes((0, 2, 4)) + bytes(21), bytes((0, 4)) + bytes(22)
    options = bytes((0, 1)) + bytes(14)
    chain = [(0, options), (60, options), (43, routing), (51, authentication), (60, options)]

    def asked(headers: list[tuple[int, bytes]], cut: int = 0) -> str:
        frame = bytearray(syn.frame(topo.wlan_mac))
        body = bytes(frame[54:])
        following = 6
        for number, header in reversed(headers):
            body = bytes((following,)) + header[1:] + body
            following = number
        frame[20] = following
        whole = bytes(frame[:54]) + body
        answer = topo.inside(
            "ap", topo.director.explain, topo.wlan, whole[: len(whole) - cut] + bytes(cut and 1)
        )
        return answer.reason

    for header in chain:
        assert asked([header]) == "edge-syn"
    assert asked(chain) == "edge-syn"
    assert asked(chain, cut=30) in ("miss", "cloud-other")


@pytest.mark.req("N7")
def test_mapped_addresses_on_the_wire_are_not_ours(topo: Topo) -> None:
    topo.listen("s1", "0.0.0.0")
    topo.steer(topo.service())
    question = f"tcp [{UE6}]:1 > [::ffff:{TARGET4}]:80 syn"
    assert topo.asked(question).reason == "miss"


def icmp_error(topo: Topo, target: str, quoted: bytes, mtu: int = 1280) -> None:
    """Packet too big, from the client's side, about what `target` sent."""
    if is6(target):
        sock = topo.sock("ue", socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        sock.sendto(struct.pack("!BBHI", 2, 0, 0, mtu) + quoted[:1232], (target, 0))
        return
    message = checksummed(struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted[:28])
    topo.sock("ue", socket.AF_INET, socket.SOCK_RAW, 1).sendto(message, (target, 0))


def checksummed(message: bytes) -> bytes:
    """With the ICMP checksum, at offset 2."""
    total: int = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return message[:2] + total.to_bytes(2, "big") + message[4:]


@pytest.mark.req("N7")
def test_path_mtu_towards_the_client(topo: Topo, target: str) -> None:
    """A narrow link behind the client: the server at the edge learns of it."""
    edge = topo.listen("s1", any_address(target))
    topo.steer(topo.service())
    topo.run("s1", "ethtool -K eth0 tso off gso off")
    capture = topo.inside(
        "ue", socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM,
        socket.htons(0x86DD if is6(target) else 0x0800),
    )  # fmt: skip
    topo.socks.append(capture)
    capture.settimeout(3)
    topo.nft(
        "ue",
        "table inet t { chain c { type filter hook input priority 0; meta length > 1300 drop; }; }",
    )
    client = topo.connect(target)
    _, server = accepted({"edge": edge})
    assert server is not None
    sent = bytes(20000)
    server.sendall(sent)
    big = next(p for p in iter(lambda: capture.recv(2000), b"") if len(p) > 1400)
    counted = topo.since()
    icmp_error(topo, target, big)
    left = len(sent)
    while left:
        left -= len(client.recv(65536))
    assert counted()["edge-icmp"] == 1
    route = topo.run("s1", f"ip route get {UE6 if is6(target) else UE4}")
    assert "mtu 1280" in route


@pytest.mark.req("N7")
def test_path_mtu_towards_the_server(topo: Topo, target: str) -> None:
    """The client's own big packets meet a narrow link of the server: it answers with an error."""
    edge = topo.udp("s1", target, 443)
    topo.steer(topo.service())
    client = topo.udp_client(target)
    if is6(target):
        client.setsockopt(socket.IPPROTO_IPV6, 23, 2)  # IPV6_MTU_DISCOVER, always
        client.setsockopt(socket.IPPROTO_IPV6, 25, 1)  # IPV6_RECVERR
    else:
        client.setsockopt(socket.IPPROTO_IP, 10, 2)
        client.setsockopt(socket.IPPROTO_IP, 11, 1)
    client.send(b"?")
    _, _, sender = received({"edge": edge})
    counted = topo.since()
    # what the server's kernel would send if its link were narrow
    if is6(target):
        raw = topo.sock("s1", socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        error = struct.pack("!BBHI", 2, 0, 0, 1280) + quote(sender, target)
    else:
        raw = topo.sock("s1", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        error = checksummed(struct.pack("!BBHHH", 3, 4, 0, 0, 1280) + quote(sender, target))
    raw.bind((target, 0))
    raw.sendto(error, (UE6 if is6(target) else UE4, 0))
    with pytest.raises(OSError, match="Message too long"):
        client.recv(100)
    assert counted() == {"return": 1}


def quote(client: tuple[str, int], target: str) -> bytes:
    """The head of a datagram from the client to port 443 of the target."""
    packet = Packet(
        "udp", ip_address(client[0]), ip_address(target), client[1], 443, payload=bytes(1400)
    )
    return packet.frame("")[14:][: 1000 if is6(target) else 28]


@pytest.mark.req("N7")
def test_errors_about_flows_of_the_cloud_go_to_the_cloud(topo: Topo, target: str) -> None:
    socks = {
        "cloud": topo.listen("cl", any_address(target)),
        "edge": topo.listen("s1", any_address(target)),
    }
    client = topo.connect(target)
    assert accepted(socks)[0] == "cloud"
    topo.steer(topo.service())
    counted = topo.since()
    mine = client.getsockname()
    quoted = Packet("tcp", ip_address(target), ip_address(mine[0]), 80, mine[1], frozenset({"ack"}))
    icmp_error(topo, target, quoted.frame("")[14:] + bytes(20))
    assert counted() == {"cloud-icmp": 1}


def pings(topo: Topo, target: str) -> str:
    """Who answers an echo request: the one whose counter moves."""

    def echoes(short: str) -> int:
        name = "Icmp6InEchos" if is6(target) else "IcmpInEchos"
        return int(topo.run(short, f"nstat -asz {name}").split()[-2])

    before = {short: echoes(short) for short in ("cl", "s1")}
    topo.run("ue", f"ping -n -c 1 -W 2 {target}")
    return ",".join(short for short in before if echoes(short) != before[short])


@pytest.mark.req("N7")
@pytest.mark.parametrize("ports", [(), (tcp(443), udp(443))], ids=["all ports", "two ports"])
def test_echo_obeys_ping(topo: Topo, target: str, ports: tuple[object, ...]) -> None:
    topo.steer(topo.service(ports=ports))
    assert pings(topo, target) == "cl"
    topo.change(ping_edge=True)
    assert pings(topo, target) == "s1"
    topo.change(enabled=False)
    assert pings(topo, target) == "cl"


@pytest.mark.req("N7")
def test_big_echo_in_fragments(topo: Topo, target: str) -> None:
    topo.steer(topo.service(ping_edge=True))
    counted = topo.since()
    topo.run("ue", f"ping -n -c 1 -W 2 -s 4000 {target}")
    assert counted() == {"edge-ping": 1, "edge-fragment": 2, "return": 3}


@pytest.mark.req("N7")
def test_of_two_services_the_one_that_wants_it_is_pinged(topo: Topo) -> None:
    topo.steer(
        topo.service(ports=(tcp(80),)),
        topo.service(sid=2, name="two", ports=(tcp(81),), ping_edge=True),
    )
    assert pings(topo, TARGET4) == "s1"


def fragments(payload: bytes, ident: int, sport: int = 5555) -> list[bytes]:
    """An IPv4 datagram to port 443 in pieces of 1,400 bytes."""
    whole = struct.pack("!HHHH", sport, 443, 8 + len(payload), 0) + payload
    pieces = []
    for at in range(0, len(whole), 1400):
        piece = whole[at : at + 1400]
        more = 0x2000 if at + 1400 < len(whole) else 0
        pieces.append(
            struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(piece), ident, more | at // 8, 64, 17, 0,
                        ip_address(UE4).packed, ip_address(TARGET4).packed) + piece
        )  # fmt: skip
    return pieces


@pytest.mark.req("N7")
def test_fragments_follow_the_first(topo: Topo) -> None:
    socks = {"edge": topo.udp("s1", TARGET4, 443)}
    topo.steer(topo.service(ports=(udp(443),)))
    raw = topo.sock("ue", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    counted = topo.since()
    for piece in fragments(bytes(4000), 1):
        raw.sendto(piece, (TARGET4, 0))
    assert received(socks)[:2] == ("edge", bytes(4000))
    assert counted() == {"edge-udp-new": 1, "edge-fragment": 2}
    topo.change(enabled=False)
    # the same id again, in a datagram of the cloud: the old entry must not catch its rest
    first, second, third = fragments(bytes(4000), 1, sport=6666)
    for piece in (first, second, third):
        raw.sendto(piece, (TARGET4, 0))
    assert counted() == {"edge-udp-new": 1, "edge-fragment": 2, "cloud-disabled": 1}
    raw.sendto(third, (TARGET4, 0))  # unknown: passes
    assert received(socks, timeout=0)[0] == "nobody"


@pytest.mark.req("N7")
def test_other_protocols_pass(topo: Topo) -> None:
    topo.steer(topo.service())
    catcher = topo.sock("cl", socket.AF_INET, socket.SOCK_RAW, 132)  # SCTP
    counted = topo.since()
    topo.sock("ue", socket.AF_INET, socket.SOCK_RAW, 132).sendto(b"sctp", (TARGET4, 0))
    assert catcher.recv(100)[20:] == b"sctp"
    assert counted() == {"cloud-other": 1}


@pytest.mark.req("N13", "N5")
def test_prefixes_and_the_targets_inside_them(topo: Topo) -> None:
    """The more specific target wins for what it claims; the rest falls to the prefix."""
    topo.listen("s1", "0.0.0.0")
    topo.listen("s1", "::")
    topo.steer(
        topo.service(targets=(*TARGETS, ip_network("198.18.7.0/24")), ports=(tcp(80),)),
        topo.service(
            sid=2, name="wide", targets=(ip_network("198.18.0.0/16"), ip_network("2001:db8:c::/48"))
        ),
    )

    def sid(address: str, port: int) -> int:
        source = UE6 if is6(address) else UE4
        return topo.asked(f"tcp [{source}]:1 > [{address}]:{port} syn").sid

    assert [sid(TARGET4, 80), sid(TARGET4, 81)] == [1, 2]
    assert [sid("198.18.7.7", 80), sid("198.18.7.7", 81)] == [1, 2]
    assert [sid("198.18.8.8", 80), sid("198.19.0.1", 80)] == [2, 0]
    assert [sid(TARGET6, 80), sid("2001:db8:c::77", 80), sid("2001:db8:d::1", 80)] == [1, 2, 0]
    topo.steer(topo.last[0])
    assert [sid(TARGET4, 81), sid("198.18.8.8", 80), sid("198.18.7.7", 80)] == [0, 0, 1]
