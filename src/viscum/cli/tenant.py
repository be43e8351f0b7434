"""tenant: third parties that run services here, with what each owns and may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec

from viscum.cli import common
from viscum.cli.audit import noted
from viscum.cli.output import as_json, fields, note, say, table
from viscum.controller.who import tenants
from viscum.controller.who.tokens import Tokens
from viscum.rights import need_root
from viscum.spec import to_mapping, to_toml
from viscum.spec.values import Bytes
from viscum.spec.write import toml_of
from viscum.tenancy.files import Tenants
from viscum.tenancy.quota import LIMITED


@click.group()
def tenant() -> None:
    """Third parties that run services of their own here: what each owns and may use.

    \b
    Example:
      viscum tenant add acme --target 203.0.113.0/28 --domain acme.example --on wlan0
    """


@tenant.command("add")
@click.argument("name")
@click.option("--target", "targets", multiple=True, metavar="PREFIX", help="It owns these.")
@click.option("--domain", "domains", multiple=True, metavar="NAME", help="With all below it.")
@click.option("--on", "interfaces", multiple=True, metavar="IF", help="Where it may steer.")
@click.option("--client", "clients", multiple=True, metavar="PREFIX", help="Whose packets.")
@click.option("--pool", metavar="PREFIX", help="A part of the host's pool for its instances.")
@click.option(
    "--quota",
    "quotas",
    multiple=True,
    metavar="KEY=N",
    help="services, cpu, memory, processes, flows or log.",
)
@click.option("--from", "file", type=click.File(), help="The whole file instead; - for stdin.")
@click.option("--replace", is_flag=True, help="Of a tenant that is there, write the file anew.")
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    targets: tuple[str, ...],
    domains: tuple[str, ...],
    interfaces: tuple[str, ...],
    clients: tuple[str, ...],
    pool: str | None,
    quotas: tuple[str, ...],
    file: Any,
    replace: bool,
) -> None:
    """Let a third party run services here, within what is named.

    Writes /etc/viscum/tenants/NAME.toml, which may as well be written by hand: docs/tenants.md.

    \b
    Example:
      viscum tenant add acme --target 203.0.113.0/28 --on wlan0 --quota services=3 --quota cpu=2
    """
    host = common.host(ctx)
    given = {"targets": targets, "domains": domains, "interfaces": interfaces, "clients": clients}
    mapping: dict[str, Any] = {key: list(values) for key, values in given.items() if values}
    if pool:
        mapping["pool"] = pool
    if quotas:
        mapping["quotas"] = dict(map(_quota, quotas))
    if file is not None and mapping:
        raise click.UsageError("give --from or the other options, not both")
    text = toml_of(mapping) if file is None else file.read()
    known = _tenants()
    world = host.load()
    with noted("tenant.put", name, name, tuple(filter(None, text.splitlines()))):
        made = tenants.put(known, name, text, world, replace=replace)
    say(f"{name} may steer {_words(made.targets)} from {_words(made.interfaces)}")
    if not made.interfaces:
        note("note: without an interface (--on) that is nothing yet")
    if made.domains and not made.targets and not made.domains_anywhere:
        note("note: its domains lead nowhere: what they resolve to has to lie in its targets")
    for problem in tenants.status(known, made, world).beyond:
        note(f"note: {problem}")
    note(f"next: viscum token add WHO --tenant {name} --role operator")


def _quota(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals:
        raise click.UsageError(f"--quota {word}: write KEY=N")
    try:
        return key, int(value)
    except ValueError:
        try:
            return key, float(value)
        except ValueError:
            return key, value


def _words(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values)) or "nothing"


def _tenants() -> Tenants:
    need_root()
    return Tenants(common.config_dir())


@tenant.command("ls")
@click.option("--json", "json_", is_flag=True, help="As JSON.")
@click.pass_context
def ls(ctx: click.Context, json_: bool) -> None:
    """The tenants of this box, and what they use.

    \b
    Example:
      viscum tenant ls
    """
    known = _tenants()
    usable, wrong = known.usable()
    world = common.host(ctx).load()
    found = [tenants.status(known, t, world) for t in usable.values()]
    if json_:
        as_json([_plain(s) for s in found])
    else:
        table(
            ("NAME", "SERVICES", "CPU", "MEMORY", "PROCESSES", "TARGETS", "DOMAINS"),
            (
                (
                    s.tenant.name,
                    _of(s, "services"),
                    *(_of(s, name) for name in LIMITED),
                    _words(s.tenant.targets),
                    _words(s.tenant.domains),
                )
                for s in found
            ),
        )
    for problems in wrong.values():
        for problem in problems:
            note(f"viscum: {problem}")


def _of(s: tenants.TenantStatus, name: str) -> str:
    used, quota = getattr(s.used, name), getattr(s.tenant.quotas, name)
    word: Callable[[Any], str] = (
        (lambda v: str(Bytes(v))) if name == "memory" else (lambda v: f"{v:g}")
    )
    return f"{word(used)}/{word(quota)}" if quota is not None else f"{word(used)}/-"


def _plain(s: tenants.TenantStatus) -> dict[str, Any]:
    return {
        "name": s.tenant.name,
        **to_mapping(s.tenant, defaults=True),
        "services": list(s.services),
        "kept": list(s.kept),
        "used": msgspec.to_builtins(s.used),
        "beyond": msgspec.to_builtins(s.beyond),
    }


@tenant.command("show")
@click.argument("name")
@click.option("--json", "json_", is_flag=True, help="As JSON.")
@click.pass_context
def show(ctx: click.Context, name: str, json_: bool) -> None:
    """What a tenant may have, has, and has beyond it.

    \b
    Example:
      viscum tenant show acme
    """
    known = _tenants()
    found = tenants.status(known, known.get(name), common.host(ctx).load())
    if json_:
        as_json(_plain(found))
        return
    click.echo(to_toml(msgspec.structs.replace(found.tenant, name="")), nl=False)
    say("")
    fields(
        {
            "services": ", ".join(found.services) or "none",
            **({"kept for the next boot": ", ".join(found.kept)} if found.kept else {}),
            **{name: _of(found, name) for name in LIMITED},
        }
    )
    for problem in found.beyond:
        note(f"beyond what it may have: {problem}")


@tenant.command("rm")
@click.argument("name")
@click.option("--with-services", is_flag=True, help="And its services, with all their flows.")
@click.pass_context
def rm(ctx: click.Context, name: str, with_services: bool) -> None:
    """Take a tenant away, with every token of it.

    \b
    Example:
      viscum tenant rm acme --with-services
    """
    known, host = _tenants(), common.host(ctx)
    with noted("tenant.remove", name, name):
        tokens = Tokens(common.config_dir())
        if name not in known.names():
            known.get(name)
        if with_services:
            tokens.remove({c.id for c in tokens.all().values() if c.tenant == name})
            for record in host.load().services.values():
                if record.tenant == name:
                    common.outcome(host.begin_remove(record.name, at_once=True))
        gone = tenants.remove(host, known, tokens, name)
    say(f"{name} removed" + (f", with {len(gone)} tokens" if gone else ""))
