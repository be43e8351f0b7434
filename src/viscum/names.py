"""Every name and number by which an object is recognised as ours, in one place.

A host (one access point's worth of Viscum) is told apart from another on the same machine by its
state directory; inside a host every instance has a slot, and all its names follow from that.
"""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from msgspec import Struct

DEFAULT_STATE_DIR = "/run/viscum"
CONFIG_DIR = "/etc/viscum"
NETNS_DIR = "/run/netns"

MAX_SLOTS = 4096
MAX_GENERATIONS = 4  # newest first; viscum.h V_MAX_GENERATIONS
MAX_INSTANCES = 8  # per generation; viscum.h V_MAX_INSTANCES
MAX_INTERFACES = 8  # per service; viscum.h V_MAX_INTERFACES

MARK = 0x5653_0000  # "VS": netns ids, marks and tables are MARK | slot
MARK_MASK = 0xFFFF_F000
PROTO = 118  # 'v': routes and rules of ours on the host (rtm_protocol, FRA_PROTOCOL)
TC_PRIO = 118  # clsact: tried before most; keeps clear of qosify (0x110+) and bridger (0xbb00+)
TC_HANDLE = 0x5653
NFT_TABLE = "viscum"  # family inet
CT_ZONE = 0x5653  # conntrack zone of what is steered by mark
LINK_PREFIX = "vs"
INNER_LINK = "eth0"
SERVICE_TABLE = 50  # in the service's namespace: the way to the real origin
POOLS4 = ("100.127.192.0/19", "10.213.192.0/19", "172.31.192.0/19", "192.168.192.0/19")
POOL6 = "fd76:6973:6375:6d::/112"
# uids (and gids) of sandboxed instances: UIDS | part of the host | slot. Below 2**31, and above
# what distributions, subuid(5) and systemd's containers give out.
UIDS = 0x7600_0000
UID_PART = 0x653  # of the default state directory


class HostNames(Struct, frozen=True):
    """The names of one host, from its state directory."""

    state_dir: str = DEFAULT_STATE_DIR
    config_dir: str = CONFIG_DIR

    @property
    def prefix(self) -> str:
        """`viscum`, or `viscum-` and six hex digits of the state directory's hash."""
        return _prefix(str(Path(self.state_dir).absolute()))

    def uid(self, slot: int) -> int:
        """Whom a sandboxed instance runs as: nobody else at the same time, as nobody else has its
        slot. Another state directory on the same machine has other numbers (by its hash)."""
        _, dash, digits = self.prefix.partition("-")
        return UIDS | (int(digits[:3], 16) if dash else UID_PART) << 12 | slot

    def netns(self, service: str, generation: int, instance: int) -> str:
        return f"{self.prefix}.{service}.{generation}.{instance}"

    @property
    def controller(self) -> str:
        """What the one controller of the host holds while it lives (sockets.Sole)."""
        return f"{self.prefix}-controller"

    def alias(self, service: str, generation: int, instance: int) -> str:
        return f"{self.prefix}:{service}.{generation}.{instance}"

    def cgroup(self, service: str, generation: int, instance: int) -> str:
        """Below a cgroup hierarchy's root."""
        return f"{self.prefix}/{service}/{generation}.{instance}"


@cache
def _prefix(path: str) -> str:
    if path == DEFAULT_STATE_DIR:
        return "viscum"
    import hashlib  # loads OpenSSL: 5 ms that a box with the default directory does not need

    return f"viscum-{hashlib.sha256(path.encode()).hexdigest()[:6]}"


def link(slot: int) -> str:
    return f"{LINK_PREFIX}{slot}"


def number(slot: int) -> int:
    """The one number of an instance on the host: its netns id, the ifindex of its host-side
    link (asked for when the link is made, so that a plan knows it beforehand and a stale one
    never means somebody else's interface), its fwmark and its routing table."""
    return MARK | slot


def mac(slot: int, inside: bool) -> str:
    """Of the host's or the inner end of the slot's link. Given, not drawn by lot, so that both
    ends know each other from the first packet on, without ARP and neighbour discovery."""
    return f"02:76:73:{int(inside):02x}:{slot >> 8:02x}:{slot & 255:02x}"


def addresses4(pool: IPv4Network, slot: int) -> tuple[IPv4Address, IPv4Address]:
    """(host's, instance's) address of the slot's /31."""
    return pool[2 * slot], pool[2 * slot + 1]


def addresses6(pool: IPv6Network, slot: int) -> tuple[IPv6Address, IPv6Address]:
    """(host's, instance's) address of the slot's /127."""
    return pool[2 * slot], pool[2 * slot + 1]
