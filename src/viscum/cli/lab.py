"""lab: a client, an access point and a cloud in namespaces of this machine."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from viscum.cli import common
from viscum.cli.output import as_json, fields, note, say
from viscum.lab import Firewall, Lab
from viscum.rights import need_root


class Rate(click.ParamType[float]):
    """50mbit, 1gbit, 64kbit; 0: no limit. In bit/s."""

    name = "RATE"
    UNITS = (("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3), ("bit", 1.0), ("", 1.0))

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value).lower()
        for unit, scale in self.UNITS:
            if text.endswith(unit):
                try:
                    return float(text[: len(text) - len(unit)]) * scale
                except ValueError:
                    break
        raise click.BadParameter(f"{value!r} is not a rate; write for example 50mbit", ctx, param)


@click.group()
def lab() -> None:
    """A client, an access point and a cloud in namespaces of this machine.

    \b
    Example:
      viscum lab up
      viscum lab exec ap -- viscum ls
      viscum lab exec ue -- curl -s http://198.18.0.10/
      viscum lab down
    """


@lab.command()
@click.option("--wan-rtt", type=common.DURATION, default="60ms", show_default=True)
@click.option("--wan-rate", type=Rate(), default="50mbit", show_default=True)
@click.option("--radio-rate", type=Rate(), default="300mbit", show_default=True)
@click.option("--loss", type=float, default=0.0, show_default=True, help="0 … 1, on the WAN.")
@click.option("--clients", type=int, default=1, show_default=True)
@click.option(
    "--firewall",
    type=click.Choice([str(f) for f in Firewall]),
    default=str(Firewall.ROUTER),
    show_default=True,
    help="What the access point's operator has set up.",
)
@click.option("--dns", is_flag=True, help="Name servers that know cloud.example.")
def up(**settings: Any) -> None:
    """Build it (again).

    \b
    Example:
      viscum lab up --wan-rtt 60ms --wan-rate 50mbit
      viscum lab up --dns --clients 2
    """
    need_root()
    made = Lab(**settings)
    note("building the lab")
    made.up()
    say(f"the lab is up: {', '.join(made.status().namespaces)}")
    say("try: viscum lab exec ap -- viscum doctor")


@lab.command()
def down() -> None:
    """Take it away, with every process in it.

    \b
    Example:
      viscum lab down
    """
    need_root()
    Lab().down()
    say("the lab is down")


@lab.command()
@click.option("--json", "json_", is_flag=True, help="As JSON.")
@click.pass_context
def status(ctx: click.Context, json_: bool) -> None:
    """Whether it is up, and what runs in it.

    \b
    Example:
      viscum lab status
    """
    found = Lab().status()
    if json_:
        as_json(msgspec.to_builtins(found))
        return
    say("up" if found.up else "down")
    if found.settings is not None:
        s = found.settings
        fields(
            {
                "wan": f"{s.wan_rtt * 1e3:g} ms RTT, {s.wan_rate / 1e6:g} Mbit/s by {found.wire}",
                "radio": f"{s.radio_rate / 1e6:g} Mbit/s",
            }
        )
    for name, pids in found.processes.items():
        say(f"{name}: {', '.join(map(str, pids)) or 'no process'}")
    ctx.exit(0 if found.up else 1)


@lab.command(name="exec", context_settings={"allow_interspersed_args": False})
@click.argument("role")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(role: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on a client (ue, ue2, …), the access point (ap) or the cloud.

    \b
    Example:
      viscum lab exec ue -- ping -c3 198.18.0.10
    """
    need_root()
    Lab().exec_in(role, common.without_dashes(command))
