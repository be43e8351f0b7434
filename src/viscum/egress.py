"""What a service's own packets may reach: the text of our nft table. Pure.

Design §5: the Internet yes; the router's own addresses, its LANs, other services and source
addresses that are not the instance's own no, unless allowed. The table is ours alone and replaced
whole in one transaction. It can deny but not grant: an operator's forward policy of drop wins.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from viscum import names
from viscum.model import Address, Network
from viscum.spec.values import EgressRule

# A sandboxed service's new connections in a second, and at once. Each is an entry in the router's
# connection tracking, which is of one size for all its clients: without a limit one service fills
# it in seconds. Packets that exceed it are dropped before there is an entry.
NEW_RATE, NEW_BURST = 100, 200


class EgressInstance(Struct, frozen=True):
    """One instance: its host-side link, its own addresses, and what its spec allows."""

    link: str
    label: str  # service/generation.instance
    own: tuple[Address, ...]
    targets: tuple[Network, ...]
    allow: tuple[EgressRule, ...]
    honour: bool  # replies from the targets' addresses go through the stack
    sandboxed: bool = False  # new connections at a limited rate only


def ruleset(
    instances: Iterable[EgressInstance],
    lan: Iterable[Network],
    pools: Iterable[Network],
    links: Iterable[str] = (),
) -> str:
    """The table as nft reads it, with its digest as comment; "" when there is nothing to hold.

    links: where no Internet is; by name, since addresses may come to them later.
    The first lines make the replacement one transaction whether or not the table exists.
    """
    instances = sorted(instances, key=lambda i: int(i.link.removeprefix(names.LINK_PREFIX)))
    if not instances:
        return ""
    lan = sorted(lan, key=str)
    body = "\n".join(
        [
            *_set("lan4", "ipv4_addr", (n for n in lan if n.version == 4)),
            *_set("lan6", "ipv6_addr", (n for n in lan if n.version == 6)),
            *_set("lans", "ifname", (f'"{name}"' for name in sorted(links)), ""),
            *(line for i in instances for line in _instance_chain(i)),
            *(ZONE if any(i.honour for i in instances) else ()),
            "  chain input {",
            "    type filter hook input priority filter - 5; policy accept;",
            *(f'    iifname "{i.link}" jump {i.link}-router' for i in instances),
            "  }",
            "  chain forward {",
            "    type filter hook forward priority filter - 5; policy accept;",
            *(f'    iifname "{i.link}" jump {i.link}' for i in instances),
            # Towards a service: replies to what it sent, and flows steered by mark; nothing else.
            *(f'    oifname "{i.link}" jump to-service' for i in instances),
            "  }",
            "  chain to-service {",
            f"    meta mark & {names.MARK_MASK:#x} == {names.MARK:#x} accept",
            "    ct state established,related accept",
            "    drop",
            "  }",
            "  chain postrouting {",
            "    type nat hook postrouting priority srcnat - 5; policy accept;",
            *(f"    {_ip(p.version)} saddr {p} masquerade" for p in pools),
            "  }",
        ]
    )
    import hashlib  # loads OpenSSL: 5 ms, and `ls` needs none of it

    digest = hashlib.sha256(body.encode()).hexdigest()[:16]
    table = f"inet {names.NFT_TABLE}"
    return (
        f"add table {table}\ndelete table {table}\n"
        f'table {table} {{\n  comment "{digest}"\n{body}\n}}\n'
    )


# The router tracks what is steered by mark in a zone of its own: when a server has died the same
# 5-tuple goes to the cloud, and has to be masqueraded there, which is decided once per entry.
ZONE = (
    "  chain zone {",
    "    type filter hook prerouting priority raw; policy accept;",
    f"    meta mark & {names.MARK_MASK:#x} == {names.MARK:#x} ct zone set {names.CT_ZONE}",
    "  }",
)


def digest(text: str) -> str | None:
    """The digest a ruleset carries as its table's comment; None for ""."""
    return text.split('comment "', 1)[1].split('"', 1)[0] if text else None


def _ip(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _set(
    name: str, kind: str, elements: Iterable[object], flags: str = " flags interval; auto-merge;"
) -> list[str]:
    listed = ", ".join(str(e) for e in elements)
    return [
        f"  set {name} {{",
        f"    type {kind};{flags}",
        *([f"    elements = {{ {listed} }}"] if listed else []),
        "  }",
    ]


def _instance_chain(i: EgressInstance) -> list[str]:
    """`vsN` judges what the instance sends onwards, `vsN-router` what it sends to the router."""
    own = [f"    {_ip(a.version)} saddr {a} goto {i.link}-own" for a in i.own]
    replies = []
    if i.honour:
        replies = [f"    {_ip(t.version)} saddr {t} ct state established,related accept"
                   for t in i.targets]  # fmt: skip
    # "internet" ends with a verdict for everything, so it comes after what else is allowed.
    rules = sorted(i.allow, key=lambda rule: rule.to == "internet")
    router = [f"    {_port(rule)}accept" for rule in i.allow if rule.to == "router"]
    allowed = [line for rule in rules for line in _allow(rule)]
    limit = f"ct state new limit rate over {NEW_RATE}/second burst {NEW_BURST} packets drop"
    sparing = [f"    {limit}"] if i.sandboxed else []
    return [
        f"  chain {i.link} {{ # {i.label}",
        *replies,
        *own,
        "    drop",
        "  }",
        f"  chain {i.link}-own {{",
        *sparing,
        *allowed,
        "    drop",
        "  }",
        f"  chain {i.link}-router {{",
        "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept",
        # What answers the router (an operator's curl to the service) is not an attempt of its own.
        "    tcp flags & (syn | ack) != syn accept",
        *(sparing if router else ()),
        *router,
        "    drop",
        "  }",
    ]


def _port(rule: EgressRule) -> str:
    if rule.port is None:
        return ""
    span = f"{rule.port.first}-{rule.port.last}"
    return f"{rule.port.proto} dport {span} "


def _allow(rule: EgressRule) -> list[str]:
    """What leaves by another interface; the router itself is the input hook's matter."""
    port = _port(rule)
    if rule.to == "router":
        return []
    if rule.to == "lan":
        return [
            *(f"    {ip} daddr @{lan} {port}accept" for ip, lan in LANS),
            f"    oifname @lans {port}accept",
        ]
    if rule.to == "internet":
        return [
            f'    oifname "{names.LINK_PREFIX}*" drop',
            *(f"    {ip} daddr @{lan} drop" for ip, lan in LANS),
            "    oifname @lans drop",
            f"    {port}accept",
        ]
    version = 6 if ":" in rule.to else 4
    return [f"    {_ip(version)} daddr {rule.to} {port}accept"]


LANS = (("ip", "lan4"), ("ip6", "lan6"))
