"""A tenant's file: what it owns, and what it may use. Read and documented as a spec is."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

from viscum.model import Address, Network
from viscum.names import MAX_INTERFACES
from viscum.spec import values
from viscum.spec.types import Interface, Net, Path, Rule, Size, Text
from viscum.spec.values import BadValue, Bytes, EgressRule, Kind


def _prefix(value: object) -> Network:
    """A prefix that can be owned: nothing in it is loopback, link-local, multicast, …"""
    given = values.network(value)
    if why := values.unusable(given):
        raise BadValue(why, "name the prefix of the tenant's cloud servers")
    return given


def _domain(value: object) -> str:
    """A name of two labels or more; the name itself and all below it are meant."""
    given = values.text(value)
    name = values.target(given.removeprefix("*."))
    if values.target_network(name) is not None:
        raise BadValue("is an address", "write it in targets")
    if "." not in name:
        raise BadValue("is a whole top-level domain", "name the tenant's own domain in it")
    return name


Prefix: TypeAlias = Annotated[Network, Kind("prefix", _prefix, "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$")]
Domain: TypeAlias = Annotated[str, Kind("domain", _domain, r"^(\*\.)?[0-9A-Za-z.-]+$")]


class Quotas(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """The most that the tenant's services may have together. Of cpu, memory and processes every
    instance of every generation counts, also of one that drains; a service without `limits.cpu` is
    refused where there is a quota of it (memory and processes have defaults in a sandbox)."""

    services: Annotated[
        int,
        Meta(
            description="Services, running, stopped or kept for the next boot.",
            examples=[5],
            ge=0,
            le=4096,
        ),
    ] = 10
    cpu: Annotated[
        float | None,
        Meta(description="CPU cores; none given: no quota.", examples=[2.0], ge=0.01, le=4096),
    ] = None
    memory: Annotated[
        Size | None,
        Meta(description="Memory; none given: no quota.", examples=["512M"], ge=2**20),
    ] = None
    processes: Annotated[
        int | None,
        Meta(
            description="Processes and threads; none given: no quota.",
            examples=[256],
            ge=1,
            le=2**22,
        ),
    ] = None
    flows: Annotated[
        int | None,
        Meta(
            description="Flows at a time; at so many new ones go to the cloud, none is cut. None "
            "given: no quota.",
            examples=[5000],
            ge=1,
        ),
    ] = None
    log: Annotated[
        Size,
        Meta(description="limits.log of each service.", examples=["4M"], ge=4096),
    ] = Bytes(4 * 2**20)


class Tenant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Whatever is not granted here is refused."""

    name: Annotated[
        Text, Meta(description="The file's name, without .toml; 1 to 16 of a-z and 0-9.")
    ] = ""
    description: Annotated[Text, Meta(description="For people.")] = ""
    targets: Annotated[
        tuple[Prefix, ...],
        Meta(
            description="Prefixes of its cloud servers: nothing else is steered for it.",
            examples=[["203.0.113.0/28", "2001:db8:7::/48"]],
            extra_json_schema={"uniqueItems": True},
        ),
    ] = ()
    domains: Annotated[
        tuple[Domain, ...],
        Meta(
            description="Its domains, each with all below it. What a name resolves to has to lie "
            "in `targets` all the same.",
            examples=[["acme.example"]],
            extra_json_schema={"uniqueItems": True},
        ),
    ] = ()
    domains_anywhere: Annotated[
        bool,
        Meta(
            description="Whether its names may lead to any address. Whoever answers for the "
            "domain then says whose packets are steered to the tenant."
        ),
    ] = False
    interfaces: Annotated[
        tuple[Interface, ...],
        Meta(
            description="Where its services may steer.",
            examples=[["wlan0"]],
            extra_json_schema={"uniqueItems": True},
            max_length=4 * MAX_INTERFACES,
        ),
    ] = ()
    clients: Annotated[
        tuple[Net, ...],
        Meta(
            description="Whose packets it may steer; none given: everybody's on its interfaces.",
            examples=[["10.1.0.0/16"]],
            extra_json_schema={"uniqueItems": True},
        ),
    ] = ()
    pool: Annotated[
        Net | None,
        Meta(
            description="A part of the host's IPv4 pool from which only its instances get their "
            "own addresses; none given: from what is nobody's.",
            examples=["100.127.200.0/24"],
        ),
    ] = None
    egress: Annotated[
        tuple[Rule, ...],
        Meta(
            description="What its services may name in egress.allow, or parts of it.",
            examples=[["internet", "10.0.0.5 5432/tcp"]],
            extra_json_schema={"uniqueItems": True},
        ),
    ] = (EgressRule("internet"),)
    firewall: Annotated[
        Literal["any", "honour"],
        Meta(description="honour: its services can't bypass the router's forward rules."),
    ] = "any"
    drop: Annotated[
        bool,
        Meta(
            description='Whether its services may say when-down = "drop". Such a service gives way '
            "neither to the load guard nor to the quota of flows."
        ),
    ] = False
    roots: Annotated[
        tuple[Path, ...],
        Meta(
            description="Root file systems it may name in run.root, and only exactly these.",
            examples=[["/srv/acme/root"]],
            extra_json_schema={"uniqueItems": True},
        ),
    ] = ()
    priority: Annotated[
        int,
        Meta(description="The highest `priority` of its services.", examples=[30], ge=0, le=100),
    ] = 50
    quotas: Annotated[Quotas, Meta(description="The most its services may have.")] = field(
        default_factory=Quotas
    )

    def owns_prefix(self, network: Network) -> bool:
        """Whether every address of `network` is in one of its target prefixes."""
        return any(contains(owned, network) for owned in self.targets)

    def owns_name(self, name: str) -> bool:
        """Whether a host name (canonical, as a spec has it) is one of its domains or below one."""
        return any(name == d or name.endswith(f".{d}") for d in self.domains)

    def allows(self, address: Address | str) -> bool:
        """Whether an address that one of its own names resolved to may be steered to it.

        For what is learned after a spec was admitted; that the name is the tenant's own is
        checked where the spec is. Never a special address, nor what is beyond the allowance.
        """
        at = ip_address(address)
        if isinstance(at, IPv6Address) and at.ipv4_mapped is not None:
            at = at.ipv4_mapped
        if isinstance(at, IPv6Address) and at.scope_id:
            return False
        network = ip_network(at)
        if values.unusable(network):
            return False
        return self.domains_anywhere or self.owns_prefix(network)


def contains(outer: Network, inner: Network) -> bool:
    """Whether all of `inner` lies in `outer`."""
    return (
        outer.version == inner.version
        and outer.prefixlen <= inner.prefixlen
        and outer.overlaps(inner)
    )
