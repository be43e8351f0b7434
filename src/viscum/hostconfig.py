"""/etc/viscum/host.toml: what an operator fixes for all services of a box.

    pool  = "10.0.32.0/19"         # addresses of the services' own links; a /19 or larger
    pool6 = "fd12:3456:789a::/112" # the same for IPv6; a /112 or larger

Read when the first service is made; while there are services their pool stays what it is.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from msgspec import Struct

from viscum.errors import InputError, Problem
from viscum.spec.values import did_you_mean

FILE = "host.toml"
MAX_LENGTH = {4: 19, 6: 112}  # two addresses for each of names.MAX_SLOTS, and room to align them
KEYS = {"pool": 4, "pool6": 6}
EXAMPLE = {"pool": '"10.0.32.0/19"', "pool6": '"fd12:3456:789a::/112"'}


class HostConfig(Struct, frozen=True):
    """ "": not fixed, Viscum chooses."""

    pool: str = ""
    pool6: str = ""


def toml_of(path: Path) -> dict[str, Any]:
    """What a file of settings says; one that is not there says nothing. Raises InputError."""
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InputError(Problem(str(path), "", f"can't be read: {error}", "mend it")) from None
    import tomllib

    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise InputError(
            Problem(str(path), "", f"is not TOML: {error}", "correct the syntax")
        ) from None


def read(directory: str) -> HostConfig:
    """Raises InputError with every problem; a file that is not there fixes nothing."""
    path = Path(directory) / FILE
    given = toml_of(path)
    problems = []
    for key, value in given.items():
        where = f"{path}: {key}"
        if key not in KEYS:
            known = list(KEYS)
            fix = did_you_mean(key, known, f"known here: {', '.join(known)}")
            problems.append(Problem(where, "", "is not a known key", fix))
            continue
        network = _network(value)
        fix = f"write for example {key} = {EXAMPLE[key]}"
        if network is None or network.version != KEYS[key]:
            what = f"is no IPv{KEYS[key]} network"
            problems.append(Problem(where, str(value), what, fix))
        elif network.prefixlen > MAX_LENGTH[network.version]:
            what = f"is too small; a /{MAX_LENGTH[network.version]} or larger is needed"
            problems.append(Problem(where, str(value), what, fix))
    if problems:
        raise InputError(*problems)
    return HostConfig(**given)


def _network(value: object) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(value) if isinstance(value, str) else None
    except ValueError:
        return None
