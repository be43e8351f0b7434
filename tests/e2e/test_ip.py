"""The rest of IP through a whole host (N7): extension headers, path MTU, fragments, echo, SYN
cookies, and hop limits."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import pytest

from e2e.net import (
    PORT,
    ask,
    connect,
    download,
    flow,
    inside,
    ok,
    peer_command,
    run,
    set_sysctl,
    sock,
    start_peer,
    upload,
    who,
    who_udp,
)
from support import wait_until
from viscum.kernel import sysctl
from viscum.lab import CLOUD4, CLOUD6, Lab
from viscum.lab.plan import AP_LAN4, AP_LAN6, CLOUDS4, CLOUDS6, ue4, ue6

TARGETS = (CLOUD4, CLOUD6)
EACH = pytest.mark.parametrize("target", TARGETS, ids=["v4", "v6"])
MODES = pytest.mark.parametrize("firewall", ["bypass", "honour"])
IPV6_HOPOPTS, IPV6_DSTOPTS = 54, 59  # linux/in6.h; Python has them too, but not everywhere
PADN = bytes((0, 0, 1, 4, 0, 0, 0, 0))
SMALL = 1300  # MTU
FAR = ("10.2.0.2", "2001:db8:2::2")


def edge(lab: Lab, *options: str) -> None:
    ports = ("--port", f"{PORT}/tcp", "--port", f"{PORT}/udp")
    run(lab, "svc", TARGETS, *ports, *options, "--", *peer_command("edge"))


def edge_udp(lab: Lab, target: str, role: str = "ue") -> None:
    wait_until(lambda: who_udp(lab, target, role) == "edge", "UDP at the edge", 20)


def decisions(lab: Lab) -> dict[str, int]:
    return dict(json.loads(ok(lab.viscum("status", "svc", "--json")))["decisions"])


@pytest.mark.req("N7")
@MODES
@pytest.mark.parametrize("options", [(54,), (59,), (54, 59)], ids=["hop", "dst", "both"])
def test_extension_headers(lab: Lab, firewall: str, options: tuple[int, ...]) -> None:
    """On every packet of a connection and of a flow, whole transfers."""
    # A router's kernel (6.18) without Viscum stalls on large segments with two such headers.
    ok(lab.run("ue", ["ethtool", "-K", "eth0", "tso", "off", "gso", "off"]))
    edge(lab, "--firewall", firewall)
    edge_udp(lab, CLOUD6)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with sock(lab, "ue", CLOUD6, kind) as conn:
            for option in options:
                conn.setsockopt(socket.IPPROTO_IPV6, option, PADN)
            conn.connect((CLOUD6, PORT))
            assert ask(conn)[0] == "edge"
            if kind == socket.SOCK_STREAM:
                assert upload(conn, 1 << 20) == "edge"


# ---- path MTU ----------------------------------------------------------------------------------


@pytest.fixture
def far(lab: Lab) -> Lab:
    """`ue9`: a client behind the client, on a link of a small MTU; its name goes with the lab."""
    names = {role: lab.namespace(role) for role in ("ue", "ue9")}
    ok(lab.run("ue", ["ip", "netns", "add", names["ue9"]]))
    for role in ("ue", "ue9"):
        set_sysctl(lab, role, net__ipv6__conf__default__accept_dad="0")
    set_sysctl(lab, "ue", net__ipv4__ip_forward="1", net__ipv6__conf__all__forwarding="1")
    for line in (
        f"link add far mtu {SMALL} type veth peer name eth0 mtu {SMALL} netns {names['ue9']}",
        "addr add 10.2.0.1/24 dev far",
        "addr add 2001:db8:2::1/64 dev far nodad",
        "link set far up",
        # forwarding has put the default route of IPv6 aside
        f"-6 route replace default via {AP_LAN6}",
    ):
        ok(lab.run("ue", ["ip", *line.split()]))
    for line in (
        "link set lo up",
        f"addr add {FAR[0]}/24 dev eth0",
        f"addr add {FAR[1]}/64 dev eth0 nodad",
        "link set eth0 up",
        "route add default via 10.2.0.1",
        "route add default via 2001:db8:2::1",
    ):
        ok(lab.run("ue9", ["ip", *line.split()]))
    ok(lab.run("ap", ["ip", "route", "add", "10.2.0.0/24", "via", ue4()]))
    ok(lab.run("ap", ["ip", "route", "add", "2001:db8:2::/64", "via", ue6()]))
    start_peer(lab)
    return lab


@pytest.mark.req("N7")
@EACH
@MODES
def test_a_client_behind_a_smaller_mtu(far: Lab, target: str, firewall: str) -> None:
    """The router in between says "too big" to the target's address; the server at the edge hears
    it. Both ways, TCP and UDP, and no other service's packets are hurt."""
    # a server that announces nothing of it: clamped by nobody, segments are 1500 at first
    edge(far, "--firewall", firewall)
    assert who(far, target, "ue9") == "edge"
    with connect(far, target, "ue9") as conn:
        # else the client's own MSS would tell
        assert ask(conn)[0] == "edge"
    with sock(far, "ue9", target) as conn:
        ok(far.run("ue9", ["ip", "link", "set", "eth0", "mtu", "1500"]))
        conn.connect((target, PORT))  # announces an MSS for 1500
        assert download(conn, 1 << 20) == "edge"
    said = decisions(far)
    assert said.get("edge-icmp", 0) > 0, said
    with connect(far, target, "ue9") as conn:
        ok(far.run("ue9", ["ip", "link", "set", "eth0", "mtu", str(SMALL)]))
        assert upload(conn, 1 << 20) == "edge"
    assert path_mtu(far, target) == SMALL


def path_mtu(lab: Lab, target: str) -> int:
    """What the server knows of the way to the far client."""
    address = FAR[":" in target]
    words = ["ip", "-j", "route", "get", address, "from", target]
    (route,) = json.loads(ok(lab.viscum("exec", "svc", "--", *words)))
    return int(next((m["mtu"] for m in route.get("metrics", ())), 0))


@pytest.mark.req("N7")
@EACH
@MODES
def test_datagrams_behind_a_smaller_mtu(far: Lab, target: str, firewall: str) -> None:
    """The first too large answer is lost and teaches the server; the next one is fragmented."""
    edge(far, "--firewall", firewall)
    edge_udp(far, target, "ue9")
    data = b"echo" + bytes(1440)
    with flow(far, target, "ue9", timeout=0.5) as conn:
        conn.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
        assert ask(conn)[0] == "edge"

        def echoed() -> bool:
            conn.send(data)
            try:
                return conn.recv(65535) == data
            except TimeoutError:
                return False

        wait_until(echoed, "an answer that fits")
    assert decisions(far).get("edge-icmp", 0) > 0


@pytest.mark.req("N7")
@EACH
@MODES
def test_a_client_interface_of_a_smaller_mtu(lab: Lab, target: str, firewall: str) -> None:
    """The service's link takes it over, so that the server sends nothing that does not fit."""
    ok(lab.run("ap", ["ip", "link", "set", "wlan0", "mtu", "1400"]))
    edge(lab, "--firewall", firewall)
    (link,) = json.loads(ok(lab.run("ap", ["ip", "-j", "link", "show", "dev", "vs0"])))
    assert link["mtu"] == 1400
    ok(lab.run("ue", ["ip", "link", "set", "eth0", "mtu", "1500"]))
    with connect(lab, target) as conn:
        assert download(conn, 1 << 20) == "edge"
    ok(lab.run("ue", ["ip", "link", "set", "eth0", "mtu", "1400"]))
    with connect(lab, target) as conn:
        assert upload(conn, 1 << 20) == "edge"
    # changed later: the next command sees it
    ok(lab.run("ap", ["ip", "link", "set", "wlan0", "mtu", "1300"]))
    ok(lab.viscum("enable", "svc"))
    (link,) = json.loads(ok(lab.run("ap", ["ip", "-j", "link", "show", "dev", "vs0"])))
    assert link["mtu"] == 1300


# ---- fragments ---------------------------------------------------------------------------------


@pytest.mark.req("N7")
@EACH
@MODES
@pytest.mark.parametrize("place", ["edge", "cloud"])
def test_fragmented_datagrams(lab: Lab, target: str, firewall: str, place: str) -> None:
    """4000 bytes both ways, and 60,000: later fragments follow the first."""
    start_peer(lab)
    edge(lab, "--firewall", firewall)
    edge_udp(lab, target)
    if place == "cloud":
        ok(lab.viscum("disable", "svc"))
    with flow(lab, target) as conn:
        assert ask(conn)[0] == place
        for size in (4000, 60000):
            for n in range(20):
                data = b"echo" + bytes((n,)) * size
                conn.send(data)
                assert conn.recv(65535) == data
    said = decisions(lab)
    assert (said.get("edge-fragment", 0) > 0) == (place == "edge")


# ---- SYN cookies -------------------------------------------------------------------------------


@pytest.mark.req("N5", "N7")
@EACH
@MODES
def test_syn_cookies(lab: Lab, target: str, firewall: str) -> None:
    """A server whose kernel answers every SYN with a cookie; also when it is disabled meanwhile."""
    edge(lab, "--firewall", firewall)
    service = json.loads(ok(lab.viscum("status", "svc", "--json")))
    namespace = service["generations"][0]["instances"][0]["namespace"]
    in_service(namespace, lambda: sysctl.write("net.ipv4.tcp_syncookies", "2"))
    for _ in range(5):
        with connect(lab, target) as conn:
            assert download(conn, 1 << 16) == "edge"
    said = decisions(lab)
    assert said.get("edge-cookie", 0) >= 5, said


def in_service(namespace: str, function: Callable[[], None]) -> None:
    from viscum.kernel import netns
    from viscum.kernel.syscalls import in_netns

    with netns.opened(namespace) as fd:
        in_netns(fd, function)


# ---- echo and hop limits -----------------------------------------------------------------------


@pytest.mark.req("N7")
@EACH
@MODES
@pytest.mark.parametrize("who_answers", ["cloud", "edge"])
def test_ping(lab: Lab, target: str, firewall: str, who_answers: str) -> None:
    """Whoever does not answer echo requests is found out by it."""
    words = ["ping", "-c", "2", "-i", "0.2", "-W", "1", target]
    edge(lab, "--firewall", firewall, "--ping", who_answers)
    assert lab.run("ue", words).returncode == 0
    large = [*words[:-1], "-s", "3000", target]
    assert lab.run("ue", large).returncode == 0
    ok(lab.viscum("disable", "svc"))
    assert lab.run("ue", words).returncode == 0
    ok(lab.viscum("enable", "svc"))
    for version in ("ipv4", "ipv6"):
        name = {"ipv4": "icmp_echo_ignore_all", "ipv6": "icmp.echo_ignore_all"}[version]
        inside(lab, "cloud", sysctl.write, f"net.{version}.{name}", "1")
    assert (lab.run("ue", words).returncode == 0) == (who_answers == "edge")
    ok(lab.viscum("disable", "svc"))
    assert lab.run("ue", words).returncode == 1
    ok(lab.viscum("rm", "--now", "svc"))


RECVERR = {socket.AF_INET: (0, 11, 2), socket.AF_INET6: (41, 25, 16)}  # level, option, IP_TTL/HOPS


def hop(lab: Lab, target: str, port: int, limit: int) -> tuple[int, str]:
    """What a datagram with this hop limit is answered: (ICMP type, by whom), as traceroute does."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    level, recverr, ttl = RECVERR[family]
    with sock(lab, "ue", target, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(level, recverr, 1)
        probe.setsockopt(level, ttl, limit)
        probe.sendto(b"probe", (target, port))
        _, ancillary, _, _ = probe.recvmsg(512, 512, socket.MSG_ERRQUEUE)
    data = next(d for lv, kind, d in ancillary if (lv, kind) == (level, recverr))
    # struct sock_extended_err (linux/errqueue.h), then the sockaddr of who sent it
    address = data[24:40] if family == socket.AF_INET6 else data[20:24]
    return data[5], socket.inet_ntop(family, address)


@pytest.mark.req("N7")
@EACH
def test_traceroute(lab: Lab, target: str) -> None:
    """To ports that are not the service's the way is what it was: the router, then the cloud."""
    edge(lab)
    router, exceeded, unreachable = (AP_LAN6, 3, 1) if ":" in target else (AP_LAN4, 11, 3)
    assert hop(lab, target, 33434, 1) == (exceeded, router)
    assert hop(lab, target, 33435, 2) == (unreachable, target)
    other = CLOUDS6[1] if ":" in target else CLOUDS4[1]
    assert hop(lab, other, 33434, 2) == (unreachable, other)
