"""doctor: what this box can do, and what stands in the way."""

from __future__ import annotations

import click
import msgspec

from viscum import doctor as examiner
from viscum.cli import common
from viscum.cli.output import as_json, say

SIGNS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--json", "json_", is_flag=True, help="As JSON.")
@click.pass_context
def doctor(ctx: click.Context, json_: bool) -> None:
    """What this box can do, and what on it stands in a service's way. Changes nothing.

    \b
    Example:
      viscum doctor
    """
    found = examiner.examine(common.host(ctx).names)
    if json_:
        as_json(msgspec.to_builtins(found))
    for f in () if json_ else found:
        say(f"{click.style(SIGNS[f.level], fg=COLOURS[f.level])}  {f.what}")
        if f.fix:
            say(f"      {f.fix}")
    ctx.exit(1 if any(f.level == "fail" for f in found) else 0)
