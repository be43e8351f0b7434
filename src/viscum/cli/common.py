"""What commands share: the host they act on, and words for what was done."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from viscum.cli.output import note, say
from viscum.errors import InputError, Problem, ViscumError
from viscum.host import Host
from viscum.names import CONFIG_DIR
from viscum.ops import Op
from viscum.slowly import Slowly, together
from viscum.spec.values import BadValue, Seconds
from viscum.start import Outcome

if TYPE_CHECKING:
    from viscum.cli.remote import RemoteHost

    Target = Host | RemoteHost

VERBS = {
    "started": "started",
    "unchanged": "is as asked already; nothing to do",
    "upgraded": "moved to a new generation",
    "changed": "changed in place",
    "restarted": "moved to new processes",
}


def config_dir() -> str:
    """Of the host's settings and of the specs kept for the next boot."""
    return os.environ.get("VISCUM_CONFIG_DIR") or CONFIG_DIR


def without_dashes(command: tuple[str, ...]) -> tuple[str, ...]:
    """What follows NAME, without the `--` that may stand between them."""
    rest = command[1:] if command[0] == "--" else command
    if not rest:
        raise click.UsageError("name the command to run after `--`")
    return rest


def host(ctx: click.Context, **options: Any) -> Host:
    settings = ctx.find_root().obj

    def told(op: Op) -> None:
        if settings["verbose"]:
            note(f"  {op.describe()}")

    options = {"progress": note} | options
    return Host(
        settings["state_dir"],
        told=told,
        lock_timeout=settings["lock_timeout"],
        config_dir=config_dir(),
        **options,
    )


def target(ctx: click.Context, **options: Any) -> Target:
    """The host of this box, or the one that `--host` names."""
    remote = ctx.find_root().obj["remote"]
    if remote is None:
        return host(ctx, **options)
    from viscum.cli import remote as other

    return other.of(**remote)


def local(host: Target, what: str) -> Host:
    """Raises InputError for one that is somewhere else."""
    if isinstance(host, Host):
        return host
    raise InputError(Problem("--host", "", f"{what} needs the box itself", "run it there"))


class Duration(click.ParamType[float]):
    name = "DURATION"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return float(Seconds.parse(value))
        except BadValue as error:
            self.fail(f"{value!r} {error}", param, ctx)


DURATION = Duration()


no_wait_option = click.option(
    "--no-wait",
    is_flag=True,
    help="Do not wait for open flows: a later command, `tidy` or the controller ends the old"
    " server when they have ended.",
)


def each(
    names: tuple[str, ...],
    all_: bool,
    known: Target,
    act: Callable[[str], Slowly[None]],
    besides: Callable[[str], bool] = lambda name: False,
    to_go: bool = False,
) -> None:
    """`act` for every name, or for all; unknown names are refused before the first is touched, and
    all are begun before the first is waited for. besides: whether a name is known that is no
    service's. to_go: that one is gone when its turn comes is as well, as it is for all."""
    world = known.load()
    if all_ and names:
        raise click.UsageError("give names or --all, not both")
    if not all_ and not names:
        raise click.UsageError("name a service, or give --all")
    problems: list[Problem] = []
    for name in names:
        if besides(name):
            continue
        try:
            known.known(world, name)
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError(*problems)
    failed: list[ViscumError] = []

    def one(name: str) -> Slowly[None]:
        try:
            yield from unless_gone(known, name, act(name)) if all_ or to_go else act(name)
        except ViscumError as error:
            if failed:
                note(f"viscum: {failed[-1].message}")
            failed.append(error)

    together(map(one, world.services if all_ else dict.fromkeys(names)))
    if failed:
        raise failed[-1]


def unless_gone(known: Target, name: str, act: Slowly[None]) -> Slowly[None]:
    """`act`, but that the service has gone meanwhile is as well: an earlier turn finished it."""
    try:
        yield from act
    except InputError:
        if name in known.load().services:
            raise
        note(f"{name} is gone already")


def were_reset(flows: int) -> str:
    return "1 flow was reset" if flows == 1 else f"{flows} flows were reset"


def outcome(result: Outcome) -> None:
    """One line for what was done, and the notes."""
    reset = f"; {were_reset(result.flows_reset)}" if result.flows_reset else ""
    say(f"{result.name} {VERBS.get(result.did, result.did)}{reset}")
    for line in result.notes:
        note(f"note: {line}")
