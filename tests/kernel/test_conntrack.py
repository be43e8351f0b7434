"""ctnetlink against conntrack(8)."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from kernel.conftest import Space
from support import need_kernel, need_program
from viscum.kernel import conntrack, nft
from viscum.kernel.nfnetlink import Netfilter, header
from viscum.kernel.syscalls import in_netns

TRACK = (
    "add table inet vt; add chain inet vt out { type filter hook output priority 0; };"
    " add rule inet vt out ct state new accept"
)


@pytest.fixture
def tracked(space: Space) -> Space:
    """A namespace whose connections are tracked."""
    need_program("conntrack", "nft")
    space.run("nft", TRACK)
    need_kernel("connection tracking", conntrack.available())
    return space


def _send(space: Space, family: int, address: str, ports: range) -> set[conntrack.Flow]:
    """One datagram to each port, all from the same one."""

    def send() -> set[conntrack.Flow]:
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.bind((address, 0))
            own = s.getsockname()[1]
            for port in ports:
                try:
                    s.sendto(b"x", (address, port))
                except ConnectionRefusedError:  # of the datagram before
                    s.sendto(b"x", (address, port))
            return {(address, own, address, port) for port in ports}

    return in_netns(space.fd, send)


def _by_conntrack(space: Space, proto: str) -> set[conntrack.Flow]:
    found: set[conntrack.Flow] = set()
    for family in ("ipv4", "ipv6"):
        for line in space.run("conntrack", "-L", "-f", family, "-p", proto).stdout.splitlines():
            src, dst, sport, dport = (
                re.findall(rf"\b{key}=(\S+)", line)[0] for key in ("src", "dst", "sport", "dport")
            )
            found.add((src, int(sport), dst, int(dport)))
    return found


def test_flows_of_both_families_are_what_was_sent(tracked: Space) -> None:
    sent = _send(tracked, socket.AF_INET, "127.0.0.1", range(5000, 5003))
    sent |= _send(tracked, socket.AF_INET6, "::1", range(5000, 5003))
    assert set(conntrack.udp_flows(tracked.fd)) == sent == _by_conntrack(tracked, "udp")


def test_tcp_is_not_among_udp(tracked: Space) -> None:
    def connect() -> conntrack.Flow:
        with socket.create_server(("127.0.0.1", 0)) as server:
            with socket.create_connection(server.getsockname()) as client:
                return (*client.getsockname(), *server.getsockname())

    flow = in_netns(tracked.fd, connect)
    sent = _send(tracked, socket.AF_INET, "127.0.0.1", range(5000, 5001))
    assert list(conntrack.udp_flows(tracked.fd)) == list(sent)
    assert list(conntrack.flows(conntrack.TCP, tracked.fd)) == [flow]


def test_an_older_kernel_that_does_not_pick_out_the_protocol_is_no_harm(tracked: Space) -> None:
    sent = _send(tracked, socket.AF_INET, "127.0.0.1", range(5000, 5003))

    def connect() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()).close()

    in_netns(tracked.fd, connect)
    with Netfilter(tracked.fd) as nf:
        everything = nf.dump(conntrack._GET, header(socket.AF_INET), "everything")
    assert len(everything) > len(sent)
    flows = [conntrack._flow(m.body, conntrack.UDP) for m in everything]
    assert {f for f in flows if f} == sent


def test_the_original_direction_is_before_translation(tracked: Space) -> None:
    """What the client sent to is what counts, wherever the operator's DNAT led."""
    tracked.run(
        "nft",
        "add chain inet vt nat { type nat hook output priority -100; };"
        " add rule inet vt nat udp dport 53 dnat ip to 127.0.0.1:5353",
    )
    sent = _send(tracked, socket.AF_INET, "127.0.0.1", range(53, 54))
    assert set(conntrack.udp_flows(tracked.fd)) == sent


def test_many_flows_are_dumped_whole(tracked: Space) -> None:
    sent = _send(tracked, socket.AF_INET, "127.0.0.1", range(10_000, 13_000))
    flows = list(conntrack.udp_flows(tracked.fd))
    assert set(flows) == sent
    assert len(flows) == 3000
    assert conntrack.count(tracked.fd) == int(tracked.run("conntrack", "-C").stdout)


def test_a_namespace_without_tracking_has_no_flows(space: Space) -> None:
    assert list(conntrack.udp_flows(space.fd)) == []
    assert conntrack.count(space.fd) == 0


def test_available_is_whether_the_module_is_there() -> None:
    assert conntrack.available() == Path("/proc/sys/net/netfilter/nf_conntrack_max").exists()


@pytest.mark.req("N6")
def test_whose_rules_have_connections_tracked(space: Space) -> None:
    """Ours do not count: they track only what came after them."""

    def operated(rules: str) -> set[int]:
        nft.apply("flush ruleset\n" + rules, space.fd)
        return in_netns(space.fd, conntrack.operated)

    nat = "chain c { type nat hook postrouting priority srcnat; masquerade; }"
    state = "chain c { type filter hook forward priority filter; ct state invalid drop; }"
    plain = "chain c { type filter hook forward priority filter; policy drop; }"
    assert operated("") == set()
    assert operated(f"table inet viscum {{ {nat}; }}") == set()
    assert operated(f"table inet fw4 {{ {plain}; }}") == set()
    assert operated(f"table inet fw4 {{ {state}; }}") == {4, 6}
    assert operated(f"table ip nat {{ {nat}; }}") == {4}
    assert operated(f"table ip6 nat {{ {nat}; }}") == {6}
