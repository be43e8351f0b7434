"""The steps a plan is made of: frozen data that describes itself, prints itself as shell, acts.

Each is idempotent (a step half done by a killed command is completed by doing it again) and looks
at nothing the plan has looked at already. `shell()` gives the equivalent commands for a person or
a test; `viscum` itself never runs them.
"""

from __future__ import annotations

from ipaddress import ip_interface
from shlex import join, quote
from typing import Literal, Protocol

from msgspec import Struct

from viscum import names
from viscum.model import HostRoute, HostRule, Inner, InnerRoute, InnerRule
from viscum.spec import Limits, Run


class Op(Protocol):
    def describe(self) -> str:
        """What it does, in a few words, for a plan and for the error when it fails."""
        ...

    def shell(self) -> tuple[str, ...]:
        """The same as commands of ip, tc, nft, bpftool, sysctl and the shell."""
        ...

    def apply(self) -> None:
        """Does it. Raises OSError or ViscumError."""
        ...


class CreateNamespace(Struct, frozen=True):
    name: str

    def describe(self) -> str:
        return f"create network namespace {self.name}"

    def shell(self) -> tuple[str, ...]:
        return (f"ip netns add {self.name}",)

    def apply(self) -> None:
        import os

        from viscum.kernel import netns

        os.close(netns.create(self.name))


class NameNamespace(Struct, frozen=True):
    """Somebody has deleted the name of a namespace in which a server still runs."""

    name: str
    cgroup: str
    slot: int

    def describe(self) -> str:
        return f"name the network namespace of {self.cgroup} {self.name} again"

    def shell(self) -> tuple[str, ...]:
        from viscum.kernel import commands

        return tuple(commands.name_again(self.name, self.cgroup))

    def apply(self) -> None:
        from viscum.kernel import service

        service.name_again(self.name, self.cgroup, names.number(self.slot))


class ConnectLink(Struct, frozen=True):
    """The veth pair between host and namespace, with the slot's ids and addresses."""

    netns: str
    slot: int
    alias: str
    mtu: int
    addresses: tuple[str, ...]  # the host's, with prefix length
    own: tuple[str, ...]  # the instance's, in the same order

    def describe(self) -> str:
        return f"connect {names.link(self.slot)} to {self.netns} (mtu {self.mtu})"

    def shell(self) -> tuple[str, ...]:
        link, number = names.link(self.slot), names.number(self.slot)
        ours, theirs = names.mac(self.slot, False), names.mac(self.slot, True)
        inside = f"ip -n {self.netns}"
        return (
            f"ip netns set {self.netns} {number}",
            (
                f"ip link add {link} index {number} mtu {self.mtu} address {ours} type veth"
                f" peer name {names.INNER_LINK} mtu {self.mtu} address {theirs}"
                f" netns {self.netns}"
            ),
            f"ip link set {link} alias {quote(self.alias)}",
            f"sysctl -qw net.ipv4.conf.{link}.rp_filter=0 net.ipv4.conf.{link}.src_valid_mark=1",
            f"ip link set {link} up",
            f"{inside} link set {names.INNER_LINK} arp off up",
            *(
                f"{inside} neigh replace {a.partition('/')[0]} lladdr {ours} nud permanent"
                f" dev {names.INNER_LINK}"
                for a in self.addresses
            ),
            *(f"ip neigh replace {a} lladdr {theirs} nud permanent dev {link}" for a in self.own),
            *(f"ip addr add {a} dev {link}{_nodad(a)}" for a in self.addresses),
        )

    def apply(self) -> None:
        from viscum.kernel import link, netns

        with netns.opened(self.netns) as fd:
            link.connect(fd, self.slot, self.alias, self.mtu, self.addresses, self.own)


class SetMtu(Struct, frozen=True):
    """Errors the access point itself makes about a path must reach the server: least MTU (§4.4)."""

    netns: str
    link: str
    mtu: int

    def describe(self) -> str:
        return f"set the mtu of {self.link} to {self.mtu}"

    def shell(self) -> tuple[str, ...]:
        return (
            f"ip link set {self.link} mtu {self.mtu}",
            f"ip -n {self.netns} link set {names.INNER_LINK} mtu {self.mtu}",
        )

    def apply(self) -> None:
        from viscum.kernel import link, netns

        with netns.opened(self.netns) as fd:
            link.set_mtu(self.link, fd, self.mtu)


INNER_SYSCTLS = {
    # Replies come from targets' addresses that the namespace's own routes send elsewhere (§5).
    "net.ipv4.conf.all.rp_filter": "0",
    f"net.ipv4.conf.{names.INNER_LINK}.rp_filter": "0",
    # What the server sends from a target's address is no reason to ask for neighbours as that.
    "net.ipv4.conf.all.arp_announce": "2",
    # An address inside a target prefix is the server's although no link carries it.
    "net.ipv4.ip_nonlocal_bind": "1",
    "net.ipv6.ip_nonlocal_bind": "1",
    # A server without capabilities may listen on 80: nobody else's ports are in this namespace.
    "net.ipv4.ip_unprivileged_port_start": "0",
    f"net.ipv6.conf.{names.INNER_LINK}.accept_ra": "0",
}


class ConfigureNamespace(Struct, frozen=True):
    """Makes addresses, rules and routes inside what they should be: only the differences."""

    netns: str
    want: Inner
    have: Inner

    def describe(self) -> str:
        changes = self._changes()
        return (
            f"configure {self.netns}: "
            + "; ".join(changes[:6])
            + (f"; and {len(changes) - 6} more" if len(changes) > 6 else "")
        )

    def shell(self) -> tuple[str, ...]:
        sysctls = " ".join(f"{k}={v}" for k, v in INNER_SYSCTLS.items())
        return (
            f"nsenter --net={names.NETNS_DIR}/{self.netns} sysctl -qw {sysctls}",
            *(f"ip -n {self.netns} {change}" for change in self._changes()),
        )

    def apply(self) -> None:
        from viscum.kernel import link, netns

        with netns.opened(self.netns) as fd:
            link.configure(fd, self.want, self.have, INNER_SYSCTLS)

    def _changes(self) -> list[str]:
        """In `ip` syntax, in the order they are made: additions before what they replace."""
        want, have = self.want, self.have
        return [
            *(f"link set {name} up" for name in sorted(want.up - have.up)),
            *(f"addr add {a} dev {dev}{_nodad(a)}" for dev, a in _sorted(want, have)),
            *(_rule("add", r) for r in sorted(want.rules - have.rules, key=str)),
            *(_rule("del", r) for r in sorted(have.rules - want.rules, key=str)),
            *(_route("replace", r) for r in sorted(want.routes - have.routes, key=_gateway_last)),
            *(_route("del", r) for r in sorted(have.routes - want.routes, key=str)),
            *(f"addr del {a} dev {dev}" for dev, a in _sorted(have, want)),
        ]


class ChangeRule(Struct, frozen=True):
    """A routing rule of ours on the host, for `firewall = "honour"`."""

    verb: Literal["add", "del"]
    rule: HostRule

    def describe(self) -> str:
        r = self.rule
        return f"{self.verb} the rule for packets marked {r.fwmark:#x} from {r.iif}"

    def shell(self) -> tuple[str, ...]:
        r = self.rule
        return (
            (
                f"ip {_family(r.family)}rule {self.verb} pref {r.pref} fwmark {r.fwmark:#x}"
                f" iif {quote(r.iif)} lookup {r.table} protocol {names.PROTO}"
            ),
        )

    def apply(self) -> None:
        from viscum.kernel import link

        link.change_host_rule(self.verb, self.rule)


class ChangeRoute(Struct, frozen=True):
    """The way of marked packets into a service's link, for `firewall = "honour"`."""

    verb: Literal["add", "del"]
    route: HostRoute

    def describe(self) -> str:
        r = self.route
        return f"{self.verb} default via {r.via} dev {r.oif} in table {r.table}"

    def shell(self) -> tuple[str, ...]:
        r = self.route
        return (
            (
                f"ip {_family(r.family)}route {self.verb} default via {r.via} dev {r.oif}"
                f" table {r.table} proto {names.PROTO}"
            ),
        )

    def apply(self) -> None:
        from viscum.kernel import link

        link.change_host_route(self.verb, self.route)


class Nft(Struct, frozen=True):
    """Replaces our own nft table as a whole, in one transaction ("" takes it away)."""

    text: str

    def describe(self) -> str:
        return f"{'set' if self.text else 'delete'} nft table inet {names.NFT_TABLE}"

    def shell(self) -> tuple[str, ...]:
        if not self.text:
            return (f"nft delete table inet {names.NFT_TABLE}",)
        return (f"nft -f - <<'END'\n{self.text}END",)

    def apply(self) -> None:
        from viscum.kernel import nft

        if self.text:
            nft.apply(self.text)
        else:
            nft.delete_table("inet", names.NFT_TABLE)


class StartProcess(Struct, frozen=True):
    service: str
    label: str  # generation.instance
    netns: str
    cgroup: str
    command: tuple[str, ...]
    run: Run
    limits: Limits
    log: str
    hide: tuple[str, ...]  # directories not for the server's eyes
    own: tuple[str, ...] = ()  # its own addresses, for /etc/hosts
    uid: int = 0  # whom it runs as in a strict sandbox
    foreground: bool = False  # stays a child of the calling process

    def describe(self) -> str:
        return f"start {join(self.command)} in {self.netns}"

    def shell(self) -> tuple[str, ...]:
        from viscum.kernel import commands

        return tuple(commands.start(self))

    def apply(self) -> None:
        from viscum.kernel import service

        service.start(self)


class SetLimits(Struct, frozen=True):
    cgroup: str
    limits: Limits

    def describe(self) -> str:
        given = {
            "cpu": self.limits.cpu,
            "memory": self.limits.memory,
            "processes": self.limits.processes,
        }
        words = ", ".join(f"{k} {v}" for k, v in given.items() if v is not None) or "none"
        return f"set the limits of {self.cgroup}: {words}"

    def shell(self) -> tuple[str, ...]:
        from viscum.kernel import commands

        return tuple(commands.limit_group(self.cgroup, self.limits))

    def apply(self) -> None:
        from viscum.kernel.cgroup import Group

        limits = self.limits
        Group(self.cgroup).set_limits(
            cpu=limits.cpu, memory=limits.memory, processes=limits.processes
        )


class StopProcess(Struct, frozen=True):
    """SIGTERM to the server, SIGKILL to what is left of its cgroup after `timeout` seconds."""

    cgroup: str
    timeout: float

    def describe(self) -> str:
        return f"stop the processes of {self.cgroup}"

    def shell(self) -> tuple[str, ...]:
        from viscum.kernel import commands

        return tuple(commands.end_group(self.cgroup))

    def apply(self) -> None:
        from viscum.kernel import service

        service.stop(self.cgroup, self.timeout)


class DeleteLink(Struct, frozen=True):
    link: str

    def describe(self) -> str:
        return f"delete {self.link}"

    def shell(self) -> tuple[str, ...]:
        return (f"ip link del {self.link}",)

    def apply(self) -> None:
        from viscum.kernel import link

        link.delete(self.link)


class DeleteNamespace(Struct, frozen=True):
    name: str

    def describe(self) -> str:
        return f"delete network namespace {self.name}"

    def shell(self) -> tuple[str, ...]:
        return (f"ip netns del {self.name}",)

    def apply(self) -> None:
        from viscum.kernel import netns

        netns.delete(self.name)


def _nodad(address: str) -> str:
    return " nodad" if ":" in address else ""


def _family(family: int) -> str:
    return "" if family == 4 else "-6 "


def _sorted(more: Inner, less: Inner) -> list[tuple[str, str]]:
    return sorted(more.addresses - less.addresses, key=lambda a: (a[0], ip_interface(a[1]).version))


def _gateway_last(route: InnerRoute) -> tuple[bool, str]:
    return route.via is not None, str(route)


def _rule(verb: str, r: InnerRule) -> str:
    iif = f" iif {r.iif}" if r.iif else ""
    return f"{_family(r.family)}rule {verb} pref {r.pref}{iif} lookup {r.table}"


def _route(verb: str, r: InnerRoute) -> str:
    words = ["route", verb]
    if r.local:
        words += ["local", str(r.dst), "dev", "lo"]
    else:
        words += [str(r.dst or "default"), "via", str(r.via)]
    if r.src:
        words += ["src", str(r.src)]
    return _family(r.family) + " ".join([*words, "table", str(r.table), "proto", "static"])
