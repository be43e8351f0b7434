"""What can be wrong between the fields of a spec, and between two services."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from viscum.errors import Problem
from viscum.model import Network
from viscum.spec.types import Spec
from viscum.spec.values import Port, network_text, target_network

_EVERY = (Port("tcp", 1, 65535), Port("udp", 1, 65535))


class Claim(Struct, frozen=True):
    """What a service takes from the cloud: `networks` on `ports` (none: every port).

    name: "" for one that is not named to who asks."""

    name: str
    networks: tuple[Network, ...]
    ports: tuple[Port, ...] = ()


class Overlap(Struct, frozen=True):
    """A network and a span of ports that two claims have in common."""

    network: Network
    port: Port

    def __str__(self) -> str:
        return f"{network_text(self.network)} {self.port}"


def overlaps(a: Claim, b: Claim) -> Overlap | None:
    """The first thing both claim, or None; a target may be shared when the ports differ."""
    port = _common_port(a.ports or _EVERY, b.ports or _EVERY)
    network = _common_network(a.networks, b.networks) if port else None
    return Overlap(network, port) if port and network else None


def check_against(claim: Claim, others: Sequence[Claim]) -> tuple[Problem, ...]:
    """Where `claim` takes what another service has; each problem names both."""
    problems = []
    for other in others:
        common = overlaps(claim, other) if other.name != claim.name else None
        if common and not other.name:
            problems.append(
                Problem(
                    "steer.targets",
                    network_text(common.network),
                    f"{common} is somebody else's already",
                    "choose other ports or targets",
                )
            )
        elif common:
            problems.append(
                Problem(
                    "steer.targets",
                    network_text(common.network),
                    f"{claim.name} and {other.name} both claim {common}",
                    f"give one of them other ports or targets, or remove {other.name} first "
                    f"(viscum rm {other.name})",
                )
            )
    return tuple(problems)


def across(spec: Spec) -> list[Problem]:
    """Problems that no single value shows. Skips what is empty, and None in arrays (unreadable)."""
    return [
        *_command(spec),
        *_run(spec),
        *_targets(spec),
        *_ports(spec),
        *_names(spec),
        *_probe(spec),
    ]


def _names(spec: Spec) -> Iterator[Problem]:
    names = spec.steer.names
    if names.min_ttl > names.max_ttl:
        yield Problem(
            "steer.names.min-ttl",
            str(names.min_ttl),
            f"is longer than max-ttl, {names.max_ttl}",
            "make it shorter, or max-ttl longer",
        )


def _command(spec: Spec) -> Iterator[Problem]:
    if not spec.command or spec.command[0] is None:
        return
    program = spec.command[0]
    if not program.strip():
        yield Problem("command[0]", program, "is empty", "name the program to run")
    elif "/" in program and not program.startswith("/"):
        yield Problem(
            "command[0]",
            program,
            "is a relative path; from where would it count?",
            "write its absolute path, or only its name to look it up in PATH",
        )
    elif program.endswith("/"):
        yield Problem("command[0]", program, "is a directory", "name the program in it")


def _run(spec: Spec) -> Iterator[Problem]:
    run = spec.run
    if run.root is not None and not run.root.strip("/."):
        yield Problem("run.root", run.root, "is the router's own root", "leave the key out")
    if spec.upgrade == "replace" and not run.drain:
        yield Problem(
            "run.drain",
            "0",
            'with upgrade = "replace" the new generation would wait for ever for the old to drain',
            'give a time, such as "60s"',
        )
    if run.sandbox == "strict":
        why = 'has no meaning with sandbox = "strict"'
        if run.user is not None:
            yield Problem(
                "run.user", run.user, f"{why}, where every instance has a user of its own",
                'leave the key out, or write sandbox = "off"',
            )  # fmt: skip
        if run.capabilities:
            yield Problem(
                "run.capabilities", ", ".join(str(c) for c in run.capabilities),
                f"{why}, where a server has none (and needs none to listen on port 80)",
                'leave the key out, or write sandbox = "off"',
            )  # fmt: skip


def _probe(spec: Spec) -> Iterator[Problem]:
    probe = spec.probe
    if spec.run.restart_max_delay < spec.run.restart_delay:
        yield Problem(
            "run.restart-max-delay",
            str(spec.run.restart_max_delay),
            f"is less than run.restart-delay ({spec.run.restart_delay})",
            "raise it",
        )
    if probe.type == "exec" and not probe.command:
        yield Problem("probe.command", "", "is missing", "name the command to run")
    if probe.type != "exec" and probe.command:
        yield Problem("probe.command", probe.command[0] or "", "is only run by an exec probe",
                      'write type = "exec"')  # fmt: skip
    if probe.type == "udp" and (probe.send is None or probe.expect is None):
        what = "send" if probe.send is None else "expect"
        yield Problem(
            f"probe.{what}", "", "is missing", "a UDP server answers only what it understands"
        )
    if not probe.path.startswith("/"):
        yield Problem("probe.path", probe.path, "does not begin with /", "write / before it")
    # Both are sent as they are.
    for key, value in (("path", probe.path), ("host", probe.host)):
        if value is not None and not (value and all("!" <= c <= "~" for c in value)):
            yield Problem(
                f"probe.{key}", value, "is not made of visible ASCII characters alone",
                "write others as in a URL: %20 for a space" if key == "path" else "correct it",
            )  # fmt: skip
    proto = "udp" if probe.type == "udp" else "tcp"
    ports: tuple[Port | None, ...] = spec.steer.ports
    there = any(p is not None and p.proto == proto for p in ports)
    asks = probe.type in ("tcp", "http", "https", "udp")
    if asks and probe.port is None and not there:
        yield Problem(
            "probe.port", "", f"is missing, and steer.ports names none of {proto}", "give the port"
        )


def _targets(spec: Spec) -> Iterator[Problem]:
    spans: list[tuple[int, int, int, int]] = []
    for index, given in enumerate(spec.steer.targets):
        net = target_network(given) if given else None
        if net is not None:
            spans.append((net.version, *_ends(net), index))
    for later, earlier in _covered(spans):
        yield Problem(
            f"steer.targets[{later}]",
            spec.steer.targets[later],
            f"overlaps steer.targets[{earlier}] ({spec.steer.targets[earlier]})",
            "remove the smaller of the two",
        )


def _ports(spec: Spec) -> Iterator[Problem]:
    ports: tuple[Port | None, ...] = spec.steer.ports
    spans = [
        (port.number, port.first, port.last, i) for i, port in enumerate(ports) if port is not None
    ]
    for later, earlier in _covered(spans):
        yield Problem(
            f"steer.ports[{later}]",
            str(ports[later]),
            f"overlaps steer.ports[{earlier}] ({ports[earlier]})",
            "write each port once",
        )


def _ends(net: Network) -> tuple[int, int]:
    return int(net.network_address), int(net.broadcast_address)


def _covered(spans: list[tuple[int, int, int, int]]) -> Iterator[tuple[int, int]]:
    """From (group, first, last, index): pairs of indexes (later, earlier) whose spans overlap.

    Every overlapping span is in at least one pair, in O(n log n).
    """
    widest: tuple[int, int, int, int] | None = None
    for span in sorted(spans, key=lambda s: (s[0], s[1], -s[2], s[3])):
        if widest and widest[0] == span[0] and span[1] <= widest[2]:
            yield max(widest[3], span[3]), min(widest[3], span[3])
            if span[2] <= widest[2]:
                continue
        widest = span


def _common_port(a: Sequence[Port], b: Sequence[Port]) -> Port | None:
    for one in a:
        for other in b:
            first, last = max(one.first, other.first), min(one.last, other.last)
            if one.proto == other.proto and first <= last:
                return Port(one.proto, first, last)
    return None


def _common_network(a: Sequence[Network], b: Sequence[Network]) -> Network | None:
    """The narrower of the first two that overlap, in O(n log n): networks nest or are apart."""
    spans = [(net.version, *_ends(net), side, net) for side in (0, 1) for net in (a, b)[side]]
    reach: list[tuple[int, int, Network] | None] = [None, None]  # of each side, the farthest yet
    for version, first, last, side, net in sorted(spans, key=lambda s: (s[0], s[1], -s[2])):
        other = reach[1 - side]
        if other and other[0] == version and other[1] >= first:
            return net
        mine = reach[side]
        if not mine or (mine[0], mine[1]) < (version, last):
            reach[side] = (version, last, net)
    return None
