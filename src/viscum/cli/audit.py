"""audit: who changed what; and how the other commands note what they change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click
import msgspec

from viscum.cli import common
from viscum.cli.output import note, say
from viscum.controller import settings
from viscum.controller.who.access import Principal
from viscum.controller.who.audit import Audit, Deed, Entry, of_settings
from viscum.errors import ViscumError
from viscum.rights import need_root


def audit_of() -> Audit:
    return of_settings(settings.read(common.config_dir()).audit, common.config_dir())


@contextmanager
def noted(action: str, thing: str, tenant: str, changes: tuple[str, ...] = ()) -> Iterator[None]:
    """Notes the change in the audit log. Root on the box is not stopped by one that can't be
    written, which is said."""
    who = os.environ.get("SUDO_USER") or "root"
    principal = Principal(who, None, "admin", "command")
    outcome = "done"
    try:
        yield
    except ViscumError as error:
        outcome = f"failed: {error.message if hasattr(error, 'message') else error}"
        raise
    finally:
        try:
            audit_of().write(Deed(principal, action, thing, tenant, changes), outcome)
        except ViscumError as error:
            note(f"warning: {error.args[0]}; this change is not in it")


@click.command()
@click.argument("what", type=click.Choice(["show", "verify"]), default="show", metavar="[verify]")
@click.option("--tenant", "of", metavar="TENANT", help="Of one tenant only.")
@click.option(
    "-n", "--lines", type=click.IntRange(1, 100000), default=50, show_default=True,
    help="So many of the newest.",
)  # fmt: skip
@click.option("--json", "json_", is_flag=True, help="As JSON, one entry a line.")
def audit(what: str, of: str | None, lines: int, json_: bool) -> None:
    """Who changed what, and what became of it. `verify`: whether every line of the log is there and
    is what was written.

    \b
    Example:
      viscum audit -n 20
      viscum audit verify
    """
    need_root()
    log = audit_of()
    if what == "verify":
        verify(log)
        return
    for entry in log.newest(lines, of):
        say(msgspec.json.encode(entry).decode() if json_ else _line(entry))


def _line(e: Entry) -> str:
    of = f" [{e.tenant}]" if e.tenant else ""
    changes = f" ({'; '.join(e.changes)})" if e.changes else ""
    return f"{e.n} {e.at} {e.principal} by {e.how}{of} {e.action} {e.object}: {e.outcome}{changes}"


def verify(log: Audit) -> None:
    """Raises ViscumError for a log that is not what was written."""
    verdict = log.verify()
    for line in verdict.wrong:
        note(f"viscum: {line}")
    if verdict.wrong:
        raise ViscumError(
            f"{log.path} is not what was written: {len(verdict.wrong)} faults",
            state="nothing was changed",
            hint="compare it with the copies of its lines in the controller's own log",
        )
    if verdict.last is None:
        say("no entry yet")
        return
    first = "from the first one on" if verdict.begins == 1 else f"from entry {verdict.begins} on"
    say(f"{verdict.entries} entries, {first}; the newest is {verdict.last.n}, {verdict.last.hash}")
