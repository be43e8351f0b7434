"""The way back past firewalls, and what may not take it (§4.6, 4.8)."""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import socket
import struct
import threading
from ipaddress import ip_address

import pytest

from kernel.topo import (
    TARGET4,
    UE4,
    UE6,
    Topo,
    accepted,
    any_address,
    own4,
    own6,
    received,
    udp,
)
from viscum import names
from viscum.kernel.director.explain import Packet

STATEFUL = """
table inet fw {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state invalid counter drop
        ct state established,related accept
        iifname wlan0 ct state new accept
    }
}
"""


def strict(topo: Topo) -> None:
    topo.sysctl("ap", **{
        "net/ipv4/conf/all/rp_filter": 1, f"net/ipv4/conf/{names.link(1)}/rp_filter": 1,
        "net/ipv4/conf/wlan0/rp_filter": 1,
    })  # fmt: skip


def exchange(client: socket.socket, server: socket.socket, size: int) -> None:
    """size bytes each way at once, compared by hash."""
    sent = os.urandom(size)
    digests: dict[str, bytes] = {}

    def read(name: str, sock: socket.socket) -> None:
        digest, left = hashlib.sha256(), size
        while left and (data := sock.recv(1 << 20)):
            digest.update(data)
            left -= len(data)
        digests[name] = digest.digest()

    threads = [
        threading.Thread(target=read, args=("client", client)),
        threading.Thread(target=read, args=("server", server)),
        threading.Thread(target=client.sendall, args=(sent,)),
        threading.Thread(target=server.sendall, args=(sent,)),
    ]
    for sock in (client, server):
        sock.settimeout(20)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == dict.fromkeys(("client", "server"), hashlib.sha256(sent).digest())


@pytest.mark.req("N12")
@pytest.mark.parametrize("loose", [0, 1])
def test_behind_a_firewall_that_drops_invalid(topo: Topo, target: str, loose: int) -> None:
    strict(topo)
    topo.nft("ap", STATEFUL)
    topo.sysctl("ap", **{"net/netfilter/nf_conntrack_tcp_loose": loose})
    socks = {
        "cloud": topo.listen("cl", any_address(target)),
        "edge": topo.listen("s1", any_address(target)),
    }
    topo.steer(topo.service())
    client = topo.connect(target)
    where, server = accepted(socks)
    assert where == "edge"
    assert server is not None
    exchange(client, server, 5_000_000)
    topo.change(enabled=False)
    exchange(client, server, 1_000_000)
    through = topo.connect(target)
    where, server = accepted(socks)
    assert where == "cloud"
    assert server is not None
    exchange(through, server, 1_000_000)


@pytest.mark.req("N12")
def test_an_operator_who_masquerades_the_lan(topo: Topo) -> None:
    topo.nft("ap", STATEFUL + """
        table ip n { chain p { type nat hook postrouting priority 100; masquerade; }; }
    """)  # fmt: skip
    edge = topo.listen("s1", "0.0.0.0")
    topo.steer(topo.service())
    client = topo.connect(TARGET4)
    _, server = accepted({"edge": edge})
    assert server is not None
    exchange(client, server, 1_000_000)


@pytest.mark.req("N12")
def test_the_neighbour_need_not_be_known(topo: Topo, target: str) -> None:
    edge = topo.listen("s1", any_address(target))
    topo.steer(topo.service())
    client = topo.connect(target)
    _, server = accepted({"edge": edge})
    assert server is not None
    topo.sh(f"ip -n {topo.name}-ap neigh flush dev wlan0")
    exchange(client, server, 100_000)


FORWARDED = """
table inet fw {
    chain forward {
        type filter hook forward priority 0;
        iifname "vs1" counter drop
    }
}
"""


@pytest.mark.req("N12", "N11")
def test_only_answers_pass_the_stack_by(topo: Topo, target: str) -> None:
    """A server that dials a client from the target's address meets the host's firewall."""
    topo.nft("ap", FORWARDED)
    lan = topo.listen("ue", any_address(target), 22)
    lan_udp = topo.udp("ue", any_address(target), 53)
    topo.steer(topo.service())
    client = UE6 if ":" in target else UE4
    counted = topo.since()
    dialer = topo.sock("s1", lan.family, socket.SOCK_STREAM)
    dialer.bind((target, 0))
    dialer.settimeout(0.3)
    with pytest.raises(TimeoutError):
        dialer.connect((client, 22))
    sender = topo.udp("s1", target, 443)
    sender.sendto(b"x", (client, 53))
    sender.connect((client, 53))  # a connected socket does not tell who began
    sender.send(b"x")
    assert accepted({"lan": lan}, timeout=0)[0] == "nobody"
    assert received({"lan": lan_udp}, timeout=0)[0] == "nobody"
    assert set(counted()) == {"own-out"}
    assert counted()["own-out"] >= 3


@pytest.mark.req("N12", "N11")
def test_another_services_target_is_no_source(topo: Topo) -> None:
    """Slot 2 answers from the target of slot 1, where a flow of that client lives."""
    topo.add_service(2)
    topo.nft(
        "ap",
        'table inet fw { chain f { type filter hook forward priority 0; iifname "vs2" drop; }; }',
    )
    edge = topo.udp("s1", TARGET4, 443)
    topo.steer(topo.service(ports=(udp(443),)))
    client = topo.udp_client(TARGET4)
    client.send(b"?")
    _, _, sender = received({"edge": edge})
    spoofer = topo.udp("s2", TARGET4, 443)
    spoofer.sendto(b"spoofed", sender)
    edge.sendto(b"true", sender)
    assert client.recv(100) == b"true"


def honour(topo: Topo, target: str) -> None:
    """The routing of marked packets that `firewall = "honour"` brings."""
    six, number = ":" in target, names.number(1)
    family, via = ("-6", own6(1)) if six else ("-4", own4(1))
    ap = f"{topo.name}-ap"
    topo.sh(f"ip -n {ap} {family} rule add pref 90 fwmark {number} iif wlan0 lookup {number}")
    topo.sh(f"ip -n {ap} {family} route add default via {via} dev vs1 table {number}")


@pytest.mark.req("N12")
def test_honour_goes_through_the_operators_hooks(topo: Topo, target: str) -> None:
    honour(topo, target)
    topo.nft("ap", STATEFUL)
    socks = {
        "cloud": topo.listen("cl", any_address(target)),
        "edge": topo.listen("s1", any_address(target)),
    }
    topo.steer(topo.service(honour_firewall=True))
    client = topo.connect(target)
    where, server = accepted(socks)
    assert where == "edge"
    assert server is not None
    exchange(client, server, 1_000_000)
    topo.change(enabled=False)
    exchange(client, server, 100_000)
    topo.change(enabled=True)
    source = f"ip6 saddr {UE6}" if ":" in target else f"ip saddr {UE4}"
    topo.nft("ap", f"insert rule inet fw forward {source} drop")
    blocked = topo.sock("ue", client.family, socket.SOCK_STREAM)
    blocked.settimeout(0.3)
    with pytest.raises(TimeoutError):
        blocked.connect((target, 80))
    assert accepted(socks, timeout=0)[0] == "nobody"


@pytest.mark.req("N12")
def test_honour_udp_in_fragments(topo: Topo, target: str) -> None:
    honour(topo, target)
    topo.nft("ap", STATEFUL)
    edge = topo.udp("s1", target, 443)
    topo.steer(topo.service(honour_firewall=True))
    client = topo.udp_client(target)
    client.send(bytes(4000))
    _, data, sender = received({"edge": edge})
    assert data == bytes(4000)
    edge.sendto(bytes(5000), sender)
    assert client.recv(65535) == bytes(5000)


@pytest.mark.req("N5", "N12")
def test_a_tun_has_no_mac_header(topo: Topo) -> None:
    """As behind the user plane of a mobile core."""

    def opened() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"tun9", 0x1001))  # IFF_TUN, no header
        return fd

    if not os.path.exists("/dev/net/tun"):
        pytest.skip("this kernel lacks /dev/net/tun")
    tun = topo.inside("ap", opened)
    try:
        topo.batch("ap", "addr add 10.45.0.1/16 dev tun9\nlink set tun9 up")
        topo.listen("s1", "0.0.0.0")
        topo.steer(topo.service(interfaces=(topo.index("ap", "tun9"),)))
        counted = topo.since()
        packet = Packet(
            "tcp", ip_address("10.45.0.2"), ip_address(TARGET4), 4444, 80, frozenset({"syn"})
        )
        os.write(tun, with_tcp_checksum(packet.frame("")[14:]))
        while True:
            ready, _, _ = select.select([tun], [], [], 3)
            assert ready, f"no answer; {counted()}"
            got = os.read(tun, 2000)
            if got[0] >> 4 == 4 and got[9] == 6:
                break
        assert got[12:16] == ip_address(TARGET4).packed
        assert got[33] & 0x12 == 0x12, "SYN and ACK"
        assert counted() == {"edge-syn": 1, "return": 1}
    finally:
        os.close(tun)


def with_tcp_checksum(packet: bytes) -> bytes:
    segment = packet[20:]
    total: int = sum(struct.unpack(f"!{len(segment) // 2}H", segment)) + 6 + len(segment)
    total += sum(struct.unpack("!4H", packet[12:20]))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return packet[:36] + (~total & 0xFFFF).to_bytes(2, "big") + packet[38:]


@pytest.mark.req("N5", "N12")
def test_a_bridge(topo: Topo) -> None:
    """The client interface is the bridge, not its port."""
    ap = f"{topo.name}-ap"
    topo.batch("ap", """link add br-lan type bridge
        addr del 10.1.0.1/24 dev wlan0
        link set wlan0 master br-lan
        addr add 10.1.0.1/24 dev br-lan
        link set br-lan up""")  # fmt: skip
    topo.nft("ap", STATEFUL.replace("wlan0", "br-lan"))
    edge = topo.listen("s1", "0.0.0.0")
    topo.steer(topo.service(interfaces=(topo.index("ap", "br-lan"),)))
    client = topo.connect(TARGET4)
    where, server = accepted({"edge": edge})
    assert where == "edge", topo.sh(f"ip -n {ap} addr")
    assert server is not None
    exchange(client, server, 1_000_000)
