"""ls (ps), status, logs: what is, as tables, JSON or lines."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import click
import msgspec

from viscum import status as what
from viscum.cli import common
from viscum.cli.output import as_json, fields, note, say, table
from viscum.clock import now
from viscum.errors import ViscumError
from viscum.host import Host
from viscum.model import Histogram, Hold

if TYPE_CHECKING:
    from viscum.cli.common import Target
    from viscum.cli.remote import RemoteHost


@click.command()
@click.option("--json", "json_", is_flag=True, help="As JSON.")
@click.pass_context
def ls(ctx: click.Context, json_: bool) -> None:
    """The services of this host, read back from the kernel.

    \b
    Example:
      viscum ls
    """
    found = services(common.target(ctx))
    if json_:
        as_json(msgspec.to_builtins(found))
        return
    table(
        ("NAME", "STATE", "STEERING", "GEN", "PID", "FLOWS", "IN", "OUT", "TARGETS"),
        (
            (
                s.name,
                s.state,
                _steering(s),
                ",".join(str(g.number) for g in s.generations) or "-",
                ",".join(str(i.pid) for g in s.generations for i in g.instances if i.pid) or "-",
                s.flows,
                size(s.in_bytes),
                size(s.out_bytes),
                _short(s.targets),
            )
            for s in found
        ),
    )


def services(
    host: Target, names: tuple[str, ...] = (), *, deep: bool = False
) -> list[what.ServiceStatus]:
    if isinstance(host, Host):
        return what.services(host, names, deep=deep)
    return host.services(names, deep=deep)


ps = copy(ls)  # podman's name for it
ps.name, ps.help = "ps", (ls.help or "").replace("viscum ls", "viscum ps")


@click.command()
@click.argument("name")
@click.option("--json", "json_", is_flag=True, help="As JSON.")
@click.pass_context
def status(ctx: click.Context, name: str, json_: bool) -> None:
    """Everything about one service: generations, listeners, flows, decisions, drift.

    \b
    Example:
      viscum status web
    """
    host = common.target(ctx)
    host.known(host.load(), name)
    s = services(host, (name,), deep=True)[0]
    if json_:
        as_json(msgspec.to_builtins(s))
        return
    fields(
        {
            "name": s.name,
            "state": s.state,
            "steering": f"{_steering(s)} by {s.director} on {', '.join(s.interfaces)}",
            **({"held": _held(s.held)} if s.held.share < 100 else {}),
            "targets": ", ".join(s.targets),
            "ports": ", ".join(s.ports) or "all",
            "flows": s.flows,
            "bytes": f"{size(s.in_bytes)} in, {size(s.out_bytes)} out",
            "own bytes": f"{size(s.own_in_bytes)} in, {size(s.own_out_bytes)} out",
            "accept time": _times(s.connect),
            "round trip": _times(s.rtt),
        }
    )
    for g in s.generations:
        ends = "" if g.ends_in is None else f", flows end in {g.ends_in:.0f} s"
        say(f"generation {g.number}: {g.state}{ends}")
        for i in g.instances:
            memory = "" if i.memory is None else f", {size(i.memory)}"
            cpu = "" if i.cpu is None else f", {i.cpu:.2f} s CPU"
            where = f"pid {i.pid}" if i.pid else "no process"
            say(f"  {i.label}: {where} in {i.namespace} by {i.link}, {i.flows} flows{memory}{cpu}")
            say(f"       listens on {', '.join(i.listens) or 'nothing'}")
    if s.decisions:
        say("packets by decision:")
        for reason, packets in sorted(s.decisions.items(), key=lambda item: -item[1]):
            say(f"  {packets:>12}  {reason}")
    for line in s.drift:
        say(f"differs from what was asked: {line}")


def _steering(s: what.ServiceStatus) -> str:
    now = min(s.share, s.held.share)
    share = f" {now:.0f}%" if s.steering == "edge" and now < 100 else ""
    back = "" if s.turns_back_in is None else f" for {s.turns_back_in:.0f}s"
    return f"{s.steering}{share}{back}"


def _held(hold: Hold) -> str:
    why = {
        hold.quota: "its tenant has as many flows as it may",
        hold.load: "the box is short",
        hold.health: "it is unhealthy",
    }[hold.share]
    return f"at {hold.share:.0f}% of new flows by a controller ({why}); `viscum enable` lets go"


def _short(values: tuple[str, ...]) -> str:
    shown = [v.removesuffix("/32").removesuffix("/128") for v in values[:2]]
    return ",".join(shown) + (f",+{len(values) - 2}" if len(values) > 2 else "")


def _times(histogram: Histogram) -> str:
    """How long a half of them took at most, and nearly all."""
    middle, most = histogram.quantile(0.5), histogram.quantile(0.99)
    if middle is None or most is None:
        return "-"
    return f"{_time(middle)} (99 %: {_time(most)}) of {histogram.count} connections"


def _time(seconds: float) -> str:
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def size(count: float) -> str:
    """Bytes in the largest unit that leaves at least 1."""
    for unit in ("", "K", "M", "G"):
        if count < 1024:
            return f"{count:.0f}{unit}" if unit == "" else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}T"


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what comes.")
@click.option("--since", type=common.DURATION, metavar="DURATION", help="Only of the last T.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Only the last N lines."
)
@click.pass_context
def logs(
    ctx: click.Context, name: str, follow: bool, since: float | None, lines: int | None
) -> None:
    """What the service's server printed (its bounded log, oldest generation first).

    \b
    Example:
      viscum logs web -f
    """
    from viscum.kernel import logs as files

    host = common.target(ctx)
    world = host.load()
    if not isinstance(host, Host):
        host.known(world, name)
        _logs_from(host, name, follow, since, lines)
        return
    directory = host.store.logs / name
    paths = sorted(str(p) for p in directory.glob("*.log")) if directory.is_dir() else []
    if not paths:
        host.known(world, name)  # says so if there is no such service
        raise ViscumError(
            f"{name} has no log",
            hint=f"where there is a journal: journalctl -t {name}.1.0 (generation, instance)",
        )
    ends = {}
    since_ns = None if since is None else int((now() - since) * 1e9)
    for path in paths:
        tail = files.tail(path, lines, since_ns=since_ns)
        if since is not None and tail.since_ns is None:
            note(f"note: {path} has no mark that old; showing it from its start")
        ends[path] = tail.end
        for line in tail.lines:
            say(line)
    if follow:
        for _, line in files.follow(ends):
            click.echo(line)  # ends when nobody reads it any more


def _logs_from(
    host: RemoteHost, name: str, follow: bool, since: float | None, lines: int | None
) -> None:
    if follow:
        for line in host.follow(name, lines, since):
            click.echo(line)
        return
    for log in host.logs(name, lines, since):
        if not log.complete:
            note(f"note: {log.label} has no mark that old; showing it from its start")
        for line in log.lines:
            say(line)
