"""The controller's metrics in Prometheus' text format (version 0.0.4): docs/metrics.md.

`text` gathers what the parts know; `render` is pure. How many series there are is bounded by the
services, their instances (at most 32 each), the reasons of the data path and the kinds of events.
Source: prometheus.io/docs/instrumenting/exposition_formats.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct
from msgspec.structs import asdict

from viscum.controller.guard.law import Reading
from viscum.kernel import itself
from viscum.model import Histogram
from viscum.status import ServiceStatus

if TYPE_CHECKING:
    from viscum.controller.main import Controller

MEDIA = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = range(4, 23)  # 16 µs to 4.2 s; what is measured more finely is added up


class Family(NamedTuple):
    name: str
    kind: str
    help: str


_HOST = (
    Family("viscum_build_info", "gauge", "Always 1; version: of the controller."),
    Family("viscum_services", "gauge", "Services of this host."),
    Family("viscum_guard_signal", "gauge", "What the load guard measures, in the signal's unit."),
    Family("viscum_guard_set_point", "gauge", "From which value on services give way."),
    Family("viscum_guard_pressure_ratio", "gauge", "1: the signal is at its set-point."),
    Family("viscum_events_total", "counter", "Events told, by kind."),
    Family("process_cpu_seconds_total", "counter", "Processor time of the controller."),
    Family("process_resident_memory_bytes", "gauge", "Resident memory of the controller."),
    Family("process_open_fds", "gauge", "Open file descriptors of the controller."),
    Family("process_start_time_seconds", "gauge", "When it was started, seconds since 1970."),
)
_SERVICE = (
    Family("viscum_service_info", "gauge", "Always 1; whose the service is and its director."),
    Family("viscum_service_up", "gauge", "1: a server of the newest generation listens."),
    Family("viscum_service_steered", "gauge", "1: new flows go to the edge, as far as share goes."),
    Family("viscum_service_healthy", "gauge", "By its probe; missing while that is not known."),
    Family("viscum_service_share_asked_ratio", "gauge", "Share of new flows its spec asks for."),
    Family("viscum_service_share_effective_ratio", "gauge", "Share of new flows it has now."),
    Family("viscum_service_held_ratio", "gauge", "The most the controller lets it have, and why."),
    Family("viscum_service_flows", "gauge", "Open flows of clients at the edge."),
    Family("viscum_service_restarts_total", "counter", "Servers started again."),
    Family("viscum_service_packets_total", "counter", "Packets, by the data path's decision."),
    Family("viscum_service_redirected_bytes_total", "counter", "Bytes of clients at the edge."),
    Family("viscum_service_own_bytes_total", "counter", "Bytes of the server's own flows."),
    Family("viscum_service_off_wan_bytes", "gauge", "Redirected less own bytes."),
    Family("viscum_service_connect_seconds", "histogram", "From the SYN to the server's SYN-ACK."),
    Family("viscum_service_client_rtt_seconds", "histogram", "From SYN-ACK to client's ACK."),
    Family("viscum_instance_cpu_seconds_total", "counter", "Processor time used."),
    Family("viscum_instance_cpu_throttled_seconds_total", "counter", "Held back by its CPU limit."),
    Family("viscum_instance_memory_bytes", "gauge", "Memory in use."),
    Family("viscum_instance_oom_kills_total", "counter", "Processes ended for want of memory."),
    Family("viscum_instance_processes", "gauge", "Processes that run."),
)
FAMILIES = (*_HOST, *_SERVICE)


class Host(Struct, frozen=True):
    """What is nobody's in particular. events: how many of each kind."""

    itself: itself.Usage
    signals: tuple[Reading, ...] = ()
    events: Mapping[str, int] = {}


class Seen(Struct, frozen=True):
    """One service. healthy None: it has no probe, or no answer yet."""

    status: ServiceStatus
    tenant: str = ""
    restarts: int = 0
    healthy: bool | None = None


async def text(controller: Controller, mine: Collection[str] | None = None) -> str:
    """mine: the services that whoever asks may see; None: all, and the host's own metrics."""
    world = controller.engine.world
    seen = []
    for status in await controller.engine.snapshot():
        record = world.services.get(status.name)
        if record is None or (mine is not None and status.name not in mine):
            continue
        state = controller.probes.health(status.name).state
        seen.append(
            Seen(
                status,
                record.tenant,
                controller.supervisor.restarts.get(status.name, 0),
                {"healthy": True, "unhealthy": False}.get(state),
            )
        )
    host = None
    if mine is None:
        host = Host(itself.usage(), controller.guard.signals(), controller.events.counts)
    return render(seen, host)


def render(services: Iterable[Seen], host: Host | None = None) -> str:
    lines = _Lines()
    services = tuple(services)
    if host is not None:
        _host(lines, host, len(services))
    for seen in services:
        _service(lines, seen)
    return lines.text()


def _host(lines: _Lines, host: Host, services: int) -> None:
    lines.add("viscum_build_info", 1, version=version("viscum"))
    lines.add("viscum_services", services)
    for signal in host.signals:
        lines.add("viscum_guard_signal", signal.value, signal=signal.name)
        lines.add("viscum_guard_set_point", signal.set_point, signal=signal.name)
        lines.add("viscum_guard_pressure_ratio", signal.pressure, signal=signal.name)
    for kind, count in sorted(host.events.items()):
        lines.add("viscum_events_total", count, kind=kind)
    lines.add("process_cpu_seconds_total", host.itself.cpu)
    lines.add("process_resident_memory_bytes", host.itself.memory)
    lines.add("process_open_fds", host.itself.descriptors)
    lines.add("process_start_time_seconds", host.itself.started)


def _service(lines: _Lines, seen: Seen) -> None:
    s = seen.status
    steered = s.steering == "edge"

    def add(family: str, value: float | None, **labels: str) -> None:
        if value is not None:
            lines.add(family, value, service=s.name, **labels)

    add("viscum_service_info", 1, tenant=seen.tenant, director=s.director)
    add("viscum_service_up", s.state == "running")
    add("viscum_service_steered", steered)
    add("viscum_service_healthy", seen.healthy)
    add("viscum_service_share_asked_ratio", s.share / 100)
    add("viscum_service_share_effective_ratio", min(s.share, s.held.share) / 100 * steered)
    for why, percent in asdict(s.held).items():
        add("viscum_service_held_ratio", percent / 100, why=why)
    add("viscum_service_flows", s.flows)
    add("viscum_service_restarts_total", seen.restarts)
    for reason, packets in s.decisions.items():
        add("viscum_service_packets_total", packets, reason=reason)
    for direction, redirected, own in (
        ("in", s.in_bytes, s.own_in_bytes),
        ("out", s.out_bytes, s.own_out_bytes),
    ):
        add("viscum_service_redirected_bytes_total", redirected, direction=direction)
        add("viscum_service_own_bytes_total", own, direction=direction)
    add("viscum_service_off_wan_bytes", s.off_wan_bytes)
    lines.histogram("viscum_service_connect_seconds", s.connect, service=s.name)
    lines.histogram("viscum_service_client_rtt_seconds", s.rtt, service=s.name)
    for instance in (i for g in s.generations for i in g.instances):
        generation, _, index = instance.label.partition(".")
        for name, value in (
            ("cpu_seconds_total", instance.cpu),
            ("cpu_throttled_seconds_total", instance.throttled),
            ("memory_bytes", instance.memory),
            ("oom_kills_total", instance.oom_kills),
            ("processes", instance.processes),
        ):
            add(f"viscum_instance_{name}", value, generation=generation, index=index)


class _Lines:
    """Samples by family, since those of one have to stand together."""

    def __init__(self) -> None:
        self._by_family: dict[str, list[str]] = {}

    def add(self, family: str, value: float, **labels: str) -> None:
        self._add(family, family, value, labels)

    def histogram(self, family: str, histogram: Histogram, **labels: str) -> None:
        counts = histogram.counts
        below = sum(counts[: BUCKETS.start])
        for n in BUCKETS:
            below += counts[n] if n < len(counts) else 0
            self._add(family, f"{family}_bucket", below, labels | {"le": repr(2**n / 1e6)})
        self._add(family, f"{family}_bucket", histogram.count, labels | {"le": "+Inf"})
        self._add(family, f"{family}_sum", histogram.sum_us / 1e6, labels)
        self._add(family, f"{family}_count", histogram.count, labels)

    def _add(self, family: str, name: str, value: float, labels: Mapping[str, str]) -> None:
        pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        number = int(value) if isinstance(value, int) else value
        self._by_family.setdefault(family, []).append(
            f"{name}{{{pairs}}} {number!r}" if pairs else f"{name} {number!r}"
        )

    def text(self) -> str:
        parts: list[str] = []
        for family in FAMILIES:
            if samples := self._by_family.get(family.name):
                parts.append(f"# HELP {family.name} {family.help}")
                parts.append(f"# TYPE {family.name} {family.kind}")
                parts += samples
        return "\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    if text.isalnum():
        return text
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
