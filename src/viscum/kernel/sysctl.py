"""Kernel parameters below /proc/sys, those of net.* per namespace. Source: proc_sys(5)."""

from __future__ import annotations

from pathlib import Path

from viscum.kernel import knobs
from viscum.kernel.syscalls import in_netns

_ROOT = Path("/proc/sys")
_PER_LINK = ("conf", "neigh")


def path(name: str) -> Path:
    """The file of ``net.ipv4.conf.IFACE.rp_filter``; the link's name may have dots in it.

    ValueError for anything that is not such a name ("/" or ".." in it, nothing between dots).
    """
    parts = name.split(".")
    if "/" in name or len(parts) < 2 or "\0" in name or not all(parts):
        raise ValueError(f"not the name of a kernel parameter: {name!r}")
    if len(parts) > 5 and parts[0] == "net" and parts[2] in _PER_LINK:
        parts[3:-1] = [".".join(parts[3:-1])]
    return _ROOT.joinpath(*parts)


def read(name: str, netns_fd: int | None = None) -> str:
    """The value without its newline; FileNotFoundError if the kernel has no such parameter."""
    file = path(name)
    value = file.read_text() if netns_fd is None else in_netns(netns_fd, file.read_text)
    return value.rstrip("\n")


def has_ipv6() -> bool:
    """Whether a link made here and now can have IPv6 addresses."""
    try:
        off = [read(f"net.ipv6.conf.{which}.disable_ipv6") for which in ("all", "default")]
    except FileNotFoundError:
        return False
    return off == ["0", "0"]


def write(name: str, value: str | int, netns_fd: int | None = None) -> None:
    """OSError if the kernel has no such parameter or does not like the value."""
    file, line = path(name), f"{value}\n"
    if netns_fd is None:
        knobs.write(file, line)
    else:
        in_netns(netns_fd, knobs.write, file, line)
