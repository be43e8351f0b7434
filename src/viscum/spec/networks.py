"""The values of a spec that are about the network: interfaces, ports, targets, egress rules."""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from msgspec import Struct

from viscum.model import Network
from viscum.spec.scalars import ALNUM, DIGITS, BadValue, did_you_mean, kind_of, shown, text, word_of


def interface(value: object) -> str:
    """A network interface's name, by the kernel's rule (dev_valid_name): 1 to 15 bytes."""
    word = word_of(value, "an interface name", "wlan0")
    if len(word.encode()) > 15:
        raise BadValue("is longer than 15 bytes", "copy the name from `ip link`")
    if "/" in word or ":" in word or word in (".", ".."):
        raise BadValue("is not an interface name ('/' and ':' can't be)", "see `ip link`")
    if word.startswith("-"):
        raise BadValue("begins with '-'", "copy the name from `ip link`")
    return word


# ---- ports -----------------------------------------------------------------------------------


class Port(Struct, frozen=True, order=True):
    """Ports `first` to `last` (inclusive) of `proto`, "tcp" or "udp"."""

    proto: str
    first: int
    last: int

    @classmethod
    def parse(cls, value: object) -> Port:
        """Reads '443/tcp', 'tcp/443', '8000-8010/udp'."""
        fix = 'write for example "443/tcp", "443/udp" or "8000-8010/tcp"'
        if isinstance(value, int) and not isinstance(value, bool):
            number = shown(value)
            raise BadValue("has no protocol", f'write "{number}/tcp" or "{number}/udp"')
        if not isinstance(value, str):
            raise BadValue(f"must be a string, not {kind_of(value)}", fix)
        left, slash, right = value.lower().partition("/")
        span, proto = (right, left) if left[:1].isalpha() else (left, right)
        first, dash, last = span.partition("-")
        ends = [int(end) for end in (first, last if dash else first) if _is_number(end)]
        if len(ends) != 2:
            raise BadValue("is not a port", fix)
        if not slash:
            raise BadValue("has no protocol", f'write "{span}/tcp" or "{span}/udp"')
        if proto not in ("tcp", "udp"):
            raise BadValue("has a protocol other than tcp and udp", fix)
        if not 1 <= min(ends) <= max(ends) <= 65535:
            raise BadValue("is not between 1 and 65535", fix)
        if ends[0] > ends[1]:
            raise BadValue("is an empty range", f'write "{ends[1]}-{ends[0]}/{proto}"')
        return cls(proto, ends[0], ends[1])

    def __str__(self) -> str:
        span = f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"
        return f"{span}/{self.proto}"

    @property
    def number(self) -> int:
        """IP protocol number."""
        return 6 if self.proto == "tcp" else 17


def _is_number(digits: str) -> bool:
    return 0 < len(digits) < 10 and DIGITS.issuperset(digits)


# ---- networks and targets --------------------------------------------------------------------


def network(value: object) -> Network:
    """An address (as /32 or /128) or a prefix; host bits and zone ids are refused."""
    word = word_of(value, "an address or prefix", "10.1.0.0/16")
    if "%" in word:
        raise BadValue("has a zone id", f"write {word.partition('%')[0]} without it")
    address, slash, length = word.partition("/")
    try:
        base = ip_address(address)
        bits = int(length) if slash else base.max_prefixlen
        if slash and not (_is_number(length) and bits <= base.max_prefixlen):
            raise ValueError
    except ValueError:
        raise BadValue(
            "is not an address or prefix", "write for example 10.1.0.0/16 or 2001:db8::7"
        ) from None
    net = ip_network((base, bits), strict=False)
    if net.network_address != base:
        raise BadValue(
            f"has bits set beyond its /{bits}", f"write {net}, or {address} for the one address"
        )
    if isinstance(net, IPv6Network) and bits >= 96 and net.network_address.ipv4_mapped:
        mapped = IPv4Network((net.network_address.ipv4_mapped, bits - 96))
        raise BadValue("is an IPv4 address in IPv6 clothes", f"write {network_text(mapped)}")
    return net


def network_text(net: Network) -> str:
    """Canonical: a host without its /32 or /128."""
    return str(net.network_address) if net.prefixlen == net.max_prefixlen else str(net)


_UNUSABLE: Final = (  # what no cloud service can have; RFC 6890
    ("0.0.0.0/32", "the unspecified address"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::/128", "the unspecified address"),
    ("::1/128", "loopback"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
)


@cache
def _unusable_networks() -> tuple[tuple[Network, str], ...]:
    return tuple((ip_network(prefix), what) for prefix, what in _UNUSABLE)


def unusable(net: Network) -> str | None:
    """Why `net` can't be a target: it is, or has in it, one of the addresses of `_UNUSABLE`."""
    for other, what in _unusable_networks():
        if other.version == net.version and net.overlaps(other):
            whole = net.prefixlen >= other.prefixlen
            return f"is {what}" if whole else f"contains {what} ({network_text(other)})"
    return None


def target(value: object) -> str:
    """An address, a prefix, or a host name (RFC 1123), in canonical form."""
    word = word_of(value, "an address or a name", "cloud.example.com")
    if "://" in word:
        host = word.split("://", 1)[1].split("/", 1)[0]
        raise BadValue("is a URL", f"write only the name: {host or 'cloud.example.com'}")
    if _looks_numeric(word):
        net = network(word.removeprefix("[").removesuffix("]"))
        if why := unusable(net):
            raise BadValue(why, "write the public address of the cloud service")
        return network_text(net)
    return _hostname(word)


def target_network(given: str) -> Network | None:
    """The network of a canonical target; None for a name, which has to be resolved."""
    return network(given) if _looks_numeric(given) else None


def _looks_numeric(word: str) -> bool:
    """Whether it can only be meant as an address: ':', '/' or an all-digit last label."""
    if "/" in word or word.count(":") > 1 or word.startswith("["):
        return True
    last = word.rstrip(".").rpartition(".")[2]
    return DIGITS.issuperset(last) and bool(last)


def _hostname(word: str) -> str:
    host = word.removesuffix(".").lower()
    fix = "write a name such as cloud.example.com"
    if ":" in host:
        raise BadValue("has a port in it", 'write ports in steer.ports, as "443/tcp"')
    if not host.isascii():
        try:
            fix = f"write {host.encode('idna').decode()}"
        except UnicodeError:
            pass
        raise BadValue("is not ASCII; names are sent in punycode", fix)
    if not host or len(host) > 253:
        raise BadValue("is not 1 to 253 characters long", fix)
    for label in host.split("."):
        if not label or len(label) > 63:
            raise BadValue("has a part that is empty or longer than 63 characters", fix)
        if label[0] == "-" or label[-1] == "-" or not ALNUM.issuperset(label.replace("-", "")):
            raise BadValue(f"has the part {label!r}, which no host name can have", fix)
    if host == "localhost" or host.endswith(".localhost"):
        raise BadValue("is loopback", "write the public name of the cloud service")
    return host


# ---- egress ----------------------------------------------------------------------------------


class EgressRule(Struct, frozen=True):
    """Where the service may connect to: a place ("internet", "router", "lan") or a network."""

    to: str
    port: Port | None = None

    PLACES = ("internet", "router", "lan")

    @classmethod
    def parse(cls, value: object) -> EgressRule:
        """Reads 'internet', 'lan', '10.0.0.0/8', '10.0.0.5 5432/tcp', 'router 53/udp'."""
        fix = 'write "internet", "router", "lan" or a prefix, and maybe a port: "10.0.0.5 53/udp"'
        words = text(value).split()
        if not 1 <= len(words) <= 2:
            raise BadValue("is not an egress rule", fix)
        to = words[0].lower()
        if to not in cls.PLACES:
            if to[0] not in DIGITS and ":" not in to:
                raise BadValue("is not a place or a prefix", did_you_mean(to, cls.PLACES, fix))
            to = network_text(network(to))
        return cls(to, Port.parse(words[1]) if len(words) == 2 else None)

    def __str__(self) -> str:
        return f"{self.to} {self.port}" if self.port else self.to

    @property
    def network(self) -> Network | None:
        """None if `to` is a place."""
        return None if self.to in self.PLACES else network(self.to)
