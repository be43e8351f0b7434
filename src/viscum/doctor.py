"""What this box can do, and what on it stands in a service's way; each with the one command.

Nothing is changed (N18): what must be changed is the operator's to change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from viscum import names
from viscum.errors import InputError
from viscum.kernel import cgroup, director, netns, nft, sockets, sysctl
from viscum.spec import Spec

Level = Literal["ok", "warn", "fail"]

# Hooks a steered packet does not pass with `firewall = "bypass"`: the director comes first.
BYPASSED = ("prerouting", "forward", "postrouting")


class Finding(Struct, frozen=True):
    """fix: the command or step that mends it; "" where there is nothing to do."""

    level: Level
    what: str
    fix: str = ""


def examine(host: names.HostNames) -> list[Finding]:
    """Of the box as a whole."""
    return [
        *_tools(),
        *_directors(),
        *_groups(),
        *_forwarding(),
        *_firewall(),
        *_namespaces(),
        *_controller(host),
    ]


def of_service(spec: Spec) -> list[Finding]:
    """What `run` says beside the result: only what concerns this service."""
    found = [f for f in (*_forwarding(), *_egress(spec)) if f.level != "ok"]
    if spec.steer.firewall == "bypass":
        hooks = bypassed_hooks()
        if hooks:
            found.append(
                Finding(
                    "warn",
                    f"steered packets do not pass {', '.join(hooks)}",
                    'firewall = "honour" (--firewall honour) routes them through',
                )
            )
    return found


def bypassed_hooks() -> list[str]:
    """The operator's own base chains that steered packets do not pass, as "family table chain"."""
    return [
        f"{c.family} {c.table} {c.name} ({c.hook})"
        for c in _chains()
        if c.hook in BYPASSED and c.table != names.NFT_TABLE
    ] + [
        f"iptables-legacy {table}"
        for path in ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")
        for table in _lines(path)
    ]


def _chains() -> list[nft.Chain]:
    try:
        return nft.base_chains()
    except OSError:
        return []  # no nf_tables in this kernel: `_tools` says so


def _tools() -> Iterator[Finding]:
    from shutil import which

    if os.geteuid() != 0:
        yield Finding("fail", "not root", "sudo viscum doctor")
    if which("nft"):
        yield Finding("ok", "nft is there")
    else:
        yield Finding("fail", "nft is not installed", "apt-get install nftables")


def _controller(host: names.HostNames) -> Iterator[Finding]:
    """There need be none."""
    pid = sockets.holder(host.controller)
    if pid is not None:
        yield Finding("ok", f"a controller looks after this host (pid {pid})")
    else:
        yield Finding("ok", "no controller: servers that end are not started again")


def _directors() -> Iterator[Finding]:
    for name in (director.DEFAULT, *director.PLANNED):
        try:
            missing = director.get(name).missing()
        except InputError as error:
            missing = error.problems[0].message
        if missing is None:
            yield Finding("ok", f"director {name} works here")
        else:
            yield Finding("fail" if name == "ebpf" else "warn", f"director {name}: {missing}")


def _groups() -> Iterator[Finding]:
    try:
        available = cgroup.available()
    except OSError as error:
        yield Finding("fail", f"control groups: {error}", "mount -t cgroup2 none /sys/fs/cgroup")
        return
    for controller in ("cpu", "memory", "pids"):
        if controller in available:
            yield Finding("ok", f"{controller} can be limited")
        else:
            yield Finding("warn", f"no {controller} controller: such a limit is refused")


def _forwarding() -> Iterator[Finding]:
    switches = {"IPv4": "net.ipv4.ip_forward", "IPv6": "net.ipv6.conf.all.forwarding"}
    for version, key in switches.items():
        try:
            on = sysctl.read(key) != "0"
        except OSError:
            continue
        if on:
            yield Finding("ok", f"{version} is forwarded")
        else:
            yield Finding(
                "warn",
                f"{version} is not forwarded: this box is no router for it, and replies and the "
                "server's own connections do not leave",
                f"sysctl -w {key}=1",
            )


def _firewall() -> Iterator[Finding]:
    hooks = bypassed_hooks()
    if hooks:
        yield Finding(
            "warn",
            f'with firewall = "bypass" steered packets do not pass {", ".join(hooks)}',
            'firewall = "honour" in the spec routes them through',
        )
    yield from _dropping()


def _egress(spec: Spec) -> Iterator[Finding]:
    honour = spec.steer.firewall == "honour"
    if spec.egress.allow or honour:
        yield from _dropping(honour=honour)


COMMENT = "viscum"  # of the rules below, by which they are found again


def _dropping(*, honour: bool = False) -> Iterator[Finding]:
    """Forward policies of drop that no rule of the operator's opens to services.

    What services send is held by our own table, so the operator's may accept all of it, first.
    What clients send to them (with `honour`) must come after the rules that drop clients.
    """
    dropping = [
        c
        for c in _chains()
        if c.hook == "forward" and c.policy == "drop" and c.table != names.NFT_TABLE
    ]
    if not dropping:
        return
    there = {(r.family, r.table, r.chain, r.comment) for r in nft.rules()}
    link = f'"{names.LINK_PREFIX}*"'
    for c in dropping:
        key = (c.family, c.table, c.name)
        name = " ".join(key)
        comment = f'comment "{COMMENT}"'
        if (*key, COMMENT) not in there:
            yield Finding(
                "warn",
                f"the chain {name} drops what it does not accept, also what servers send to the "
                "Internet",
                f"nft insert rule {name} iifname {link} accept {comment}; nft insert rule {name} "
                f"oifname {link} ct state established,related accept {comment}",
            )
        if honour and (*key, f"{COMMENT}-honour") not in there:
            yield Finding(
                "warn",
                f'the chain {name} drops what it does not accept, also what firewall = "honour" '
                "lets clients send to servers",
                f'nft add rule {name} oifname {link} accept comment "{COMMENT}-honour" (after '
                "the rules that drop clients)",
            )


def _namespaces() -> Iterator[Finding]:
    if netns.is_private_mount_namespace():
        yield Finding(
            "fail",
            "this shell has a mount namespace of its own, as `ip netns exec` makes",
            "nsenter --net=/run/netns/NAME viscum …",
        )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().split()
    except OSError:
        return []
