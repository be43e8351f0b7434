"""run, apply, plan, export, schema: from a spec to a running service."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viscum.cli import common
from viscum.cli.flags import Dashed, in_flags
from viscum.cli.output import as_json, fail, note, say
from viscum.errors import InputError, Problem, ViscumError
from viscum.slowly import Slowly, finish, together
from viscum.spec import BadFiles, BadSpec, Spec, diff, from_mapping, specs_from_paths, to_toml
from viscum.start import Outcome

if TYPE_CHECKING:
    from viscum.cli.common import Target


@click.command(cls=Dashed)
@click.option("--name", help="The service's name.")
@click.option("--on", "interfaces", multiple=True, metavar="IFACE", help="Client interface.")
@click.option("--target", "targets", multiple=True, help="Address, prefix or name of the cloud.")
@click.option("--port", "ports", multiple=True, metavar="PORT/PROTO", help="Default: all.")
@click.option("--client", "clients", multiple=True, metavar="PREFIX", help="Default: everybody.")
@click.option("--share", metavar="PERCENT", help="Percent of the clients that go to the edge.")
@click.option("--when-down", metavar="cloud|drop", help="Where packets go then.")
@click.option("--firewall", metavar="bypass|honour", help="The forward rules.")
@click.option("--ping", metavar="cloud|edge", help="Who answers echo requests.")
@click.option("-e", "--env", "environment", multiple=True, metavar="K=V", help="Environment.")
@click.option("-u", "--user", help="USER or USER:GROUP; default: root with few capabilities.")
@click.option("-w", "--workdir", metavar="DIR", help="Working directory.")
@click.option("--cpus", metavar="CORES", help="CPU limit, in cores.")
@click.option("--memory", help="Memory limit, such as 256M.")
@click.option("--pids-limit", metavar="N", help="Limit of processes and threads.")
@click.option("--root", metavar="DIR", help="An unpacked root file system.")
@click.option("--sandbox", metavar="off|strict", help="strict: as a user of its own, confined.")
@click.option("--instances", metavar="N", help="How many, each in its own namespace.")
@click.option("--director", help="ebpf; default: the best that works here.")
@click.option("--upgrade", metavar="beside|replace", help="How --replace upgrades.")
@click.option("--allow", multiple=True, metavar="RULE", help="Egress: internet, lan, router, …")
@click.option("--drain", metavar="DURATION", help="How long an upgrade or rm waits for flows.")
@click.option("--start-timeout", metavar="DURATION", help="How long it may take to listen.")
@click.option("--replace", is_flag=True, help="Upgrade a service of that name.")
@click.option("--save", is_flag=True, help="Also keep it in /etc/viscum/services.")
@click.option("--dry-run", is_flag=True, help="Show the plan and change nothing.")
@click.option("--foreground", is_flag=True, help="Stay until the server ends, then clean up.")
@common.no_wait_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND [ARG]…")
@click.pass_context
def run(ctx: click.Context, /, **given: Any) -> None:
    """Put COMMAND, an unmodified server, in front of the cloud's for this box's clients.

    \b
    Example:
      viscum run --name web --on wlan0 --target cloud.example.com --port 80/tcp -- \\
          nginx -g 'daemon off;'
    """
    host = common.target(ctx)
    with in_flags():
        try:
            spec = from_mapping(mapping(given))
        except BadSpec as bad:
            raise also(bad, host, [bad.partial], {bad.partial.name: ""}) from None
        if given["dry_run"]:
            show_plan(host, [spec], {spec.name: ""})
            return

        def begun(result: Outcome) -> None:
            report(host, spec, result)
            if given["save"]:
                say(f"kept in {host.keep(spec)}")

        if given["foreground"]:
            here = common.local(host, "--foreground")
            ctx.exit(here.stay(spec, replacing=given["replace"], begun=begun))
        begun(finish(host.up(spec, replacing=given["replace"], wait=not given["no_wait"])))


def report(host: Target, spec: Spec, result: Outcome) -> None:
    common.outcome(result)
    # Said once: whoever repeats the command has read it.
    for line in host.remarks(spec) if result.did != "unchanged" else ():
        note(f"note: {line}")


def mapping(given: dict[str, Any]) -> dict[str, Any]:
    """Command-line values as a spec's tables; what was not given is left out."""
    tables: dict[str, Any] = {
        "name": given["name"],
        "command": list(given["command"]),
        "instances": number(given["instances"]),
        "director": given["director"],
        "upgrade": given["upgrade"],
        "steer": {
            "interfaces": list(given["interfaces"]),
            "targets": list(given["targets"]),
            "ports": list(given["ports"]) or None,
            "clients": list(given["clients"]) or None,
            "share": number(given["share"]),
            "when-down": given["when_down"],
            "firewall": given["firewall"],
            "ping": given["ping"],
        },
        "run": {
            "user": given["user"],
            "environment": dict(map(variable, given["environment"])) or None,
            "working-directory": given["workdir"],
            "root": given["root"],
            "sandbox": given["sandbox"],
            "drain": given["drain"],
            "start-timeout": given["start_timeout"],
        },
        "limits": {
            "cpu": number(given["cpus"]),
            "memory": given["memory"],
            "processes": number(given["pids_limit"]),
        },
        "egress": {"allow": list(given["allow"]) or None},
    }
    return _without_none(tables)


def variable(pair: str) -> tuple[str, str | None]:
    """`K=V`; without a '=' there is no value, which the spec's checks complain of."""
    key, equals, value = pair.partition("=")
    return key, value if equals else None


def number(text: str | None) -> int | float | str | None:
    """What cannot be read as a number stays text, for the spec's checks to complain of."""
    for kind in (int, float):
        try:
            return None if text is None else kind(text)
        except ValueError:
            continue
    return text


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    kept = {
        k: _without_none(v) if isinstance(v, dict) and k != "environment" else v
        for k, v in table.items()
    }
    return {k: v for k, v in kept.items() if v is not None and v != {}}


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR…")
@click.option("--dry-run", is_flag=True, help="Show the difference and change nothing.")
@click.option("--prune", is_flag=True, help="Remove services that no file names; never a tenant's.")
@common.no_wait_option
@click.pass_context
def apply(
    ctx: click.Context, files: tuple[str, ...], dry_run: bool, prune: bool, no_wait: bool
) -> None:
    """Make the services what spec files say: shows the difference, then acts.

    \b
    Example:
      viscum apply /etc/viscum/services
    """
    host = common.target(ctx)
    specs, sources = read(files, host)
    # What a tenant keeps may be beyond what it may have, or lead nowhere, by now: that is its own
    # affair, at boot above all, and comes after what is the operator's.
    own = [spec for spec in specs if not host.named(spec.name)]
    host.check_all(own, sources)
    specs = [*own, *(spec for spec in specs if spec not in own)]
    world = host.load()
    kept = {s.name for s in specs}  # and what tenants run is not the operator's to forget
    gone = [name for name, r in world.services.items() if name not in kept and not r.tenant]
    for spec in specs:
        old = world.services.get(spec.name)
        show_diff(spec.name, old.spec if old else None, spec)
    if prune:
        for name in gone:
            show_diff(name, world.services[name].spec, None)
    if dry_run:
        show_plan(host, specs, sources, gone if prune else ())
        return
    failed = theirs = 0

    def up(spec: Spec) -> Slowly[None]:
        nonlocal failed, theirs
        try:
            report(host, spec, (yield from host.up(spec, wait=not no_wait)))
        except ViscumError as error:  # the others are not to suffer, at boot above all
            if spec in own:
                failed = fail(error)
            else:
                note(f"{sources[spec.name]}: could not be applied")
                theirs = fail(error)

    def remove(name: str) -> Slowly[None]:
        common.outcome((yield from host.remove(name, wait=not no_wait)))

    together(map(up, specs))
    if prune and failed:  # what was to take their place may be what failed
        for name in gone:
            note(f"{name} stays, since not everything could be applied")
    elif prune:
        together(common.unless_gone(host, name, remove(name)) for name in gone)
    ctx.exit(failed if own else theirs)


def show_diff(name: str, old: Spec | None, new: Spec | None) -> None:
    changes = diff(old, new)
    if not changes:
        say(f"  {name}: no change")
        return
    sign = "+" if old is None else "-" if new is None else "~"
    say(f"{sign} {name}")
    for change in changes:
        secret = change.path.startswith("run.environment.")  # only that it differs may be logged
        say(f"    {change.path}: (changed)" if secret else f"    {change}")


def read(files: tuple[str, ...], host: Target) -> tuple[list[Spec], dict[str, str]]:
    """The specs, and by name the file each is from."""

    def parts(found: list[tuple[Path, Spec]]) -> tuple[list[Spec], dict[str, str]]:
        return [spec for _, spec in found], {spec.name: str(path) for path, spec in found}

    try:
        return parts(specs_from_paths(files))
    except BadFiles as bad:
        named = {spec.name: (path, spec) for path, spec in reversed(bad.found) if spec.name}
        raise also(bad, host, *parts(list(named.values()))) from None


def also(bad: InputError, host: Target, specs: list[Spec], sources: dict[str, str]) -> InputError:
    """`bad` with what the box has against the rest of the same specs: all problems at once."""

    def stem(problem: Problem) -> str:
        return problem.field.partition("[")[0]

    known = {stem(problem) for problem in bad.problems}
    try:
        host.check_all(specs, sources)
    except InputError as more:
        return InputError(*bad.problems, *(p for p in more.problems if stem(p) not in known))
    except ViscumError:
        pass  # not root, or not here: then the input comes first
    return bad


def show_plan(
    host: Target, specs: list[Spec], sources: dict[str, str], gone: Iterable[str] = ()
) -> None:
    steps = host.plan(specs, sources, gone)
    for op in steps:
        say(f"would {op.describe()}")
    if not steps:
        say("nothing to do")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--as-shell", is_flag=True, help="As ip, tc, nft, bpftool and sysctl commands.")
@click.option("--json", "json_", is_flag=True, help="As JSON.")
@click.pass_context
def plan(ctx: click.Context, files: tuple[str, ...], as_shell: bool, json_: bool) -> None:
    """What `apply` would do to this box now.

    \b
    Example:
      viscum plan web.toml --as-shell >web.sh
    """
    host = common.target(ctx, attach="clsact" if as_shell else "auto")
    if as_shell:
        common.local(host, "--as-shell")
    specs, sources = read(files, host)
    steps = host.plan(specs, sources)
    if json_:
        as_json([{"step": op.describe(), "shell": list(op.shell())} for op in steps])
    elif as_shell:
        say("#!/bin/sh -e")
        for op in steps:
            say(f"# {op.describe()}".replace("\n", " "))
            for line in op.shell():
                say(line)
    else:
        for op in steps:
            say(op.describe())


@click.command()
@click.argument("name")
@click.pass_context
def export(ctx: click.Context, name: str) -> None:
    """The spec of a service as TOML, to edit and `apply`.

    \b
    Example:
      viscum export web >web.toml
    """
    host = common.target(ctx)
    click.echo(to_toml(host.known(host.load(), name).spec), nl=False)


@click.command()
def schema() -> None:
    """The JSON Schema of a spec, for editors and other tools.

    \b
    Example:
      viscum schema >viscum.schema.json
    """
    from viscum.spec.doc import schema as build

    as_json(build())
