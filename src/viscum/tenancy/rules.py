"""A tenant's spec held against its allowance. Each problem names the field, as any other does.

What a spec does not say here is harmless to others: it concerns only the tenant's own processes,
which the sandbox and the limits hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_network

from msgspec.structs import replace

from viscum.errors import Problem
from viscum.model import Network
from viscum.spec import EgressRule, Spec
from viscum.spec.values import network_text, target_network
from viscum.tenancy import quota
from viscum.tenancy.types import Tenant, contains

STOP = 60.0  # seconds that ending all instances may take: one after the other, under the lock
MAX_TARGETS = 64  # a map of all services holds them
#: path → (least, most) seconds: a start holds the host's lock, a restart costs the router something
TIMES = {
    "run.start-timeout": (0.0, 20.0),
    "run.stop-timeout": (0.0, STOP),
    "run.drain": (1.0, 3600.0),
    "run.restart-delay": (1.0, 3600.0),
    "run.restart-max-delay": (30.0, 86400.0),
    "probe.interval": (1.0, 3600.0),
    "probe.timeout": (0.0, 10.0),
    "steer.names.min-ttl": (1.0, 86400.0),
    "steer.names.hold": (0.0, 86400.0),
    "steer.udp.idle": (0.0, 600.0),
}
#: Seconds between two restarts that a service brings about without a failure that is counted: its
#: delay grows with failures, and so does that of restarts that help nothing.
RESTARTS = 10.0


def imposed(spec: Spec) -> Spec:
    """What a tenant gets whether it asks or not."""
    return replace(spec, run=replace(spec.run, sandbox="strict"))


def problems(tenant: Tenant, spec: Spec) -> list[Problem]:
    """Everything about a spec by itself that is beyond the allowance."""
    found: list[Problem] = []
    for check in CHECKS:
        found += check(tenant, spec)
    return found


def owns_service(tenant: str, service: str) -> bool:
    """By its name: services of two tenants can't be taken for each other, not even after one of
    them was removed and its name used again."""
    return service == tenant or service.startswith(f"{tenant}-")


def not_its_name(tenant: str, service: str) -> Problem:
    fix = f"write {f'{tenant}-{service}'[:40]}"
    return Problem("name", service, f"is not a name of tenant {tenant}'s", fix)


def foreign(tenant: Tenant, addresses: Iterable[str], spec: Spec) -> Iterator[Problem]:
    """Addresses that are about to be steered and are not the tenant's, whatever led to them."""
    literal = [n for n in map(target_network, spec.steer.targets) if n is not None]
    for text in addresses:
        network = ip_network(text)
        if tenant.owns_prefix(network):
            continue
        learned = not any(contains(given, network) for given in literal)
        if learned and network.num_addresses == 1 and tenant.allows(network.network_address):
            continue
        yield Problem(
            "steer.targets",
            network_text(network),
            f"is not in a prefix of tenant {tenant.name}'s"
            + (", though its name leads there" if learned else ""),
            "steer your own addresses only; the operator grants prefixes",
        )


# ---- the checks --------------------------------------------------------------------------------


def _name(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    if not owns_service(tenant.name, spec.name):
        yield not_its_name(tenant.name, spec.name)


def _targets(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    if len(spec.steer.targets) > MAX_TARGETS:
        yield Problem(
            "steer.targets",
            str(len(spec.steer.targets)),
            f"are more than the {MAX_TARGETS} that a tenant's service may have",
            "write a prefix",
        )
    if spec.steer.names.max_addresses > MAX_TARGETS:
        yield Problem(
            "steer.names.max-addresses",
            str(spec.steer.names.max_addresses),
            f"is more than the {MAX_TARGETS} that a tenant's service may have",
            f"write {MAX_TARGETS} or less",
        )
    for index, given in enumerate(spec.steer.targets):
        field = f"steer.targets[{index}]"
        network = target_network(given)
        if network is not None and not tenant.owns_prefix(network):
            yield Problem(
                field,
                given,
                f"is not in a prefix of tenant {tenant.name}'s",
                _listed(map(network_text, tenant.targets)),
            )
        elif network is None and not tenant.owns_name(given):
            yield Problem(
                field, given, f"is not a domain of tenant {tenant.name}'s", _listed(tenant.domains)
            )


def _interfaces(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    for index, given in enumerate(spec.steer.interfaces):
        if given not in tenant.interfaces:
            yield Problem(
                f"steer.interfaces[{index}]",
                given,
                f"is not an interface of tenant {tenant.name}'s",
                _listed(tenant.interfaces),
            )


def _clients(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    if not tenant.clients:
        return
    listed = _listed(map(network_text, tenant.clients))
    if not spec.steer.clients:
        yield Problem(
            "steer.clients", "", f"is missing: tenant {tenant.name} may not steer everybody", listed
        )
    for index, given in enumerate(spec.steer.clients):
        if not any(contains(owned, given) for owned in tenant.clients):
            yield Problem(
                f"steer.clients[{index}]",
                network_text(given),
                f"are not clients of tenant {tenant.name}'s",
                listed,
            )


def _firewall(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    if tenant.firewall == "honour" and spec.steer.firewall != "honour":
        yield Problem(
            "steer.firewall",
            spec.steer.firewall,
            f"is not for tenant {tenant.name}",
            'write firewall = "honour"',
        )


def _drop(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    """What may not go to the cloud can't be held back: neither guard nor quota would hold it."""
    if spec.steer.when_down == "drop" and not tenant.drop:
        yield Problem(
            "steer.when-down", "drop", f"is not for tenant {tenant.name}", 'write "cloud"'
        )


def _egress(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    for index, rule in enumerate(spec.egress.allow):
        if not any(_covers(allowed, rule) for allowed in tenant.egress):
            yield Problem(
                f"egress.allow[{index}]",
                str(rule),
                f"is more than tenant {tenant.name} may reach",
                _listed(map(str, tenant.egress)),
            )


def _covers(allowed: EgressRule, rule: EgressRule) -> bool:
    """Whether all that `rule` lets through, `allowed` does."""
    a, r = allowed.port, rule.port
    ports = a is None or (
        r is not None and a.proto == r.proto and a.first <= r.first and r.last <= a.last
    )
    inner: Network | None = rule.network
    if inner is None or allowed.network is None:
        return ports and allowed.to == rule.to
    return ports and contains(allowed.network, inner)


def _run(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    run = spec.run
    if run.user is not None:
        yield Problem("run.user", run.user, "is not for a tenant to choose", "leave it out")
    if run.capabilities:
        yield Problem(
            "run.capabilities",
            ", ".join(run.capabilities),
            "are not for a tenant",
            "leave it out: ports below 1024 need none",
        )
    if run.root is not None and run.root not in tenant.roots:
        yield Problem(
            "run.root", run.root, f"is not one of tenant {tenant.name}'s", _listed(tenant.roots)
        )
    if spec.director != "auto":
        yield Problem("director", spec.director, "is not for a tenant to choose", "leave it out")


def _order(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    """Who gives way to whom when the box is short is the operator's to say."""
    if spec.priority > tenant.priority:
        yield Problem(
            "priority",
            str(spec.priority),
            f"is more than tenant {tenant.name} may have",
            f"write {tenant.priority} or less",
        )
    if spec.guard.mode != "on":
        yield Problem("guard.mode", spec.guard.mode, "is not for a tenant", "leave it out")
    if spec.guard.min_share:
        yield Problem(
            "guard.min-share", str(spec.guard.min_share), "is not for a tenant", "leave it out"
        )


def _times(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    for path, (least, most) in TIMES.items():
        value = spec
        for key in path.split("."):
            value = getattr(value, key.replace("-", "_"))
        if not least <= float(value) <= most:  # type: ignore[arg-type]
            yield Problem(
                path,
                str(value),
                f"is not between {least:g} s and {most:g} s, as a tenant's has to be",
                "choose one between",
            )


def _stops(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    most = STOP / spec.instances
    if most < spec.run.stop_timeout <= STOP:
        yield Problem(
            "run.stop-timeout",
            str(spec.run.stop_timeout),
            f"for each of {spec.instances} instances is more than the {STOP:g} s that a tenant has",
            f"write {most:.3g}s or less",
        )


def _restarts(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    """A server that ends well at once, or that answers a probe now and then."""
    run, probe = spec.run, spec.probe
    if run.restart == "always" and run.restart_delay < RESTARTS:
        yield Problem(
            "run.restart-delay",
            str(run.restart_delay),
            f'is less than the {RESTARTS:g} s that a tenant\'s restart = "always" takes',
            f'write {RESTARTS:g}s, or restart = "on-failure"',
        )
    if probe.restart_after and probe.restart_after * probe.interval < RESTARTS:
        yield Problem(
            "probe.restart-after",
            str(probe.restart_after),
            f"probes {probe.interval} apart: a tenant's restarts are {RESTARTS:g} s apart at least",
            f"write {math.ceil(RESTARTS / probe.interval)} or more",
        )


def _limits(tenant: Tenant, spec: Spec) -> Iterator[Problem]:
    yield from quota.limits_missing(tenant, spec)
    if spec.limits.log > tenant.quotas.log:
        yield Problem(
            "limits.log",
            str(spec.limits.log),
            f"is more than tenant {tenant.name} may keep",
            f"write {tenant.quotas.log} or less",
        )


def _listed(allowed: Iterable[str]) -> str:
    words = ", ".join(allowed)
    return f"allowed: {words}" if words else "none is allowed; the operator grants it"


CHECKS: tuple[Callable[[Tenant, Spec], Iterable[Problem]], ...] = (
    _name,
    _targets,
    _interfaces,
    _clients,
    _firewall,
    _drop,
    _egress,
    _run,
    _order,
    _times,
    _stops,
    _restarts,
    _limits,
)
