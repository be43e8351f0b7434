"""The /etc/resolv.conf and /etc/hosts a service sees."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

# Where the real servers stand when /etc/resolv.conf names a resolver on the box itself, which
# answers on an address that is another one's inside the namespace.
UPSTREAM = (
    "/run/systemd/resolve/resolv.conf",
    "/tmp/resolv.conf.d/resolv.conf.auto",  # OpenWrt
    "/run/NetworkManager/no-stub-resolv.conf",
)


def resolv_conf(paths: tuple[str, ...] = ("/etc/resolv.conf", *UPSTREAM)) -> str:
    """The first of `paths` that names a server beyond the box; "" if none does."""
    for path in paths:
        try:
            text = Path(path).read_text(errors="replace")
        except OSError:
            continue
        if any(_beyond(line) for line in text.splitlines()):
            return "".join(
                f"{line}\n"
                for line in text.splitlines()
                if not line.startswith("nameserver") or _beyond(line)
            )
    return ""


def servers(path: str = "/etc/resolv.conf") -> tuple[str, ...]:
    """The name servers this box asks, resolv.conf(5); () if it names none."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return ()
    words = (line.split() for line in lines)
    return tuple(w[1] for w in words if len(w) > 1 and w[0] == "nameserver")


def hosts(name: str, own: tuple[str, ...]) -> str:
    return "127.0.0.1 localhost\n::1 localhost ip6-localhost\n" + "".join(
        f"{address} {name}\n" for address in own
    )


def _beyond(line: str) -> bool:
    words = line.split()
    if len(words) < 2 or words[0] != "nameserver":
        return False
    try:
        return not ip_address(words[1].partition("%")[0]).is_loopback
    except ValueError:
        return False
