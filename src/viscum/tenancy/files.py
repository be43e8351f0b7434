"""CONFIG_DIR/tenants/NAME.toml: one file for each tenant, read again when one of them changes."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import combinations
from pathlib import Path

from viscum.errors import InputError, Problem
from viscum.model import Network
from viscum.spec import read_table
from viscum.spec.scalars import ALNUM
from viscum.spec.values import did_you_mean, network_text
from viscum.tenancy.types import Tenant, contains

DIRECTORY = "tenants"
MAX_NAME = 16


class Tenants:
    """Those of one host. Nothing is read before it is asked for, nor again before it changes.

    A file that can't be used, or two that clash, stop the tenants they are about and no other.
    """

    def __init__(self, config_dir: str) -> None:
        self.directory = Path(config_dir) / DIRECTORY
        self._mark: tuple[tuple[str, int, int], ...] | None = None
        self._tenants: dict[str, Tenant] = {}
        self._wrong: dict[str, list[Problem]] = {}

    def all(self) -> dict[str, Tenant]:
        """By name. Raises InputError with every problem of every file, and where two clash."""
        usable, wrong = self.usable()
        if wrong:
            raise InputError(*dict.fromkeys(p for problems in wrong.values() for p in problems))
        return usable

    def usable(self) -> tuple[dict[str, Tenant], dict[str, list[Problem]]]:
        """Those that can be used, and what is wrong with the others, both by name."""
        mark = self.version()
        if mark != self._mark:
            self._tenants, self._wrong = _read_all([self.directory / name for name, *_ in mark])
            self._mark = mark
        return self._tenants, self._wrong

    def names(self) -> frozenset[str]:
        """Of all that have a file, whatever it says."""
        return frozenset(name.removesuffix(".toml") for name, *_ in self.version())

    def version(self) -> tuple[tuple[str, int, int], ...]:
        """Differs whenever a file was written, made or removed."""
        try:
            paths = sorted(self.directory.glob("*.toml"))
            stats = [(p.name, p.stat()) for p in paths if not p.name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple((name, s.st_ino, s.st_mtime_ns) for name, s in stats)

    def get(self, name: str) -> Tenant:
        """Raises InputError for one that is not there, or whose file can't be used."""
        tenants, wrong = self.usable()
        if name in wrong:
            raise InputError(*wrong[name])
        if name not in tenants:
            listed = f"there are: {', '.join(tenants)}" if tenants else "there is none"
            raise InputError(
                Problem("TENANT", name, "no such tenant", did_you_mean(name, list(tenants), listed))
            )
        return tenants[name]


def check_name(name: str) -> Problem | None:
    """Without '-', so that a service's name says whose it is: TENANT-…"""
    if 1 <= len(name) <= MAX_NAME and ALNUM.issuperset(name):
        return None
    fix = f"use 1 to {MAX_NAME} of a-z and 0-9"
    return Problem("NAME", name, "is not a tenant's name", fix)


def parse(name: str, text: str, source: str) -> Tenant:
    """Raises InputError with every problem of the one file."""
    import tomllib

    try:
        given = tomllib.loads(text)
    except ValueError as error:
        raise InputError(
            Problem(source, "", f"is not TOML: {error}", "correct the syntax")
        ) from None
    problems = []
    if "name" in given:
        problems.append(Problem(f"{source}: name", str(given.pop("name")),
                                "is the file's name", "leave it out"))  # fmt: skip
    tenant = None
    try:
        tenant = read_table(Tenant, {**given, "name": name}, source=source)
    except InputError as error:
        problems += error.problems
    if wrong := check_name(name):
        problems.append(Problem(source, name, wrong.message, wrong.fix))
    if tenant is not None:
        problems += _across(tenant, source)
    if problems or tenant is None:
        raise InputError(*problems)
    return tenant


def _across(tenant: Tenant, source: str) -> list[Problem]:
    problems = []
    if tenant.pool is not None and (tenant.pool.version != 4 or tenant.pool.prefixlen > 31):
        problems.append(
            Problem(f"{source}: pool", network_text(tenant.pool), "is no IPv4 prefix of two "
                    "addresses or more", 'write for example pool = "100.127.200.0/24"')
        )  # fmt: skip
    if tenant.domains_anywhere and not tenant.domains:
        problems.append(
            Problem(f"{source}: domains-anywhere", "true", "means nothing without domains",
                    "name them, or leave it out")
        )  # fmt: skip
    return problems


def clashes(tenants: dict[str, Tenant], where: Path) -> dict[str, list[Problem]]:
    """What two of them claim both, by either's name: no address, domain or pool is of two."""
    problems: dict[str, list[Problem]] = {}
    for a, b in combinations(tenants.values(), 2):
        for key, shared in (
            ("targets", _shared(a.targets, b.targets)),
            ("domains", _shared_name(a.domains, b.domains)),
            ("pool", _shared((a.pool,) if a.pool else (), (b.pool,) if b.pool else ())),
        ):
            if shared:
                problem = Problem(
                    f"{where / b.name}.toml: {key}",
                    shared,
                    f"{a.name} and {b.name} both have it",
                    f"take it from one of them ({where / a.name}.toml)",
                )
                for one in (a, b):
                    problems.setdefault(one.name, []).append(problem)
    return problems


def _shared(a: tuple[Network, ...], b: tuple[Network, ...]) -> str:
    for one in a:
        for other in b:
            if contains(one, other):
                return network_text(other)
            if contains(other, one):
                return network_text(one)
    return ""


def _shared_name(a: tuple[str, ...], b: tuple[str, ...]) -> str:
    for one in a:
        for other in b:
            if one == other or one.endswith(f".{other}"):
                return one
            if other.endswith(f".{one}"):
                return other
    return ""


def _read_all(paths: list[Path]) -> tuple[dict[str, Tenant], dict[str, list[Problem]]]:
    tenants: dict[str, Tenant] = {}
    wrong: dict[str, list[Problem]] = {}
    for path in paths:
        try:
            tenants[path.stem] = parse(path.stem, path.read_text(), str(path))
        except InputError as error:
            wrong[path.stem] = list(error.problems)
        except (OSError, ValueError) as error:
            wrong[path.stem] = [Problem(str(path), "", f"can't be read: {error}", "mend it")]
    for name, problems in (clashes(tenants, paths[0].parent) if paths else {}).items():
        wrong[name] = problems
    return {name: t for name, t in tenants.items() if name not in wrong}, wrong


def slots(tenant: Tenant, pool4: str) -> range:
    """The instance slots whose addresses are in the tenant's pool: slot n has addresses 2n and
    2n + 1 of the host's. Raises InputError if that does not lie in the host's."""
    from viscum.names import MAX_SLOTS

    assert tenant.pool is not None
    host = ip_network(pool4)
    if not contains(host, tenant.pool):
        raise InputError(
            Problem(
                f"{tenant.name}.toml: pool",
                network_text(tenant.pool),
                f"is not inside this host's pool, {pool4}",
                "name a part of it, or fix `pool` in host.toml before the first service",
            )
        )
    first = (int(tenant.pool.network_address) - int(host.network_address)) // 2
    return range(first, min(first + tenant.pool.num_addresses // 2, MAX_SLOTS))
