"""nftables: changes by nft(8), whose language is the operator's; reading and deleting by netlink,
so that observing starts no process. Source: linux/netfilter/nf_tables.h, nft(8).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import msgspec

from viscum.errors import ViscumError
from viscum.kernel import netlink
from viscum.kernel.netlink import get_be32, get_text
from viscum.kernel.nfnetlink import HEADER_SIZE, Netfilter, header, is_unsupported
from viscum.kernel.syscalls import in_netns

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_GETTABLE, _DELTABLE, _GETCHAIN, _GETRULE = (_SUBSYSTEM << 8 | n for n in (1, 2, 4, 7))
_BATCH_BEGIN, _BATCH_END = 16, 17
_NFTA_TABLE_NAME, _NFTA_TABLE_USERDATA = 1, 6
_NFTA_CHAIN_TABLE, _NFTA_CHAIN_NAME, _NFTA_CHAIN_HOOK = 1, 3, 4
_NFTA_CHAIN_POLICY, _NFTA_CHAIN_TYPE = 5, 7
_NFTA_HOOK_HOOKNUM, _NFTA_HOOK_PRIORITY = 1, 2
_NFTA_RULE_TABLE, _NFTA_RULE_CHAIN, _NFTA_RULE_EXPRESSIONS, _NFTA_RULE_USERDATA = 1, 2, 4, 7
_NFTA_EXPR_NAME, _NFTA_EXPR_DATA = 1, 2
_NFTA_COMPAT_NAME = 1  # NFTA_MATCH_NAME, NFTA_TARGET_NAME: what iptables-nft writes
_UDATA_COMMENT = 0  # libnftnl/udata.h NFTNL_UDATA_TABLE_COMMENT, NFTNL_UDATA_RULE_COMMENT

FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
_NAMES = {number: name for name, number in FAMILIES.items()}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
_HOOKS_OF = {"netdev": ("ingress", "egress"), "arp": ("input", "output", "forward")}
_POLICIES = ("drop", "accept")
_TIMEOUT_S = 30


class Table(msgspec.Struct, frozen=True):
    family: str
    name: str
    comment: str


class Chain(msgspec.Struct, frozen=True):
    """A chain attached to a hook: type "filter", "nat" or "route"; policy "accept" or "drop"."""

    family: str
    table: str
    name: str
    type: str
    hook: str
    prio: int
    policy: str


class Rule(msgspec.Struct, frozen=True):
    """words: the names of its expressions, such as "ct", "masq" or (of iptables) "conntrack"."""

    family: str
    table: str
    chain: str
    comment: str
    words: frozenset[str]


def apply(ruleset: str, netns_fd: int | None = None) -> None:
    """Runs `nft -f -` (one transaction: all of it or nothing). ViscumError with nft's words."""
    import subprocess

    def run() -> subprocess.CompletedProcess[str]:
        # With the host's lock (store.py): should this process be killed now, nft goes on, and
        # whoever comes next is to see what it did, not be overtaken by it.
        return subprocess.run(
            ["nft", "-f", "-"],
            input=ruleset,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            close_fds=False,
        )

    try:
        done = run() if netns_fd is None else in_netns(netns_fd, run)
    except FileNotFoundError:
        raise ViscumError("nft is not there", hint="install the package nftables") from None
    except subprocess.TimeoutExpired:
        raise ViscumError(f"nft did not finish within {_TIMEOUT_S} s") from None
    if done.returncode:
        words = done.stderr.strip() or f"exit status {done.returncode}"
        raise ViscumError(f"nft refused the rules: {words}", state="none of them is in force")


def tables(netns_fd: int | None = None) -> list[Table]:
    """Every table of every family (none if the kernel has no nf_tables)."""
    found = []
    for body in _dump(_GETTABLE, "nft tables", netns_fd):
        a = netlink.parse(body, HEADER_SIZE)
        family = _NAMES.get(body[0], str(body[0]))
        comment = _comment(a.get(_NFTA_TABLE_USERDATA, b""))
        found.append(Table(family, get_text(a, _NFTA_TABLE_NAME), comment))
    return found


def table_comment(family: str, name: str, netns_fd: int | None = None) -> str | None:
    """The comment of a table ("" if it has none); None if there is no such table."""
    body = header(FAMILIES[family]) + netlink.text(_NFTA_TABLE_NAME, name)
    try:
        with Netfilter(netns_fd) as nf:
            answer = nf.get(_GETTABLE, body, f"nft table {family} {name}")[0].body
    except OSError as e:
        if e.errno == errno.ENOENT or is_unsupported(e):
            return None
        raise
    return _comment(netlink.parse(answer, HEADER_SIZE).get(_NFTA_TABLE_USERDATA, b""))


def delete_table(family: str, name: str, netns_fd: int | None = None) -> None:
    """Deletes the table with all it holds; nothing to do if there is none."""
    what = f"delete nft table {family} {name}"
    body = header(FAMILIES[family]) + netlink.text(_NFTA_TABLE_NAME, name)
    boundary = header(0, _SUBSYSTEM)
    with Netfilter(netns_fd) as nf:
        try:
            with nf.batch():
                nf.request(_BATCH_BEGIN, 0, boundary, what, ack=False)
                nf.request(_DELTABLE, 0, body, what)
                nf.request(_BATCH_END, 0, boundary, what, ack=False)
        except OSError as e:
            if e.errno != errno.ENOENT and not is_unsupported(e):
                raise


def base_chains(netns_fd: int | None = None) -> list[Chain]:
    """The chains that see packets by themselves, anybody's; those of legacy iptables are not
    nftables' and not among them."""
    found = []
    for body in _dump(_GETCHAIN, "nft chains", netns_fd):
        a = netlink.parse(body, HEADER_SIZE)
        if _NFTA_CHAIN_HOOK not in a:
            continue
        hook = netlink.parse(a[_NFTA_CHAIN_HOOK])
        family = _NAMES.get(body[0], str(body[0]))
        hooks, number = _HOOKS_OF.get(family, _HOOKS), get_be32(hook, _NFTA_HOOK_HOOKNUM)
        priority = get_be32(hook, _NFTA_HOOK_PRIORITY)
        found.append(
            Chain(
                family=family,
                table=get_text(a, _NFTA_CHAIN_TABLE),
                name=get_text(a, _NFTA_CHAIN_NAME),
                type=get_text(a, _NFTA_CHAIN_TYPE),
                hook=hooks[number] if number < len(hooks) else str(number),
                prio=priority - (1 << 32) if priority >> 31 else priority,
                policy=_POLICIES[get_be32(a, _NFTA_CHAIN_POLICY, 1) & 1],
            )
        )
    return found


def rules(netns_fd: int | None = None) -> list[Rule]:
    """Every rule of every table, without what it says in detail."""
    found = []
    for body in _dump(_GETRULE, "nft rules", netns_fd):
        a = netlink.parse(body, HEADER_SIZE)
        found.append(
            Rule(
                family=_NAMES.get(body[0], str(body[0])),
                table=get_text(a, _NFTA_RULE_TABLE),
                chain=get_text(a, _NFTA_RULE_CHAIN),
                comment=_comment(a.get(_NFTA_RULE_USERDATA, b"")),
                words=frozenset(_words(a.get(_NFTA_RULE_EXPRESSIONS, b""))),
            )
        )
    return found


def _words(expressions: bytes) -> Iterator[str]:
    for element in netlink.parse_list(expressions):
        a = netlink.parse(element)
        name = get_text(a, _NFTA_EXPR_NAME)
        yield name
        if name in ("match", "target"):
            yield get_text(netlink.parse(a.get(_NFTA_EXPR_DATA, b"")), _NFTA_COMPAT_NAME)


def _dump(kind: int, what: str, netns_fd: int | None) -> list[bytes]:
    try:
        with Netfilter(netns_fd) as nf:
            return [m.body for m in nf.dump(kind, header(0), what)]
    except OSError as e:
        if is_unsupported(e):
            return []
        raise


def _comment(data: bytes) -> str:
    """nft keeps comments for itself, as (type, length, value) of 8, 8 and length * 8 bits."""
    while len(data) >= 2:
        kind, length = data[0], data[1]
        if kind == _UDATA_COMMENT:
            return data[2 : 2 + length].rstrip(b"\0").decode(errors="replace")
        data = data[2 + length :]
    return ""
