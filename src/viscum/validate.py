"""Everything about a spec that only the box can tell, before anything is touched (N15).

What a spec says by itself is checked by spec.check; here it meets interfaces, addresses, other
services, users, files and controllers. All problems at once, each with the next step.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from viscum import names
from viscum.errors import InputError, Problem
from viscum.kernel import cgroup, director
from viscum.model import Network, Observed
from viscum.spec import Claim, Spec, check, check_against, limits_in_force
from viscum.spec.values import target_network
from viscum.store import World
from viscum.validate_run import process_problems

RESOLVED = 10.0  # seconds that the names of one spec may take


def resolve(spec: Spec) -> tuple[str, ...]:
    """The targets as networks, names looked up (A and AAAA). Raises InputError."""
    found: dict[str, None] = {}
    problems = []
    answers = _look_up_all([t for t in spec.steer.targets if target_network(t) is None])
    for index, target in enumerate(spec.steer.targets):
        if target not in answers:
            found[str(ip_network(target))] = None
            continue
        answer = answers[target]
        if isinstance(answer, str):
            problems.append(
                Problem(
                    f"steer.targets[{index}]",
                    target,
                    f"can't be resolved: {answer}",
                    "check the name and this box's DNS, or give the addresses themselves",
                )
            )
            continue
        for address in answer:
            found[str(ip_network(address))] = None
    if problems:
        raise InputError(*problems)
    return tuple(found)


def _look_up_all(names: list[str]) -> dict[str, list[str] | str]:
    """By name its addresses, or why there are none. All at once, and together no longer than
    RESOLVED: name servers that do not answer must not hold up the other commands of the host."""
    if not names:
        return {}
    from queue import Empty, SimpleQueue
    from threading import Thread

    done: SimpleQueue[tuple[str, list[str] | str]] = SimpleQueue()

    def look_up(name: str) -> None:
        try:
            done.put((name, _look_up(name)))
        except OSError as error:
            done.put((name, error.strerror or str(error)))

    for name in names:
        Thread(target=look_up, args=(name,), daemon=True).start()
    found: dict[str, list[str] | str] = dict.fromkeys(names, f"no answer within {RESOLVED:g} s")
    end = time.monotonic() + RESOLVED
    for _ in names:
        try:
            name, answer = done.get(timeout=max(0.0, end - time.monotonic()))
        except Empty:
            break
        found[name] = answer
    return found


def _look_up(name: str) -> list[str]:
    import socket

    answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return sorted({str(answer[4][0]) for answer in answers})  # servers rotate them


def validate(
    spec: Spec, addresses: tuple[str, ...], world: World, seen: Observed, tenant: str = ""
) -> None:
    """Raises InputError naming every problem. tenant: whose it is; others' services are not named
    to a tenant."""
    networks = tuple(ip_network(a) for a in addresses)
    problems = [
        *check(spec),
        *_director(spec),
        *_interfaces(spec, seen),
        *_targets(networks, spec.steer.targets, world, seen),
        *_others(spec, networks, world, tenant),
        *_pool(world, seen),
        *process_problems(spec),
        *_limits(spec),
    ]
    if problems:
        raise InputError(*dict.fromkeys(problems))


def retarget(
    spec: Spec, addresses: tuple[str, ...], world: World, seen: Observed, tenant: str = ""
) -> None:
    """Whether the service may have these targets from now on. Raises InputError."""
    networks = tuple(ip_network(a) for a in addresses)
    problems = [
        *_targets(networks, spec.steer.targets, world, seen),
        *_others(spec, networks, world, tenant),
    ]
    if problems:
        raise InputError(*dict.fromkeys(problems))


def choose_pool(seen: Observed) -> str:
    """The first of our pools that meets nothing the box routes."""
    for pool in names.POOLS4:
        if not _clash(ip_network(pool), seen.networks):
            return pool
    raise InputError(
        Problem(
            "pool",
            ", ".join(names.POOLS4),
            "every one overlaps with a route of this box",
            f'name a free /19 in {names.CONFIG_DIR}/host.toml: pool = "10.0.32.0/19"',
        )
    )


def _director(spec: Spec) -> Iterator[Problem]:
    try:
        missing = director.get(spec.director).missing()
    except InputError as error:
        yield from error.problems
        return
    if missing:
        yield Problem("director", spec.director, missing, "see `viscum doctor`")


def _interfaces(spec: Spec, seen: Observed) -> Iterator[Problem]:
    real = sorted(
        n for n, link in seen.links.items() if n != "lo" and not link.alias.startswith("viscum")
    )
    for index, name in enumerate(spec.steer.interfaces):
        field = f"steer.interfaces[{index}]"
        link = seen.links.get(name)
        if link is None:
            yield Problem(
                field, name, "no such interface here", f"there are: {', '.join(real) or 'none'}"
            )
        elif name == "lo" or link.alias.startswith("viscum"):
            yield Problem(field, name, "clients' packets can't arrive there", "name the LAN side")


def _targets(
    networks: tuple[Network, ...], literal: tuple[str, ...], world: World, seen: Observed
) -> Iterator[Problem]:
    own = {a: link.name for link in seen.links.values() for a in link.addresses}
    pools = [ip_network(p) for p in (world.host.pool4, world.host.pool6) if p]
    for network in networks:
        field = "steer.targets"
        text = str(network.network_address) if network.num_addresses == 1 else str(network)
        for address, link in own.items():
            if address.version == network.version and address in network:
                yield Problem(
                    field,
                    text,
                    f"{address} is this box's own address (on {link})",
                    "name the cloud server's address",
                )
                break
        special = network.network_address
        bad = special.is_loopback or special.is_multicast or special.is_unspecified
        if bad and text not in literal:  # what a name led to; spec.check sees what is written
            yield Problem(
                field, text, "is loopback, multicast or unspecified", "name the cloud server"
            )
        if any(p.version == network.version and p.overlaps(network) for p in pools):
            yield Problem(
                field, text, "lies in Viscum's own address pool", "choose another pool or target"
            )


def _others(
    spec: Spec, networks: tuple[Network, ...], world: World, tenant: str
) -> Iterable[Problem]:
    others = [
        Claim(
            r.name if tenant in ("", r.tenant) else "",
            tuple(ip_network(a) for a in r.addresses),
            r.spec.steer.ports,
        )
        for r in world.services.values()
        if r.name != spec.name
    ]
    return check_against(Claim(spec.name, networks, spec.steer.ports), others)


def _pool(world: World, seen: Observed) -> Iterator[Problem]:
    for pool in (world.host.pool4, world.host.pool6):
        if not pool:
            continue
        network = ip_network(pool)
        ours = {
            n
            for link in seen.links.values()
            if link.alias.startswith("viscum")
            for n in (*link.networks, *(ip_network(a) for a in link.addresses))
        }
        clash = _clash(network, (n for n in seen.networks if n not in ours and not _ours(n, seen)))
        if clash:
            yield Problem(
                "pool",
                pool,
                f"overlaps with {clash}, which this box routes",
                f"remove the services, then set another pool in {names.CONFIG_DIR}/host.toml",
            )


def _ours(network: Network, seen: Observed) -> bool:
    """A /31 or /127 of one of our links."""
    return any(
        link.alias.startswith("viscum") and any(a in network for a in link.addresses)
        for link in seen.links.values()
        if network.num_addresses <= 2
    )


def _clash(pool: Network, networks: Iterable[Network]) -> Network | None:
    for network in networks:
        if network.version == pool.version and pool.overlaps(network):
            return network
    return None


def _limits(spec: Spec) -> Iterator[Problem]:
    available = cgroup.available()
    limits = limits_in_force(spec)
    strict = spec.run.sandbox == "strict"  # and can't do without
    instead = 'write sandbox = "off"' if strict else "leave the limit out"
    wanted = {
        "cpu": ("cpu", limits.cpu),
        "memory": ("memory", limits.memory),
        "processes": ("pids", limits.processes),
    }
    for field, (controller, value) in wanted.items():
        if value is not None and controller not in available:
            yield Problem(
                f"limits.{field}",
                str(value),
                f"this box has no {controller} controller",
                f"{instead}, or boot with the controller on (cgroup_enable=…)",
            )
