"""What an access point looks like, by the usual tools, to be compared before and after.

`operator(lab)` is everything in the access point's namespace, byte for byte as `ip`, `tc` and
`nft` print it; `traces(lab)` everything of its Viscum outside of that namespace. Both are taken by
processes of their own, so that nothing of Viscum's reading is trusted.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from support import wait_until
from viscum import names
from viscum.kernel import netns, syscalls
from viscum.kernel.director import attach
from viscum.lab import Lab
from viscum.names import HostNames

COMMANDS = {
    "links": "ip -d -j link show",
    "addresses": "ip -j addr show",
    "rules": "ip -j -4 rule show",
    "rules 6": "ip -j -6 rule show",
    "routes": "ip -j -4 route show table all",
    "routes 6": "ip -j -6 route show table all",
    "qdiscs": "tc -j qdisc show",
    "nft": "nft -j list ruleset",
}
FILTERS = {
    "filters in": "tc -j filter show dev {} ingress",
    "filters out": "tc -j filter show dev {} egress",
}
# What time changes by itself.
VOLATILE = re.compile(
    r'"(expires|valid_life_time|preferred_life_time|stats|stats64|refcnt|used|cache)":'
    r'("[^"]*"|[-0-9.]+|\[[^\]]*\]|\{[^}]*\})'
)
# These show how busy a namespace is or was, not how it is set.
NOT_SETTINGS = ("nf_conntrack_count", "fib_notify_on_flag_change_seen")
WATCHED = ("wlan0", "wan0")

Snapshot = dict[str, str]


def operator(lab: Lab, watched: tuple[str, ...] = WATCHED) -> Snapshot:
    """Links, addresses, rules, routes, qdiscs, filters, nft and sysctls of the access point."""
    wait_until(lambda: _has_link_locals(lab), "the kernel's own addresses")
    commands = dict(COMMANDS)
    for link in watched:
        commands |= {f"{k} {link}": v.format(link) for k, v in FILTERS.items()}
    with ThreadPoolExecutor(4) as pool:
        texts = pool.map(lambda words: _run(lab, words.split()), commands.values())
        found = {k: VOLATILE.sub(r'"\1":0', t) for k, t in zip(commands, texts, strict=True)}
    with netns.opened(lab.ap) as fd:
        settings = syscalls.in_netns(fd, lambda: dict(sysctls()))
    return found | {f"sysctl {name}": value for name, value in settings.items()}


def _has_link_locals(lab: Lab) -> bool:
    """The kernel gives them to the lab's links when it gets to it, on a busy machine later."""
    return all(
        any(a.get("scope") == "link" and not a.get("tentative") for a in link["addr_info"])
        for link in json.loads(_run(lab, ["ip", "-j", "-6", "addr", "show", "up"]))
        if link["ifname"] in WATCHED and "LOWER_UP" in link["flags"] and "master" not in link
    )


def _run(lab: Lab, words: list[str]) -> str:
    return subprocess.run(
        [*lab.enter("ap"), *words], capture_output=True, text=True, check=True
    ).stdout


def sysctls(below: str = "/proc/sys/net") -> Iterator[tuple[str, str]]:
    """Every setting of the calling thread's network namespace that can be read."""
    for directory, _, files in os.walk(below):
        for name in files:
            if name in NOT_SETTINGS:
                continue
            path = f"{directory}/{name}"
            try:
                with open(path, "rb") as file:
                    yield path.removeprefix("/proc/sys/"), file.read().decode(errors="replace")
            except OSError:
                continue  # write-only ones


def traces(lab: Lab) -> dict[str, list[str]]:
    """Namespaces, control groups, mounts, processes and files of the access point's Viscum."""
    prefix = HostNames(str(lab.state_dir)).prefix
    return {
        "namespaces": [n for n in sorted(os.listdir("/run/netns")) if n.startswith(f"{prefix}.")],
        "cgroups": [str(p) for p in _groups(prefix)],
        "mounts": [m for m in Path("/proc/self/mountinfo").read_text().splitlines() if prefix in m],
        "files": sorted(str(p) for p in lab.state_dir.rglob("*")),
    }


def _groups(prefix: str) -> Iterator[Path]:
    roots = {
        line.split()[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if " - cgroup" in line
    }
    for root in sorted(roots):
        top = Path(root, prefix)
        if top.is_dir():
            yield from (top, *sorted(p for p in top.rglob("*") if p.is_dir()))


def bpf_ids(lab: Lab) -> dict[str, set[int]]:
    """Ids of Viscum's programs on the access point's links, and of their maps."""
    with netns.opened(lab.ap) as fd:
        programs = {a.prog_id for a in syscalls.in_netns(fd, attach.find)}
    listed: list[dict[str, Any]] = json.loads(_run(lab, ["bpftool", "-j", "prog", "show"]))
    maps = {m for p in listed if p["id"] in programs for m in p.get("map_ids", ())}
    return {"prog": programs, "map": maps}


def bpf_alive(ids: Mapping[str, set[int]]) -> dict[str, set[int]]:
    """Those that still are, whoever holds them."""
    alive = {}
    for kind, wanted in ids.items():
        done = subprocess.run(
            ["bpftool", "-j", kind, "show"], capture_output=True, text=True, check=True
        )
        alive[kind] = wanted & {entry["id"] for entry in json.loads(done.stdout)}
    return alive


def services(lab: Lab, shown: Any, watched: tuple[str, ...] = WATCHED) -> Snapshot:
    """The access point and the inside of every service on it, with neutral numbers.

    Slots are handed out round-robin, so that which one a service got depends on what was killed
    before; with them go link names, ids and addresses. Here the first one is A, the next B, …
    shown: what `viscum ls` says, treated the same.
    """
    found: dict[str, Any] = {"ls": shown}
    for key, text in operator(lab, watched).items():
        found[key] = text if key.startswith("sysctl") else json.loads(text)
    prefix = HostNames(str(lab.state_dir)).prefix
    for name in sorted(n for n in os.listdir("/run/netns") if n.startswith(f"{prefix}.")):
        for key in ("addresses", "rules", "rules 6", "routes", "routes 6"):
            words = ["nsenter", f"--net=/run/netns/{name}", *COMMANDS[key].split()]
            text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            found[f"{name} {key}"] = json.loads(VOLATILE.sub(r'"\1":0', text))
    records = [json.loads(p.read_text()) for p in sorted(lab.state_dir.glob("services/*.json"))]
    slots = [s for r in records for g in r["generations"] for s in g["slots"]]
    found |= {f"record {r['name']}": r for r in records}
    for key, value in found.items():
        found[key] = _neutral(value)
        if not key.endswith(("rules", "nft", "ls")) and isinstance(value, list):
            found[key].sort(key=json.dumps)  # the order of routes and links is that of making
    text = json.dumps(found).replace(prefix, "viscum")
    for letter, slot in zip("ABCDEFGH", slots, strict=False):
        for pattern, name in _numbers(slot):
            text = re.sub(pattern, f"{name}-{letter}", text)
        text = re.sub(rf'\b({names.number(slot)}|0x{names.number(slot):x})\b(?!, "len)', "0", text)
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in json.loads(text).items()}


# Chance decides MACs (and what follows from them), history how often something was written.
ACCIDENTAL = {"address", "broadcast", "handle", "comment", "slots", "sid"}
ACCIDENTAL |= {"udp_epoch", "arm_until_ns", "link_index", "ifindex", "link_netnsid"}


def _neutral(value: Any) -> Any:
    if isinstance(value, list):
        return [_neutral(v) for v in value if not _link_local(v)]
    if isinstance(value, dict):
        return {k: _neutral(v) for k, v in value.items() if k not in ACCIDENTAL}
    return value


def _link_local(entry: Any) -> bool:
    """The kernel makes these by itself, when it comes to it."""
    if not isinstance(entry, dict):
        return False
    return any(str(entry.get(k, "")).startswith(("fe80:", "ff00:")) for k in ("dst", "local"))


def _numbers(slot: int) -> Iterator[tuple[str, str]]:
    yield rf"\bvs{slot}\b", "link"
    for pool in (names.POOLS4[0], names.POOL6):
        for n, what in ((2 * slot, "router"), (2 * slot + 1, "own")):
            address = re.escape(str(ip_network(pool)[n]))
            yield rf'(?<![0-9a-f:.]){address}(?!", "len|[0-9a-f:.])', what


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line for each thing that differs; of a JSON list only the entries that do."""
    pairs = {k: (before.get(k), after.get(k)) for k in sorted(before.keys() | after.keys())}
    return [f"{k}: {_only(b, a)} → {_only(a, b)}" for k, (b, a) in pairs.items() if b != a]


def _only(one: Any, other: Any) -> str:
    if one is None:
        return "nothing"
    entries, others = _entries(one), _entries(other)
    return " ".join(e for e in entries if e not in others)[:800] or f"({len(entries)} entries)"


def _entries(value: Any) -> list[str]:
    try:
        listed = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return [str(value).strip()]
    if isinstance(listed, dict):
        listed = listed.get("nftables", [listed])
    return [json.dumps(e) for e in listed] if isinstance(listed, list) else [str(listed)]
