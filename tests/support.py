"""What tests of several directories share (`from support import …`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LACKS = "this kernel lacks"  # the only skip that VISCUM_REQUIRE_ALL=1 lets pass


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def need_program(*names: str) -> None:
    """`make setup` installs them, so that VISCUM_REQUIRE_ALL=1 makes this skip a failure."""
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")


def need_kernel(feature: str, present: bool) -> None:
    """Skip where the kernel was built without it; say how that was found out in the test."""
    if not present:
        pytest.skip(f"{LACKS} {feature}")


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 10.0) -> Any:
    """Poll for something the kernel has no event for; returns its first true value.

    Raises AssertionError after the timeout, in seconds.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout} s for: {what}"
        time.sleep(0.005)
    return value


@contextmanager
def unkillable(pid: int) -> Iterator[None]:
    """The process neither runs nor dies, as one that is stuck in the kernel: the freezer of cgroup
    v1 stops it where it does not see SIGKILL."""
    freezer = Path("/sys/fs/cgroup/freezer")
    need_kernel("the freezer of cgroup v1", (freezer / "cgroup.procs").exists())
    group = freezer / f"viscum-t{os.getpid()}"
    group.mkdir()
    (group / "cgroup.procs").write_text(str(pid))
    state = group / "freezer.state"
    state.write_text("FROZEN")
    wait_until(lambda: state.read_text() == "FROZEN\n", "it to be frozen")
    try:
        yield
    finally:
        state.write_text("THAWED")
        try:
            (freezer / "cgroup.procs").write_text(str(pid))
        except ProcessLookupError:
            pass
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "its end")
        group.rmdir()


def my_children() -> set[int]:
    """Also those that have ended and were not waited for; earlier tests may have left some.

    Asked of the children: `task/TID/children` goes with the thread that forked, and the child
    is then another thread's.
    """
    mine = f"\nPPid:\t{os.getpid()}\n"
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if mine in status.read_text(errors="replace"):
                found.add(int(status.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            pass  # it ended, as other tests' processes do at any time
    return found


# --- what the machine is like, to compare before and after -------------------------------------


def machine_state() -> dict[str, set[str]]:
    """Everything a run of the tests may have made outside namespaces that are gone by then."""
    return {
        "namespaces": _entries("/run/netns"),
        "links": {link["ifname"] for link in _json("ip", "-j", "link")},
        "qdiscs": {json.dumps(q, sort_keys=True) for q in _json("tc", "-j", "qdisc")},
        "rules": {json.dumps(r) for f in "46" for r in _json("ip", f"-{f}", "-j", "rule")},
        "routes": {_route(r) for f in "46" for r in _json("ip", f"-{f}", "-j", *_ROUTES)},
        "nft tables": {
            f"{t['table']['family']} {t['table']['name']}"
            for t in _json("nft", "-j", "list", "tables").get("nftables", ())
            if "table" in t
        }
        if shutil.which("nft")
        else set(),
        "BPF programs": _bpf("prog"),
        "BPF maps": _bpf("map"),
        # os.walk, unlike glob, bears with groups that go while it looks
        "cgroups": {
            f"{top}/{name}"
            for top, names, _ in os.walk("/sys/fs/cgroup")
            for name in names
            if "viscum" in name
        },
        "mounts": {
            line.split()[4]
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if any(word in line for word in ("viscum", "/run/netns/", "vt-", " /sys/fs/bpf "))
        },
        "files": {
            f"{place}/{name}"
            for place in ("/run", "/var/tmp", "/var/cache")
            for name in _entries(place)
            if name.startswith(("viscum", "vt-", "vx-"))
        },
        "sysctls": {
            f"{p}={p.read_text().strip()}"
            for pattern in ("net/ipv[46]/conf/*/forwarding", "net/ipv4/conf/*/rp_filter")
            for p in Path("/proc/sys").glob(pattern)
        },
    }


_ROUTES = ("route", "show", "table", "all")


def _entries(directory: str) -> set[str]:
    try:
        return set(os.listdir(directory))
    except FileNotFoundError:
        return set()


def _json(*argv: str) -> Any:
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


def _route(route: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in route.items() if k not in ("expires", "cache")})


def _bpf(kind: str) -> set[str]:
    """Objects of the traffic directors, by id. Names are cut to 15 characters by the kernel."""
    if shutil.which("bpftool") is None:
        return set()
    mine = ("sched_cls", "sched_act")
    if kind == "prog":
        found = [p for p in _json("bpftool", "-j", "prog") if p.get("type") in mine]
    else:
        programs = [p for p in _json("bpftool", "-j", "prog") if p.get("type") in mine]
        used = {i for p in programs for i in p.get("map_ids", ())}
        found = [m for m in _json("bpftool", "-j", "map") if m["id"] in used]
    return {f"{o['id']} {o.get('name', '?')}" for o in found}


def leaks(before: dict[str, set[str]], timeout: float = 5.0) -> list[str]:
    """What differs from before; namespaces and BPF objects get a while, they go asynchronously."""
    deadline = time.monotonic() + timeout
    while True:
        after = machine_state()
        found = [
            f"{kind}: {sign} {thing}"
            for kind in before
            for sign, things in (
                ("left behind", after[kind] - before[kind]),
                ("missing", before[kind] - after[kind]),
            )
            for thing in sorted(things)
        ]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)
