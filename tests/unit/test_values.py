"""Values: what is read, how it prints, and that printing and reading are each other's inverse."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec_strategies import NESTED
from viscum.spec import values
from viscum.spec.values import BadValue, Bytes, EgressRule, Port, Seconds

pytestmark = pytest.mark.req("N4")


@pytest.mark.parametrize(
    ("given_", "seconds", "printed"),
    [
        ("0", 0, "0"),
        (0, 0, "0"),
        ("500ms", 0.5, "500ms"),
        ("10s", 10, "10s"),
        ("10", 10, "10s"),
        (10, 10, "10s"),
        (0.25, 0.25, "250ms"),
        ("1.5s", 1.5, "1500ms"),
        ("60s", 60, "1m"),
        ("1h30m", 5400, "90m"),
        ("1d", 86400, "1d"),
        ("366d", 366 * 86400, "366d"),
        ("0s500ms", 0.5, "500ms"),
    ],
)
def test_seconds(given_: object, seconds: float, printed: str) -> None:
    value = Seconds.parse(given_)
    assert value == seconds
    assert str(value) == f"{value}" == printed
    assert value.ns == seconds * 1e9


@pytest.mark.parametrize(
    ("given_", "size", "printed"),
    [
        ("0", 0, "0"),
        ("4096", 4096, "4K"),
        (1000, 1000, "1000"),
        ("256M", 256 << 20, "256M"),
        ("256m", 256 << 20, "256M"),
        ("256MiB", 256 << 20, "256M"),
        ("1.5G", 3 << 29, "1536M"),
        ("2T", 2 << 40, "2T"),
    ],
)
def test_bytes(given_: object, size: int, printed: str) -> None:
    value = Bytes.parse(given_)
    assert value == size
    assert str(value) == f"{value}" == printed


@pytest.mark.parametrize(
    "given_", ["", "s", "1x", "1.s", ".5s", "-1s", "1s1s", "1e3", "１s", " 1s"]
)
def test_not_seconds(given_: str) -> None:
    with pytest.raises(BadValue):
        Seconds.parse(given_)


@pytest.mark.parametrize("given_", ["", "M", "1MB", "1.M", "-1", "0.1K", "9E", "1 M", str(2**63)])
def test_not_bytes(given_: str) -> None:
    with pytest.raises(BadValue):
        Bytes.parse(given_)


@given(st.integers(0, values.MAX_SECONDS * 1000))
def test_seconds_read_what_they_print(ms: int) -> None:
    value = Seconds.parse(ms / 1000)
    assert value.ns == ms * 1_000_000
    assert Seconds.parse(str(value)) == value


@given(st.integers(0, 2**63 - 1))
def test_bytes_read_what_they_print(size: int) -> None:
    assert Bytes.parse(str(Bytes(size))) == size


@given(st.sampled_from(["tcp", "udp"]), st.integers(1, 65535), st.integers(1, 65535))
def test_ports_read_what_they_print(proto: str, a: int, b: int) -> None:
    port = Port(proto, min(a, b), max(a, b))
    assert Port.parse(str(port)) == port
    span, _, _ = str(port).partition("/")
    assert Port.parse(f"{proto}/{span}") == port
    assert Port.parse(f"{span}/{proto.upper()}") == port


V4 = st.builds(
    lambda a, n: IPv4Network((a, n), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)
)
V6 = st.builds(
    lambda a, n: IPv6Network((a, n), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128)
)


@given(V4 | V6)
def test_networks_read_what_they_print(net: IPv4Network | IPv6Network) -> None:
    assert values.network(values.network_text(net)) == net


@pytest.mark.req("N15")
@given(V4 | V6)
def test_no_target_holds_an_address_no_cloud_can_have(net: IPv4Network | IPv6Network) -> None:
    """Against the standard library's own idea of these addresses, at both ends of the network."""
    try:
        read = values.target(str(net))
    except BadValue:
        assert values.unusable(net)
        return
    assert values.target_network(read) == net
    for end in (net.network_address, net.broadcast_address):
        kinds = (end.is_loopback, end.is_multicast, end.is_link_local, end.is_unspecified)
        assert not any(kinds)
        assert end != IPv4Address("255.255.255.255")


@pytest.mark.req("N15")
@pytest.mark.parametrize(
    "inside",
    [
        "127.0.0.1",
        "127.255.255.255",
        "::1",
        "224.0.0.251",
        "ff02::1",
        "0.0.0.0",
        "::",
        "169.254.1.1",
        "fe80::1",
        "255.255.255.255",
    ],
)
def test_no_prefix_around_such_an_address_is_a_target(inside: str) -> None:
    address = IPv6Address(inside) if ":" in inside else IPv4Address(inside)
    for length in (0, 1, 4, 8, 16, address.max_prefixlen):
        net = (IPv6Network if address.version == 6 else IPv4Network)((inside, length), strict=False)
        with pytest.raises(BadValue):
            values.target(str(net))


@pytest.mark.parametrize(
    ("given_", "canonical"),
    [
        ("Cloud.Example.COM.", "cloud.example.com"),
        ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("intranet", "intranet"),
        ("1password.example", "1password.example"),
        ("203.0.113.7/32", "203.0.113.7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:db8::/64", "2001:db8::/64"),
    ],
)
def test_targets(given_: str, canonical: str) -> None:
    assert values.target(given_) == canonical
    assert values.target(canonical) == canonical
    assert (values.target_network(canonical) is None) == canonical[-1].isalpha()


@pytest.mark.parametrize(
    ("given_", "printed"),
    [
        ("internet", "internet"),
        ("LAN", "lan"),
        ("router  53/udp", "router 53/udp"),
        ("10.0.0.5/32 tcp/5432", "10.0.0.5 5432/tcp"),
        ("2001:DB8::/32", "2001:db8::/32"),
    ],
)
def test_egress_rules(given_: str, printed: str) -> None:
    rule = EgressRule.parse(given_)
    assert str(rule) == printed
    assert EgressRule.parse(printed) == rule
    assert (rule.network is None) == (rule.to in ("internet", "router", "lan"))


@pytest.mark.parametrize("given_", ["net-bind-service", "CAP_NET_BIND_SERVICE", "net_bind_service"])
def test_capabilities(given_: str) -> None:
    assert values.capability(given_) == "net-bind-service"


def test_capabilities_are_numbered_as_the_kernel_does() -> None:
    """Three of linux/capability.h, and the last one this list knows."""
    numbers = {name: values.CAPABILITIES.index(name) for name in values.CAPABILITIES}
    assert len(numbers) == 41
    assert (numbers["chown"], numbers["net-bind-service"], numbers["sys-admin"]) == (0, 10, 21)
    assert numbers["checkpoint-restore"] == 40


@pytest.mark.parametrize("given_", ["root", "www-data", "1000", "1000:1000", "a.b:c$", "User"])
def test_users(given_: str) -> None:
    assert values.user(given_) == given_


PARSERS = [
    Seconds.parse,
    Bytes.parse,
    Port.parse,
    EgressRule.parse,
    values.name,
    values.interface,
    values.network,
    values.target,
    values.user,
    values.environment_key,
    values.absolute_path,
    values.capability,
    values.text,
]


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__qualname__)
@given(st.data())
def test_parsers_refuse_politely(parser: object, data: st.DataObject) -> None:
    """Whatever is given: a value that reads itself again, or BadValue with words."""
    assert callable(parser)
    near = st.text("0123456789abcdhmstuKMG.:/-[]% \n\0é", max_size=30)
    given_ = data.draw(NESTED | near)
    try:
        value = parser(given_)
    except BadValue:
        with pytest.raises(BadValue) as caught:
            parser(given_)
        assert all((caught.value.message, caught.value.fix))
    else:
        printed = values.network_text(value) if parser is values.network else str(value)
        assert parser(printed) == value
