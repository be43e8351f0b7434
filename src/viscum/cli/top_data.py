"""What `viscum top` shows: looks at a host, once a second, and what happened between them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import Struct, field

from viscum import status
from viscum.errors import ViscumError
from viscum.host import Host
from viscum.kernel import load, logs
from viscum.model import Histogram
from viscum.status import ServiceStatus

if TYPE_CHECKING:
    from viscum.remote import Client

PACE = 1.0  # seconds between two looks
WINDOW = 10.0  # seconds over which latency is told
AGAIN = 2.0  # seconds after which a host that could not be looked at is tried again
LOG_LINES, EVENTS = 200, 50
DRAIN = 30.0  # seconds that the key for it gives open flows


class Seen(Struct, frozen=True):
    """One service in one look. restarts, health: None without a controller."""

    name: str
    status: ServiceStatus | None
    restarts: int | None = None
    health: str | None = None


class Look(Struct, frozen=True):
    """at: CLOCK_MONOTONIC. signals: of the box's load, in words."""

    at: float
    services: tuple[Seen, ...]
    signals: tuple[str, ...] = ()


class Row(Struct, frozen=True):
    """One service, as shown. bit/s, seconds, processors, bytes; None: nobody can tell."""

    name: str
    state: str
    steering: str
    share: float
    flows: int
    in_rate: float
    out_rate: float
    connect: tuple[float, float] | None  # SYN to SYN-ACK: median and 99 %
    rtt: tuple[float, float] | None  # to the clients: the same
    cpu: float | None
    memory: int | None
    restarts: int | None
    health: str | None
    decisions: dict[str, int] = field(default_factory=dict)
    decision_rates: dict[str, float] = field(default_factory=dict)
    status: ServiceStatus | None = None


class Detail(Struct, frozen=True):
    """Of one service: what has happened, and what its server printed last."""

    events: tuple[str, ...] = ()
    log: tuple[str, ...] = ()


class Source(Protocol):
    """Where looks come from; raises ViscumError, OSError."""

    place: str

    def looks(self) -> Iterator[Look]: ...
    def detail(self, name: str) -> Detail: ...
    def act(self, verb: str, name: str) -> None: ...


class Here:
    """This box, without a controller."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.place = "this box"

    def looks(self) -> Iterator[Look]:
        signals = Signals(self.host.names.prefix)
        while True:
            found = tuple(Seen(s.name, s) for s in status.services(self.host))
            yield Look(time.monotonic(), found, signals())
            time.sleep(PACE)

    def detail(self, name: str) -> Detail:
        directory = self.host.store.logs / name
        try:
            newest = max(directory.glob("*.log"), key=lambda p: p.stat().st_mtime)
            return Detail(log=tuple(logs.tail(str(newest), LOG_LINES).lines))
        except (OSError, ValueError):
            return Detail()

    def act(self, verb: str, name: str) -> None:
        if verb == "enable":
            self.host.enable(name)
        else:
            self.host.begin_disable(name, drain=DRAIN if verb == "drain" else None)


class There:
    """A host by its controller. prefix: of this box's control groups, if it is this one."""

    def __init__(self, client: Client, prefix: str | None = None) -> None:
        self.client = client
        self.prefix = prefix
        self.place = str(client.where)

    def looks(self) -> Iterator[Look]:
        signals = Signals(self.prefix) if self.prefix is not None else None
        for sent in self.client.stream("/v1/live"):
            found = tuple(_seen(one) for one in sent.data["services"])
            told = sent.data.get("signals") or ()
            said = signals() if signals else tuple(_signal(**one) for one in told)
            yield Look(time.monotonic(), found, said)

    def detail(self, name: str) -> Detail:
        from viscum.remote import path

        events = self.client.request("GET", "/v1/events", query={"limit": 1000}).body["items"]
        said = [_event(e) for e in events if e["service"] == name][-EVENTS:]
        log: list[str] = []
        found = self.client.request("GET", path("services", name, "logs"), query={"lines": 100})
        for instance in found.body["logs"]:
            log += instance["lines"]
        return Detail(tuple(said), tuple(log[-LOG_LINES:]))

    def act(self, verb: str, name: str) -> None:
        from viscum.remote import path

        body = {"drain": DRAIN} if verb == "drain" else {}
        word = "enable" if verb == "enable" else "disable"
        self.client.request("POST", path("services", name, word), body)


def _seen(one: Any) -> Seen:
    given = one["status"]
    found = msgspec.convert(given, ServiceStatus) if given else None
    return Seen(one["name"], found, one["restarts"], one["health"]["state"])


def _event(event: Any) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(event["at"]))
    return f"{at} {event['message']}"


class Signals:
    """The load of this box since it was asked for last, in words."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._before = load.sample(prefix)

    def __call__(self) -> tuple[str, ...]:
        sample = load.sample(self.prefix)
        found = load.between(self._before, sample)
        if found.seconds < PACE / 2:
            return ()  # too short to say anything
        self._before = sample
        return _signals(found)


def _signal(name: str, value: float, **_: Any) -> str:
    """As a controller tells it."""
    shown = f"{value:.0f}/s" if name in ("drops", "time-squeezes") else f"{value:.0%}"
    return f"{name.replace('-', ' ')} {shown}"


def _signals(now: load.Load) -> tuple[str, ...]:
    said = [f"cpu {now.cpu:.0%} of {now.cpus}"]
    if now.services is not None:
        said.append(f"services {now.services / max(now.cpus, 1):.0%}")
    for name, part in (("cpu", now.cpu_waits), ("memory", now.memory_waits)):
        if part is not None:
            said.append(f"{name} waits {part:.0%}")
    said.append(f"memory left {now.available:.0%}")
    if now.dropped or now.squeezed:
        said.append(f"softnet {now.dropped:.0f} dropped, {now.squeezed:.0f} squeezed/s")
    return tuple(said)


# ---- between looks ---------------------------------------------------------------------------


def rows(window: list[Look]) -> list[Row]:
    """What the last look of the window says; rates since the one before it."""
    if not window:
        return []
    last = window[-1]
    before = window[-2] if len(window) > 1 else None
    old = {s.name: s.status for s in before.services} if before else {}
    first = {s.name: s.status for s in window[0].services}
    seconds = last.at - before.at if before else 0.0
    return [_row(s, old.get(s.name), first.get(s.name), seconds) for s in last.services]


def _row(seen: Seen, old: ServiceStatus | None, first: ServiceStatus | None, seconds: float) -> Row:
    s = seen.status
    if s is None:
        return Row(seen.name, "starting", "", 0, 0, 0, 0, None, None, None, None,
                   seen.restarts, seen.health)  # fmt: skip

    def rate(name: str) -> float:
        return _rate(getattr(s, name), getattr(old, name) if old else None, seconds)

    cpu, old_cpu = _cpu(s), _cpu(old) if old else None
    memory = [i.memory for g in s.generations for i in g.instances if i.memory is not None]
    return Row(
        name=s.name,
        state=s.state,
        steering=s.steering,
        share=min(float(s.share), s.held.share) if s.steering == "edge" else 0.0,
        flows=s.flows,
        in_rate=8 * rate("in_bytes"),
        out_rate=8 * rate("out_bytes"),
        connect=_quantiles(s.connect, first.connect if first else None),
        rtt=_quantiles(s.rtt, first.rtt if first else None),
        cpu=None if cpu is None or not seconds else _rate(cpu, old_cpu, seconds),
        memory=sum(memory) if memory else None,
        restarts=seen.restarts,
        health=seen.health if seen.health != "none" else None,
        decisions=s.decisions,
        decision_rates={
            reason: _rate(n, old.decisions.get(reason, 0) if old else None, seconds)
            for reason, n in s.decisions.items()
        },
        status=s,
    )


def _cpu(s: ServiceStatus) -> float | None:
    used = [i.cpu for g in s.generations for i in g.instances if i.cpu is not None]
    return sum(used) if used else None


def _rate(new: float, old: float | None, seconds: float) -> float:
    """0 where it is not known, or counting has begun anew."""
    return max(0.0, new - old) / seconds if old is not None and seconds > 0 else 0.0


def _quantiles(new: Histogram, old: Histogram | None) -> tuple[float, float] | None:
    """Of what came meanwhile; where nothing did, of all there was."""
    lately = new - old if old is not None else new
    if lately.count <= 0 or min(lately.counts, default=0) < 0:
        lately = new
    half, most = lately.quantile(0.5), lately.quantile(0.99)
    return None if half is None or most is None else (half, most)


class Feed:
    """Looks in a thread of its own; the newest ones, and why there are none."""

    def __init__(self, source: Source, told: Callable[[], None] = lambda: None) -> None:
        self.source = source
        self.told = told
        self.window: deque[Look] = deque()
        self.error = ""
        self.ends: BaseException | None = None  # a fault of ours
        threading.Thread(target=self._run, daemon=True).start()

    def rows(self) -> list[Row]:
        return rows(list(self.window))

    @property
    def latest(self) -> float:
        """When the last look was."""
        return self.window[-1].at if self.window else 0.0

    @property
    def signals(self) -> tuple[str, ...]:
        return self.window[-1].signals if self.window else ()

    def _run(self) -> None:
        while True:
            try:
                for look in self.source.looks():
                    while self.window and self.window[0].at < look.at - WINDOW:
                        self.window.popleft()
                    self.window.append(look)
                    self.error = ""
                    self.told()
                self.error = "the controller has ended"
            except (OSError, ViscumError) as error:
                self.error = getattr(error, "message", None) or str(error)
            except BaseException as error:
                self.ends = error
                return
            finally:
                self.told()
            time.sleep(AGAIN)
