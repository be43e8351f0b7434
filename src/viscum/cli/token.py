"""token: who may speak to the API over TLS, by a token or a client certificate."""

from __future__ import annotations

import time
from typing import Any, cast

import click
import msgspec

from viscum.cli import common
from viscum.cli.audit import noted
from viscum.cli.output import as_json, note, say, table
from viscum.controller.who.tokens import ROLES, Credential, Kind, Role, Tokens
from viscum.errors import InputError, Problem
from viscum.rights import need_root
from viscum.tenancy.files import Tenants


@click.group()
def token() -> None:
    """Who may speak to the controller's API over TLS.

    \b
    Example:
      viscum token add alice --role viewer --expires 30d >alice.token
    """


@token.command("add")
@click.argument("name")
@click.option("--tenant", "of", metavar="TENANT", help="Whose; none given: the host's own.")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="viewer",
    show_default=True,
    help="viewer looks, operator changes services, admin also tenants and tokens.",
)
@click.option(
    "--expires", type=common.DURATION, metavar="DURATION", help="Counts for so long; else for ever."
)
@click.option(
    "--certificate", is_flag=True, help="No token: a client certificate whose common name is NAME."
)
@click.pass_context
def token_add(
    ctx: click.Context,
    name: str,
    of: str | None,
    role: str,
    expires: float | None,
    certificate: bool,
) -> None:
    """Make a token for NAME and print it: now, and never again.

    \b
    Example:
      viscum token add acme-deploy --tenant acme --role operator --expires 90d
    """
    need_root()
    if of is not None:
        Tenants(common.config_dir()).get(of)
    kind: Kind = "certificate" if certificate else "token"
    with noted("token.add", name, of or "", (f"role: {role}", f"kind: {kind}")):
        made, secret = Tokens(common.config_dir()).add(name, cast(Role, role), of, expires, kind)
    if secret:
        say(secret)
    until = f" until {_when(made.expires)}" if made.expires else ", for ever"
    note(f"{kind} {made.id} of {name}: {role} of {of or 'the host'}{until}")
    if made.expires is None:
        note("note: --expires 90d would end it by itself")


def _when(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@token.command("ls")
@click.option("--tenant", "of", metavar="TENANT", help="Of one tenant only.")
@click.option("--json", "json_", is_flag=True, help="As JSON.")
def token_ls(of: str | None, json_: bool) -> None:
    """The tokens there are: never the secrets.

    \b
    Example:
      viscum token ls --tenant acme
    """
    need_root()
    found = [c for c in Tokens(common.config_dir()).all().values() if of in (None, c.tenant)]
    if json_:
        as_json([credential(c) for c in found])
        return
    table(
        ("ID", "NAME", "TENANT", "ROLE", "KIND", "CREATED", "EXPIRES"),
        (
            (
                c.id,
                c.name,
                c.tenant or "-",
                c.role,
                c.kind,
                _when(c.created),
                _when(c.expires) if c.valid(time.time()) else "expired",
            )
            for c in found
        ),
    )


def credential(c: Credential) -> dict[str, Any]:
    return {k: v for k, v in msgspec.to_builtins(c).items() if k != "digest"}


@token.command("rm")
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
def token_rm(ids: tuple[str, ...]) -> None:
    """Take tokens away, by the number that `ls` shows; open streams end with them.

    \b
    Example:
      viscum token rm 4c9cdfa4
    """
    need_root()
    tokens = Tokens(common.config_dir())
    known = tokens.all()
    unknown = [i for i in ids if i not in known]
    if unknown:
        raise InputError(
            *(Problem("ID", i[:20], "no such token", "see `viscum token ls`") for i in unknown)
        )
    for number in dict.fromkeys(ids):
        c = known[number]
        with noted("token.remove", c.name, c.tenant or ""):
            tokens.remove({number})
        say(f"{number} ({c.name}) removed")
