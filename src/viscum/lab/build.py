"""Makes the namespaces, links, rates, rules and the wire of a lab, by the machine's own tools."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from viscum.errors import ViscumError
from viscum.kernel.syscalls import in_netns
from viscum.lab import plan
from viscum.lab.plan import Settings
from viscum.lab.processes import NETNS_DIR


def enter(namespace: str) -> list[str]:
    """The words that put a command into a network namespace.

    Not `ip -n`, which needs / to be a mount point (it is not in a chroot).
    """
    return ["nsenter", f"--net={NETNS_DIR / namespace}", "--"]


def build(s: Settings, directory: Path) -> list[subprocess.Popen[bytes]]:
    """Build it all; returns the processes that run for it. Raises ViscumError half-way."""
    _batch(["ip"], [f"netns add {s.namespace(role)}" for role in s.roles])
    for role in s.roles:
        _set(s.namespace(role), plan.sysctls(role))
    for role, lines in plan.links(s).items():
        _batch([*enter(s.namespace(role)), "ip"], lines)
    _await_carrier(s)
    for role, lines in plan.rates(s).items():
        _batch([*enter(s.namespace(role)), "tc"], lines)
    if rules := plan.firewall(s):
        call([*enter(s.namespace("ap")), "nft", "-f", "-"], rules)
    if s.dns:
        _serve_names(s)
    return _lay_wire(s, directory) if s.has_wan else []


def _await_carrier(s: Settings) -> None:
    """Until every link can do IPv6.

    The end of a veth that is set up last hears of its carrier up to a second late (the kernel's
    linkwatch batches such events), and has no link-local address before. Asking for one link by
    name makes newer kernels catch up at once (net/core/link_watch.c, linkwatch_sync_dev).
    """
    deadline = time.monotonic() + 5
    for role, names in plan.ends(s).items():
        for name in names:
            words = [*enter(s.namespace(role)), "ip", "link", "show", "dev", name]
            while "state UP" not in call(words):
                if time.monotonic() > deadline:
                    raise ViscumError(f"lab: {name} in {s.namespace(role)} has no carrier")
                time.sleep(0.02)


def _set(namespace: str, values: Mapping[str, str]) -> None:
    """Sysctls; /proc/sys/net shows the namespace of the thread that opens it."""

    def write() -> None:
        for key, value in values.items():
            path = Path("/proc/sys", key)
            if path.exists():
                path.write_text(value)

    with (NETNS_DIR / namespace).open() as handle:
        in_netns(handle.fileno(), write)


def _lay_wire(s: Settings, directory: Path) -> list[subprocess.Popen[bytes]]:
    """netem where the kernel has it, otherwise a process."""
    namespace = s.namespace("wan")
    try:
        _batch([*enter(namespace), "tc"], plan.netem(s))
    except ViscumError:
        pass
    else:
        _batch([*enter(namespace), "ip"], plan.BRIDGE)
        return []
    program = str(Path(__file__).with_name("delayline.py"))
    settings = ["ap", "cloud", f"{s.wan_rtt / 2:.9f}", f"{s.loss:.9f}"]
    log = directory / "wire.log"
    with log.open("wb") as errors:
        # -S: it needs nothing but the standard library and is there in half the time
        child = subprocess.Popen(
            [*enter(namespace), sys.executable, "-I", "-S", program, *settings],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            cwd="/",
        )
    assert child.stdout is not None
    with child.stdout:
        if child.stdout.readline() != b"ready\n":
            child.kill()
            child.wait()
            raise ViscumError(f"the lab's delay line did not start: {log.read_text().strip()}")
    return [child]


def _serve_names(s: Settings) -> None:
    """The machine's own resolv.conf holds in the lab: the cloud takes its nameservers' place.

    A nameserver on loopback (systemd-resolved) is stood in for in each namespace.
    """
    words = Path("/etc/resolv.conf").read_text()
    servers = re.findall(r"^nameserver\s+([0-9a-fA-F.:]+)\s*$", words, re.MULTILINE)
    local = [a for a in servers if a.startswith("127.") or a == "::1"]
    remote = [a for a in servers if a not in local]
    if remote:
        cloud = enter(s.namespace("cloud"))
        addresses = [f"{a}{' nodad' if ':' in a else ''}" for a in remote]
        _batch([*cloud, "ip"], [f"addr add {a} dev lo" for a in addresses])
        call([*cloud, *plan.dns(remote)])
    if local:
        for role in s.roles:
            if role != "wan":
                call([*enter(s.namespace(role)), *plan.dns(local)])


def has_netem(namespace: str) -> bool:
    """Whether the kernel, and not a process, is the wire."""
    words = [*enter(namespace), "tc", "qdisc", "show", "dev", "cloud"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return "netem" in done.stdout


def _batch(tool: list[str], lines: list[str]) -> None:
    if lines:
        call([*tool, "-batch", "-"], "\n".join(lines) + "\n")


def call(argv: list[str], words: str = "") -> str:
    """Run a tool with words on its standard input; its output. Raises ViscumError."""
    done = subprocess.run(argv, input=words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise ViscumError(f"lab: {' '.join(argv)}: {said}")
    return done.stdout
