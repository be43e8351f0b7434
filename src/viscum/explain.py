"""What happens to one packet, and why: the loaded program's own answer, in one sentence (N14)."""

from __future__ import annotations

from msgspec import Struct

from viscum import doctor, names
from viscum.errors import InputError, Problem, ViscumError
from viscum.host import Host
from viscum.kernel import director
from viscum.kernel.director.explain import SYNTAX, Packet, parse
from viscum.kernel.observe import observe
from viscum.model import FREE, Hold, HostLink
from viscum.store import Record, World

# What the program says (abi.REASONS) in words: what happens, and the rule, socket or state that is
# the reason. {t} the target, {p} the port, {s} the service, {g} the generation.
REASONS = {
    "miss": ("cloud", "no service claims {t} {p}"),
    "iface": ("cloud", "{s} does not serve this interface"),
    "client": ("cloud", "{c} is not among the clients of {s}, and it has no flow there"),
    "edge-established": ("edge", "a connection of {s} ({g}) with this 4-tuple is open"),
    "edge-request": ("edge", "{s} ({g}) has a half-open connection with this 4-tuple"),
    "edge-time-wait": ("edge", "{s} ({g}) remembers this 4-tuple in TIME_WAIT"),
    "edge-cookie": ("edge", "the ACK carries a SYN cookie of {s} ({g})"),
    "edge-syn": ("edge", "{s} is enabled and its {g} listens on port {p}"),
    "cloud-no-socket": ("cloud", "it begins no connection, and no socket of {s} knows it"),
    "cloud-no-listener": ("cloud", "nothing in {s} listens on port {p}"),
    "cloud-disabled": ("cloud", "{s} is disabled, and this would be a new flow"),
    "cloud-share": ("cloud", "{c} is not within the {share} % of {s}"),
    "cloud-held": ("cloud", "{s} is held at {held} ({holder}), and this would be a new flow"),
    "cloud-syn-again": ("cloud", "the same SYN went to the cloud before"),
    "cloud-away": ("cloud", "a newer connection with these ports went to the cloud"),
    "cloud-hung": ("cloud", "{s} has not answered this SYN before (its accept queue is full)"),
    "cloud-join": ("cloud", "it joins a Multipath TCP connection of the cloud"),
    "edge-udp-new": ("edge", "{s} is enabled and its {g} has a socket on port {p}"),
    "edge-udp": ("edge", "this flow is known to be of {s} ({g})"),
    "edge-udp-connected": ("edge", "{s} ({g}) has a socket connected to this client"),
    "cloud-udp": ("cloud", "this UDP flow is, or would become, one of the cloud"),
    "cloud-udp-arming": ("cloud", "{s} has just begun: unknown UDP flows are taken for older ones"),
    "cloud-udp-no-socket": ("cloud", "nothing in {s} has a socket on port {p}"),
    "cloud-udp-not-initial": ("cloud", "only a QUIC Initial begins a flow of {s}"),
    "cloud-udp-full": ("cloud", "the map of UDP flows is full"),
    "edge-icmp": ("edge", "it is an error about a flow of {s} ({g})"),
    "cloud-icmp": ("cloud", "it is about no flow of {s}"),
    "edge-ping": ("edge", '{s} answers echo requests (ping = "edge")'),
    "cloud-ping": ("cloud", '{s} leaves echo requests to the cloud (ping = "cloud")'),
    "edge-fragment": ("edge", "its first fragment went to {s} ({g})"),
    "cloud-fragment": ("cloud", "its first fragment went to the cloud, or was not seen"),
    "cloud-dead": ("cloud", "the namespace or the link of {s} is gone or down"),
    "cloud-other": ("cloud", "it is neither TCP, UDP nor ICMP, or can't be parsed"),
    "drop-down": ("dropped", '{s} can\'t take it and says when-down = "drop"'),
    "not-host": ("cloud", "the frame is not addressed to this box (a bridging access point?)"),
    "not-attached": ("cloud", "no director is attached to this interface"),
}
PLACES = {
    "edge": "goes to the edge",
    "cloud": "goes on to the cloud",
    "dropped": "is dropped",
}


class Answer(Struct, frozen=True):
    """where: edge, cloud or dropped; reason: the program's own word; sentence: the same in words.

    bypassed: hooks of the operator's firewall that the packet does not pass.
    """

    where: str
    reason: str
    sentence: str
    interface: str
    service: str = ""
    generation: int = 0
    namespace: str = ""
    bypassed: tuple[str, ...] = ()


def explain(host: Host, packet: str, *, name: str = "", interface: str = "") -> Answer:
    """Asks about `packet` (director.explain.SYNTAX) as if it came in by `interface`, by default
    the first client interface of the service `name`. Raises InputError, ViscumError."""
    world = host.load()
    try:
        asked = parse(packet)
    except ValueError as error:
        raise InputError(Problem("PACKET", packet, str(error), f"write it as: {SYNTAX}")) from None
    record = host.known(world, name) if name else None
    if record is not None and not interface:
        interface = record.spec.steer.interfaces[0]
    link = _link(host, interface)
    for by in director.installed(attach=host.attach):
        found = by.explain(link.ifindex, asked.frame(link.mac))
        if found.reason != "not-attached":
            break
    hold = by.holds().get(found.sid, FREE) if found.reason == "cloud-held" else FREE
    return _answer(world, host.names, found, asked, link, hold)


def _link(host: Host, interface: str) -> HostLink:
    links = observe(host.names, inside=()).links
    if interface not in links:
        raise InputError(
            Problem("--on", interface, "no such interface here", f"there are: {', '.join(links)}")
        )
    return links[interface]


def _answer(
    world: World,
    host: names.HostNames,
    found: director.Explanation,
    packet: Packet,
    link: HostLink,
    hold: Hold,
) -> Answer:
    if found.reason not in REASONS:
        raise ViscumError(
            f"the data path answers {found.reason!r}, which this viscum does not know",
            hint="it was loaded by another version: `viscum tidy` replaces it",
        )
    where, why = REASONS[found.reason]
    record = next((r for r in world.services.values() if found.sid in r.sids), None)
    if record and record.unready and found.reason in ("cloud-no-listener", "cloud-udp-no-socket"):
        why = "{s} takes no flows before its run.ready has ended with 0"
    namespace = _namespace(record, host, found) if where == "edge" else ""
    words = why.format(
        t=packet.dst,
        c=packet.src,
        p=packet.dport or "",
        s=record.name if record else "a service",
        g=f"generation {found.generation}",
        share=record.spec.steer.share if record else "",
        held=f"{hold.share:.0f} %",
        holder={
            hold.quota: "its tenant has as many flows as it may",
            hold.load: "the load of this box",
            hold.health: "its health",
        }[hold.share],
    )
    into = f" ({namespace})" if namespace else ""
    bypassed: tuple[str, ...] = ()
    if where == "edge" and record is not None and record.spec.steer.firewall == "bypass":
        bypassed = tuple(doctor.bypassed_hooks())
    return Answer(
        where=where,
        reason=found.reason,
        sentence=f"The packet {PLACES[where]}{into}: {words}.",
        interface=link.name,
        service=record.name if record else "",
        generation=found.generation,
        namespace=namespace,
        bypassed=bypassed,
    )


def _namespace(record: Record | None, host: names.HostNames, found: director.Explanation) -> str:
    for generation in record.generations if record else ():
        if found.slot in generation.slots and record is not None:
            index = generation.slots.index(found.slot)
            return host.netns(record.name, generation.number, index)
    return ""
