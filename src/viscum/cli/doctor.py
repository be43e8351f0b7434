"""doctor: what this box can do, and what stands in the way."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from viscum import doctor as examiner
from viscum.cli import common
from viscum.cli.output import as_json, say
from viscum.spec import Port
from viscum.spec.values import BadValue

SIGNS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


class OnePort(click.ParamType[Port]):
    name = "PORT/PROTO"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Port:
        try:
            port = Port.parse(value)
        except BadValue as error:
            self.fail(f"{value!r} {error}", param, ctx)
        if port.first != port.last:
            self.fail(f"{value!r} is more than one port", param, ctx)
        return port


@click.command()
@click.argument("name", required=False)
@click.option(
    "--port",
    "ports",
    multiple=True,
    type=OnePort(),
    help="Where NAME's clients speak TLS, besides the usual ports.",
)
@click.option("--json", "json_", is_flag=True, help="As JSON.")
@click.pass_context
def doctor(ctx: click.Context, name: str | None, ports: tuple[Port, ...], json_: bool) -> None:
    """What this box can do, and what on it stands in a service's way; with NAME, whether clients
    accept the certificate that this service shows, too. Changes nothing.

    \b
    Example:
      viscum doctor web
    """
    if ports and name is None:
        raise click.UsageError("--port goes with NAME")
    host = common.host(ctx)
    found = examiner.examine(host.names) if name is None else host.examine(name, ports)
    if json_:
        as_json(msgspec.to_builtins(found))
    for f in () if json_ else found:
        say(f"{click.style(SIGNS[f.level], fg=COLOURS[f.level])}  {f.what}")
        if f.fix:
            say(f"      {f.fix}")
    ctx.exit(1 if any(f.level == "fail" for f in found) else 0)
