"""TCP through the eBPF director, with real sockets in real namespaces (§4.1, 4.2, 4.5)."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from ipaddress import ip_address, ip_network

import pytest
from msgspec.structs import replace

from kernel.topo import (
    AP4,
    OTHER4,
    TARGET4,
    UE4,
    Topo,
    accepted,
    generation,
    tcp,
)
from support import wait_until
from viscum import names
from viscum.kernel.director.explain import Packet
from viscum.model import FREE, Hold

Sockets = dict[str, socket.socket]


def listeners(topo: Topo, target: str = TARGET4, port: int = 80) -> Sockets:
    address = "::" if ":" in target else "0.0.0.0"
    return {"cloud": topo.listen("cl", address, port), "edge": topo.listen("s1", address, port)}


def talk(client: socket.socket, server: socket.socket | None) -> None:
    """A byte each way."""
    assert server is not None
    client.sendall(b"?")
    assert server.recv(1) == b"?"
    server.sendall(b"!")
    assert client.recv(1) == b"!"


def syn(sport: int = 5000, seq: int = 1, src: str = UE4, dport: int = 80) -> Packet:
    return Packet(
        "tcp", ip_address(src), ip_address(TARGET4), sport, dport, frozenset({"syn"}), seq
    )


def block(topo: Topo, hook: str, rule: str) -> None:
    topo.nft("ue", f"table inet t {{ chain c {{ type filter hook {hook} priority 0; {rule}; }}; }}")


def unblock(topo: Topo) -> None:
    topo.nft("ue", "delete table inet t")


ONLY_ACK = "tcp flags & (syn|ack|rst|fin|psh) == ack drop"
SYN_ACK = "tcp flags & (syn|ack) == (syn|ack) drop"


@pytest.mark.req("N5", "N9")
def test_new_flows_follow_the_switch_and_old_ones_stay(topo: Topo, target: str) -> None:
    socks = listeners(topo, target)
    before = topo.connect(target)
    where, cloud_end = accepted(socks)
    assert where == "cloud"
    topo.steer(topo.service())
    first = topo.connect(target)
    where, edge_end = accepted(socks)
    assert where == "edge"
    for _ in range(3):
        topo.change(enabled=False)
        talk(first, edge_end)
        talk(before, cloud_end)
        client = topo.connect(target)
        where, server = accepted(socks)
        assert where == "cloud"
        talk(client, server)
        topo.change(enabled=True)
        talk(client, server)
        talk(first, edge_end)
        topo.connect(target)
        assert accepted(socks)[0] == "edge"
    topo.steer()
    talk(before, cloud_end)


@pytest.mark.req("N5")
def test_ports_and_addresses_that_are_not_claimed_go_to_the_cloud(topo: Topo) -> None:
    at80, at81 = listeners(topo), listeners(topo, port=81)
    topo.steer(topo.service(ports=(tcp(80),)))
    topo.connect(TARGET4, 80)
    assert accepted(at80)[0] == "edge"
    topo.connect(TARGET4, 81)
    assert accepted(at81)[0] == "cloud"
    topo.connect(OTHER4, 80)
    assert accepted(at80)[0] == "cloud"


@pytest.mark.req("N5", "N10")
def test_without_a_listener_the_next_connection_is_the_clouds(topo: Topo, target: str) -> None:
    socks = listeners(topo, target)
    topo.steer(topo.service())
    topo.connect(target)
    assert accepted(socks)[0] == "edge"
    socks.pop("edge").close()
    client = topo.connect(target)
    where, server = accepted(socks)
    assert where == "cloud"
    talk(client, server)


@pytest.mark.req("N5")
def test_syn_cookies(topo: Topo, target: str) -> None:
    """No socket knows the flow between SYN and ACK: the cookie does, even after a disable."""
    topo.sysctl("s1", **{"net/ipv4/tcp_syncookies": 2})
    socks = listeners(topo, target)
    topo.steer(topo.service())
    counted = topo.since()
    block(topo, "output", f"tcp dport 80 {ONLY_ACK}")
    client = topo.connect(target)
    topo.change(enabled=False)
    unblock(topo)
    client.sendall(b"x")
    where, server = accepted(socks)
    assert where == "edge"
    assert server is not None
    assert server.recv(1) == b"x"
    assert counted()["edge-cookie"] == 1
    talk(client, server)


@pytest.mark.req("N5")
def test_acks_of_cloud_flows_are_no_cookies(topo: Topo) -> None:
    topo.sysctl("s1", **{"net/ipv4/tcp_syncookies": 2})
    socks = listeners(topo)
    client = topo.connect(TARGET4)
    where, server = accepted(socks)
    assert where == "cloud"
    topo.steer(topo.service())
    counted = topo.since()
    topo.connect(TARGET4)  # the listener has sent a cookie, so it looks for them
    assert accepted(socks)[0] == "edge"
    for _ in range(20):
        talk(client, server)
    assert counted()["edge-cookie"] == 1


def time_wait(topo: Topo, socks: Sockets, target: str, sport: int) -> None:
    """Leaves the edge's end of (sport, 80) in TIME_WAIT."""
    client = topo.connect(target, sport=sport)
    where, server = accepted(socks)
    assert where == "edge"
    assert server is not None
    server.close()
    assert client.recv(1) == b""
    client.close()
    wait_until(
        lambda: "TIME-WAIT" in topo.run("s1", f"ss -Htan dport = :{sport}"), "TIME_WAIT at the edge"
    )


@pytest.mark.req("N5")
@pytest.mark.parametrize("state", ["enabled", "disabled", "no listener"])
def test_port_reuse_over_time_wait(topo: Topo, target: str, state: str) -> None:
    socks = listeners(topo, target)
    topo.steer(topo.service())
    time_wait(topo, socks, target, 40000)
    if state == "disabled":
        topo.change(enabled=False)
    if state == "no listener":
        socks.pop("edge").close()
    counted = topo.since()
    client = topo.connect(target, sport=40000)
    where, server = accepted(socks)
    assert where == ("edge" if state == "enabled" else "cloud")
    talk(client, server)
    topo.change(enabled=True)
    talk(client, server)
    if state != "enabled":
        assert counted()["cloud-away"] >= 3


@pytest.mark.req("N5")
def test_time_wait_does_not_hide_a_flow_of_an_older_generation(topo: Topo) -> None:
    """Ports in TIME_WAIT in the newest generation, open again in the one before."""
    topo.add_service(2)
    old = topo.listen("s1", "0.0.0.0")
    new = topo.listen("s2", "0.0.0.0")
    topo.steer(topo.service(generations=(generation(2, 2), generation(1, 1))))
    client = topo.connect(TARGET4, sport=41000)
    _, server = accepted({"new": new})
    assert server is not None
    server.close()
    assert client.recv(1) == b""
    client.close()
    new.close()
    again = topo.connect(TARGET4, sport=41000)
    where, server = accepted({"old": old})
    assert where == "old"
    talk(again, server)


@pytest.mark.req("N5")
def test_a_syn_sent_again_goes_where_the_first_one_went(topo: Topo) -> None:
    """The cloud's SYN-ACK is lost, meanwhile the service is enabled."""
    socks = listeners(topo)
    topo.steer(topo.service(enabled=False))
    counted = topo.since()
    block(topo, "input", f"tcp sport 80 {SYN_ACK}")
    client = topo.sock("ue", socket.AF_INET, socket.SOCK_STREAM)
    client.setblocking(False)
    assert client.connect_ex((TARGET4, 80)) != 0
    wait_until(lambda: counted().get("cloud-disabled"), "the first SYN")
    topo.change(enabled=True)
    # the cloud repeats its SYN-ACK too, so the way must be closed until the client repeats
    wait_until(lambda: counted().get("cloud-syn-again"), "the second SYN")
    unblock(topo)
    where, server = accepted(socks)
    assert where == "cloud"
    client.settimeout(3)
    talk(client, server)


@pytest.mark.req("N5")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"enabled": False}, "cloud-disabled"),
        ({"share": 0}, "cloud-share"),
        ({"clients": (ip_network("10.9.0.0/16"),)}, "client"),
    ],
)
def test_every_syn_to_the_cloud_is_remembered(
    topo: Topo, changes: dict[str, object], reason: str
) -> None:
    listeners(topo)
    topo.steer(topo.service(**changes))
    counted = topo.since()
    topo.raw(syn(seq=7))
    topo.steer(topo.service())
    topo.raw(syn(seq=7))
    topo.raw(syn(seq=8))  # another connection
    assert counted() == {reason: 1, "cloud-syn-again": 1, "edge-syn": 1}


@pytest.mark.req("N5", "N10")
def test_a_full_accept_queue_sends_the_second_syn_to_the_cloud(topo: Topo) -> None:
    cloud = topo.listen("cl", "0.0.0.0")
    topo.listen("s1", "0.0.0.0", backlog=0)
    topo.steer(topo.service())
    counted = topo.since()
    topo.connect(TARGET4)  # fills the queue
    wait_until(lambda: "1 " in topo.run("s1", "ss -Htln sport = :80"), "the queue to be full")
    client = topo.connect(TARGET4, timeout=5)
    where, server = accepted({"cloud": cloud})
    assert where == "cloud"
    talk(client, server)
    assert counted()["cloud-hung"] == 1


@pytest.mark.req("N5")
def test_mptcp_joins_pass(topo: Topo) -> None:
    listeners(topo)
    topo.steer(topo.service())
    counted = topo.since()
    frame = syn().frame("")[14:]
    options = bytes((2, 4, 5, 180, 1, 3, 3, 7, 30, 12, 0x10)) + bytes(9)
    header = bytearray(frame + options)
    header[32] = (20 + len(options)) // 4 << 4  # data offset
    raw = topo.sock("ue", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.sendto(header, (TARGET4, 0))
    assert counted() == {"cloud-join": 1}
    header[40 - 20 + 20 + 10] = 0x00  # MP_CAPABLE opens a connection of its own
    header[21] += 1
    raw.sendto(header, (TARGET4, 0))
    assert counted() == {"cloud-join": 1, "edge-syn": 1}


@pytest.mark.req("N5")
def test_a_syn_flood_breaks_no_flow(topo: Topo) -> None:
    socks = listeners(topo)
    cloud_client = topo.connect(TARGET4)
    _, cloud_server = accepted(socks)
    topo.steer(topo.service())
    edge_client = topo.connect(TARGET4)
    _, edge_server = accepted(socks)
    counted = topo.since()
    topo.raw(syn(dport=81), times=20000, fresh_ports=True)
    topo.raw(syn(), times=20000, fresh_ports=True)
    assert sum(counted().values()) >= 40000
    talk(cloud_client, cloud_server)
    talk(edge_client, edge_server)


@pytest.mark.req("N5")
def test_share_is_by_client_and_does_not_waver(topo: Topo) -> None:
    topo.listen("s1", "0.0.0.0")
    hosts = [f"10.1.{n >> 8}.{n & 255}" for n in range(1000)]

    def edge(share: int, port: int) -> set[str]:
        topo.steer(topo.service(share=share))
        answers = topo.answers(f"tcp {host}:{port} > {TARGET4}:80 syn" for host in hosts)
        assert {a.reason for a in answers} <= {"edge-syn", "cloud-share"}
        return {h for h, a in zip(hosts, answers, strict=True) if a.reason == "edge-syn"}

    third = edge(30, 1000)
    assert 240 < len(third) < 360, "binomial(1000, 0.3): four standard deviations"
    assert edge(30, 2000) == third, "one client was split"
    assert edge(60, 1000) > third, "more clients, and none of them fewer"
    assert edge(0, 1000) == set()
    assert len(edge(100, 1000)) == 1000


@pytest.mark.req("N5", "N8")
def test_share_by_flow_and_instances_are_independent(topo: Topo) -> None:
    topo.add_service(2)
    topo.listen("s1", "0.0.0.0")
    topo.listen("s2", "0.0.0.0")
    topo.steer(topo.service(share=50, share_by_flow=True, generations=(generation(1, 1, 2),)))
    answers = topo.answers(f"tcp {UE4}:{p} > {TARGET4}:80 syn" for p in range(10000, 11000))
    slots = [a.slot for a in answers if a.reason == "edge-syn"]
    assert 437 < len(slots) < 563
    assert 0.4 < slots.count(1) / len(slots) < 0.6


@pytest.mark.req("N8")
def test_new_flows_go_to_the_newest_listening_generation(topo: Topo) -> None:
    topo.add_service(2)
    socks = {"old": topo.listen("s1", "0.0.0.0"), "cloud": topo.listen("cl", "0.0.0.0")}
    topo.steer(topo.service())
    first = topo.connect(TARGET4)
    _, old_end = accepted(socks)
    both = (generation(2, 2), generation(1, 1))
    topo.change(generations=both)
    topo.connect(TARGET4)
    assert accepted(socks)[0] == "old", "the new one does not listen yet"
    socks["new"] = topo.listen("s2", "0.0.0.0")
    client = topo.connect(TARGET4)
    where, new_end = accepted(socks)
    assert where == "new"
    talk(first, old_end)
    topo.change(generations=(generation(2, 2), generation(1, 1, accepting=False)))
    talk(first, old_end)
    talk(client, new_end)
    socks.pop("new").close()
    topo.connect(TARGET4)
    assert accepted(socks)[0] == "cloud", "a draining generation takes nothing new"
    talk(first, old_end)


@pytest.mark.req("N8", "N10")
def test_flows_are_spread_and_a_dead_instances_share_goes_to_the_cloud(topo: Topo) -> None:
    topo.add_service(2)
    socks = {
        "one": topo.listen("s1", "0.0.0.0"),
        "two": topo.listen("s2", "0.0.0.0"),
        "cloud": topo.listen("cl", "0.0.0.0"),
    }
    topo.steer(topo.service(generations=(generation(1, 1, 2),)))

    def where(sport: int) -> str:
        client = topo.connect(TARGET4, sport=sport)
        name, server = accepted(socks)
        talk(client, server)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()  # by RST: no TIME_WAIT
        return name

    before = {sport: where(sport) for sport in range(42000, 42040)}
    assert set(before.values()) == {"one", "two"}
    socks.pop("two").close()
    after = {sport: where(sport) for sport in before}
    assert after == {s: "cloud" if w == "two" else w for s, w in before.items()}


@pytest.mark.req("N10")
def test_when_down_drop(topo: Topo) -> None:
    socks = {"cloud": topo.listen("cl", "0.0.0.0")}
    old = topo.connect(TARGET4)
    _, cloud_end = accepted(socks)
    topo.steer(topo.service(drop_when_down=True))
    counted = topo.since()
    with pytest.raises(TimeoutError):
        topo.connect(TARGET4, timeout=0.3)
    assert accepted(socks, timeout=0)[0] == "nobody"
    talk(old, cloud_end)  # a flow of the cloud is none of its business
    assert counted()["drop-down"] >= 1
    topo.change(enabled=False)
    topo.connect(TARGET4)
    assert accepted(socks)[0] == "cloud"


@pytest.mark.req("N10")
def test_when_down_drop_waits_for_the_listener(topo: Topo) -> None:
    """The SYN that was dropped is sent again, and by then somebody listens."""
    topo.steer(topo.service(drop_when_down=True))
    counted = topo.since()
    client = topo.sock("ue", socket.AF_INET, socket.SOCK_STREAM)
    client.setblocking(False)
    client.connect_ex((TARGET4, 80))
    wait_until(lambda: counted().get("drop-down"), "the first SYN")
    edge = topo.listen("s1", "0.0.0.0")
    assert accepted({"edge": edge})[0] == "edge"


@pytest.mark.req("N9")
def test_enabled_reverts_by_itself(topo: Topo) -> None:
    topo.listen("s1", "0.0.0.0")
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    question = f"tcp {UE4}:1000 > {TARGET4}:80 syn"
    topo.steer(topo.service(until_ns=now + 3_600_000_000_000))
    assert topo.asked(question).reason == "edge-syn"
    topo.change(until_ns=now)
    assert topo.asked(question).reason == "cloud-disabled"
    topo.change(enabled=False)
    assert topo.asked(question).reason == "edge-syn"


@pytest.mark.req("N5")
def test_clients_and_interfaces(topo: Topo) -> None:
    topo.listen("s1", "0.0.0.0")
    topo.steer(topo.service(clients=(ip_network("10.1.0.0/28"), ip_network("2001:db8:1::/64"))))
    assert topo.asked(f"tcp 10.1.0.2:1 > {TARGET4}:80 syn").reason == "edge-syn"
    assert topo.asked(f"tcp 10.1.0.77:1 > {TARGET4}:80 syn").reason == "client"
    wan = topo.index("ap", "wan0")
    other = topo.service(
        sid=2, name="other", interfaces=(wan,), targets=(ip_network("203.0.113.1"),)
    )
    topo.steer(topo.service(), other)
    assert topo.asked("tcp 10.1.0.2:1 > 203.0.113.1:80 syn").reason == "iface"


@pytest.mark.req("N10")
@pytest.mark.parametrize("broken", ["deleted", "down", "namespace"])
def test_a_broken_link_sends_new_flows_to_the_cloud(topo: Topo, target: str, broken: str) -> None:
    socks = listeners(topo, target)
    topo.steer(topo.service())
    topo.connect(target)
    assert accepted(socks)[0] == "edge"
    link, ap = names.link(1), f"{topo.name}-ap"
    if broken == "deleted":
        topo.sh(f"ip -n {ap} link del {link}")
    elif broken == "down":
        topo.sh(f"ip -n {ap} link set {link} down")
    else:
        for sock in (socks.pop("edge"), *topo.socks):
            sock.close()
        os.close(topo.fds.pop("s1"))
        topo.sh(f"ip netns del {topo.name}-s1")
        socks["cloud"] = topo.listen("cl", "::" if ":" in target else "0.0.0.0")
    client = topo.connect(target)
    where, server = accepted({"cloud": socks["cloud"]})
    assert where == "cloud"
    talk(client, server)


@pytest.mark.req("N10", "N5")
def test_a_killed_server_is_followed_by_the_cloud(topo: Topo) -> None:
    """SIGKILL, no daemon: a SYN that leaves after the server's end is never lost."""
    socks = {"cloud": topo.listen("cl", "0.0.0.0")}
    code = (
        "import socket,sys;s=socket.create_server(('0.0.0.0',80));print(flush=True)\n"
        "while 1: s.accept()[0].send(b'e')"
    )
    topo.steer(topo.service())
    for _ in range(5):
        server = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{topo.name}-s1", "python3", "-Sc", code],
            stdout=subprocess.PIPE,
        )
        try:
            assert server.stdout is not None
            server.stdout.readline()
            assert topo.connect(TARGET4).recv(1) == b"e"
        finally:
            server.kill()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()
        client = topo.connect(TARGET4)
        where, cloud_end = accepted(socks)
        assert where == "cloud"
        talk(client, cloud_end)


@pytest.mark.req("N5")
def test_frames_for_others_are_not_looked_at(topo: Topo) -> None:
    topo.listen("s1", "0.0.0.0")
    topo.steer(topo.service())
    frame = syn().frame("02:00:00:00:00:99")
    answer = topo.inside("ap", topo.director.explain, topo.wlan, frame)
    assert answer.reason == "not-host"
    assert topo.asked(f"tcp {UE4}:1 > {AP4}:80 syn").reason == "miss"


@pytest.mark.req("C2")
def test_a_held_service_takes_fewer_new_flows_and_keeps_its_old_ones(topo: Topo) -> None:
    socks = listeners(topo)
    service = topo.service()
    topo.steer(service)
    client = topo.connect(TARGET4)
    where, server = accepted(socks)
    assert where == "edge"

    def reason(host: str) -> str:
        (answer,) = topo.answers([f"tcp {host}:1000 > {TARGET4}:80 syn"])
        return answer.reason

    hosts = [f"10.1.{n >> 8}.{n & 255}" for n in range(1000)]
    assert topo.inside("ap", topo.director.hold, service.sid, Hold(load=30.0))
    assert topo.inside("ap", topo.director.holds)[service.sid].load == pytest.approx(30.0)
    held = [reason(host) for host in hosts]
    assert set(held) == {"edge-syn", "cloud-held"}
    assert 240 < held.count("edge-syn") < 360, "binomial(1000, 0.3): four standard deviations"
    topo.steer(replace(service, udp_idle_ns=service.udp_idle_ns + 1))
    assert [reason(host) for host in hosts] == held, "other changes leave it as it is"
    topo.steer(replace(service, share=10))
    assert 60 < sum(reason(host) == "edge-syn" for host in hosts) < 140, "the lesser counts"
    topo.steer(service)
    assert topo.inside("ap", topo.director.hold, service.sid, Hold(health=0.0))
    assert {reason(host) for host in hosts} == {"cloud-held"}
    talk(client, server)
    topo.steer(replace(service, drop_when_down=True))
    assert reason(hosts[0]) == "edge-syn", "what may not go to the cloud is not held"
    topo.steer(service)
    assert topo.inside("ap", topo.director.hold, service.sid, FREE)
    assert topo.inside("ap", topo.director.holds) == {}
    assert {reason(host) for host in hosts} == {"edge-syn"}
    assert not topo.inside("ap", topo.director.hold, service.sid + 1, Hold(health=0.0)), (
        "nobody to hold"
    )
    topo.inside("ap", topo.director.hold, service.sid, Hold(health=0.0))
    topo.steer(replace(service, sid=service.sid + 5))
    assert topo.inside("ap", topo.director.holds) == {}, "a hold goes with its service"
