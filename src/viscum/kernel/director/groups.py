"""From the services' targets and ports to the director's three lookup tables. Pure.

A packet costs one lookup for its address, which gives a group, and at most three for its port.
A group is one distinct set of services, so that a thousand addresses of the same services share
their port entries. An address inside a prefix that another service claims belongs to both: what
the more specific target does not claim falls to the prefix, ports included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from viscum.kernel.director import abi
from viscum.model import Network, Steering, SteerPort, SteerService

ICMP = 1
_ALL4, _MAPPED4 = IPv4Network("0.0.0.0/0"), IPv6Network("::ffff:0:0/96")

Claim = tuple[int, ...]  # sids that claim an address, those that are asked first first


class Tables(NamedTuple):
    """Contents of the maps `targets`, `prefixes` and `ports`."""

    targets: dict[bytes, int]
    prefixes: dict[bytes, int]
    ports: dict[bytes, int]


def tables(want: Steering) -> Tables:
    """The lookup tables for `want`.

    Where two services claim the same port of an address, the more specific target wins; then the
    service over steering of the same name that it has replaced (a later entry of the same name),
    then the lower sid. Group numbers follow from the contents, so that an unchanged set of
    services keeps its number whatever else changes.
    """
    rank = _ranks(want)
    claims = _claims(want, rank)
    numbers = _numbers(set(claims.values()))
    services = {service.sid: service for service in want}
    targets: dict[bytes, int] = {}
    prefixes: dict[bytes, int] = {}
    for network, claim in claims.items():
        if network.prefixlen == network.max_prefixlen:
            targets[abi.address(network.network_address)] = numbers[claim]
        else:
            prefixes[abi.prefix(network)] = numbers[claim]
            if isinstance(network, IPv6Network) and _MAPPED4.subnet_of(network):
                prefixes.setdefault(abi.prefix(_ALL4), 0)
    ports: dict[bytes, int] = {}
    for claim, group in numbers.items():
        for key, sid in _ports(group, [services[sid] for sid in claim]):
            ports.setdefault(key, sid)
    return Tables(targets, prefixes, ports)


def _ranks(want: Steering) -> dict[int, tuple[bool, int]]:
    seen: set[str] = set()
    ranks = {}
    for service in want:
        ranks[service.sid] = (service.name in seen, service.sid)
        seen.add(service.name)
    return ranks


def _claims(want: Steering, rank: dict[int, tuple[bool, int]]) -> dict[Network, Claim]:
    """Every target with all who claim it: its own services, then those of covering prefixes."""
    own: dict[Network, set[int]] = {}
    for service in want:
        for network in service.targets:
            own.setdefault(network, set()).add(service.sid)
    lengths = {
        version: sorted({n.prefixlen for n in own if n.version == version}, reverse=True)
        for version in (4, 6)
    }
    claims = {}
    for network in own:
        claim: dict[int, None] = {}
        for length in lengths[network.version]:
            if length <= network.prefixlen:
                covering = network if length == network.prefixlen else _supernet(network, length)
                claim |= dict.fromkeys(sorted(own.get(covering, ()), key=rank.__getitem__))
        claims[network] = tuple(claim)
    return claims


def _supernet(network: Network, length: int) -> Network:
    return network.supernet(new_prefix=length)


def _numbers(claims: Iterable[Claim]) -> dict[Claim, int]:
    """A group number for each claim: a hash of its sids, so that it does not depend on others."""
    numbers: dict[Claim, int] = {}
    taken: set[int] = set()
    for claim in sorted(claims):
        number = 2166136261  # FNV-1a
        for sid in claim:
            number = (number ^ sid) * 16777619 & 0xFFFF_FFFF
        number = number or 1
        while number in taken:
            number = number % 0xFFFF_FFFF + 1
        taken.add(number)
        numbers[claim] = number
    return numbers


def _ports(group: int, claim: list[SteerService]) -> Iterator[tuple[bytes, int]]:
    for service in claim:
        if not service.ports:
            yield _key(group, 0, 0), service.sid
        for entry in service.ports:
            for number in _expand(entry):
                yield _key(group, entry.proto, number), service.sid
    # an echo request has no port: the first who wants it has it, else the first of all
    echo = [s for s in claim if s.ping_edge] or claim
    yield _key(group, ICMP, 0), echo[0].sid


def _expand(entry: SteerPort) -> range:
    if entry.proto == 0 or (entry.first <= 1 and entry.last == 65535):
        return range(1)  # every port
    return range(entry.first, entry.last + 1)


def _key(group: int, proto: int, number: int) -> bytes:
    return abi.PORT.pack(group, abi.port(number), proto)
