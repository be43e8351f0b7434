"""The director's lookup tables against a slow and obvious reading of what they should say."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viscum.kernel.director import abi
from viscum.kernel.director.groups import Tables, tables
from viscum.model import Address, Network, SteerPort, SteerService

pytestmark = pytest.mark.req("N13", "N5")


def service(
    sid: int, targets: tuple[str, ...], *ports: tuple[int, int, int], **more: Any
) -> SteerService:
    return SteerService(
        sid=sid, name=more.pop("name", f"s{sid}"), enabled=True, interfaces=(1,),
        targets=tuple(ip_network(t) for t in targets), ports=tuple(SteerPort(*p) for p in ports),
        clients=(), generations=(), **more,
    )  # fmt: skip


def asked(t: Tables, address: Address, proto: int, port: int) -> int:
    """As viscum.bpf.c asks (v_find_group, v_find_sid); 0: nobody."""
    key = abi.address(address)
    group = t.targets.get(key)
    if group is None:
        for length in range(128, -1, -1):
            masked = int.from_bytes(key, "big") >> (128 - length) << (128 - length)
            group = t.prefixes.get(abi.PREFIX.pack(length, masked.to_bytes(16, "big")))
            if group is not None:
                break
        else:
            return 0
    for p, n in ((proto, port), (proto, 0), (0, 0)):
        sid = t.ports.get(abi.PORT.pack(group, abi.port(n), p))
        if sid is not None:
            return sid
    return 0


def obvious(want: tuple[SteerService, ...], address: Address, proto: int, port: int) -> int:
    """Of the services that claim address and port: the longest target, then explicit ports before
    "every port", then the order of `tables`."""

    def length(s: SteerService) -> int:
        return max((t.prefixlen for t in s.targets if address in t), default=-1)

    def how(s: SteerService) -> int:
        """0: this very port; 1: every port of the protocol; 2: everything; 3: not at all."""
        if not s.ports:
            return 2
        found = 3
        for p in s.ports:
            if p.proto == proto and p.first <= port <= p.last:
                found = min(found, 1 if p.first <= 1 and p.last == 65535 else 0)
        return found

    seen: set[str] = set()
    ranked = []
    for s in want:
        if length(s) >= 0 and how(s) < 3:
            ranked.append((how(s), -length(s), s.name in seen, s.sid))
        seen.add(s.name)
    return min(ranked)[3] if ranked else 0


ADDRESSES = [f"10.0.{a}.{b}" for a in range(2) for b in range(3)] + ["2001:db8::1", "2001:db8::2"]
NETWORKS = [
    *ADDRESSES,
    "10.0.0.0/24",
    "10.0.0.0/16",
    "10.0.1.0/31",
    "2001:db8::/64",
    "::/0",
    "0.0.0.0/0",
]
PORTS = [(6, 80, 80), (6, 80, 82), (6, 1, 65535), (17, 81, 81), (17, 0, 65535)]
services = st.lists(
    st.tuples(
        st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=4, unique=True),
        st.lists(st.sampled_from(PORTS), max_size=2, unique=True),
        st.sampled_from(["a", "b"]),
    ),
    max_size=5,
)


@given(services)
def test_every_address_and_port_finds_its_service(made: list[Any]) -> None:
    want = tuple(
        service(sid, tuple(targets), *ports, name=name)
        for sid, (targets, ports, name) in enumerate(made, 1)
    )
    t = tables(want)
    for text in [*ADDRESSES, "10.9.9.9", "192.0.2.1", "2001:db8::77", "2001:db9::1"]:
        address = ip_address(text)
        for proto in (6, 17):
            for port in (79, 80, 81, 82, 83):
                assert asked(t, address, proto, port) == obvious(want, address, proto, port)


@given(services)
def test_tables_are_no_larger_than_they_must_be(made: list[Any]) -> None:
    want = tuple(service(sid, tuple(t), *p) for sid, (t, p, _) in enumerate(made, 1))
    t = tables(want)
    networks: set[Network] = {n for s in want for n in s.targets}
    guard = 1 if 0 in t.prefixes.values() else 0  # ::/0 is not 0.0.0.0/0
    assert len(t.targets) + len(t.prefixes) == len(networks) + guard
    used = set(t.targets.values()) | set(t.prefixes.values()) - {0}
    assert {abi.PORT.unpack(k)[0] for k in t.ports} == used


def test_a_thousand_targets_share_their_ports() -> None:
    targets = tuple(f"10.1.{n >> 8}.{n & 255}" for n in range(1000))
    t = tables((service(1, targets, (6, 443, 443), (17, 443, 443)),))
    assert len(t.targets) == 1000
    assert len(t.ports) == 3, "two, and one for echo"


def test_a_group_keeps_its_number_when_others_change() -> None:
    web, dns = service(1, ("10.0.0.1",)), service(2, ("10.0.0.2",))
    before, after = tables((web,)), tables((web, dns))
    key = abi.address(ip_address("10.0.0.1"))
    assert before.targets[key] == after.targets[key]


def test_steering_that_was_replaced_comes_last() -> None:
    """A later entry of the same name: it keeps its old flows, and yields to everybody."""
    new = service(5, ("10.0.0.1",), (6, 443, 443), name="web")
    old = service(3, ("10.0.0.1", "10.0.0.2"), (6, 80, 80), (6, 443, 443), name="web")
    t = tables((new, old))
    one, two = ip_address("10.0.0.1"), ip_address("10.0.0.2")
    assert [asked(t, one, 6, 443), asked(t, one, 6, 80)] == [5, 3]
    assert [asked(t, two, 6, 443), asked(t, two, 6, 80)] == [3, 3]


def test_echo_belongs_to_whom_it_is_wanted_by() -> None:
    one = service(1, ("10.0.0.1",), (6, 80, 80))
    two = service(2, ("10.0.0.1",), (6, 81, 81), ping_edge=True)
    address = ip_address("10.0.0.1")
    assert asked(tables((one,)), address, 1, 0) == 1
    assert asked(tables((one, two)), address, 1, 0) == 2
