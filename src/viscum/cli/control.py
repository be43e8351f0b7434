"""enable, disable, stop, start, restart, rm, exec, tidy."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from viscum.cli import common
from viscum.cli.output import note, say
from viscum.kernel.process import LaunchError
from viscum.slowly import Slowly
from viscum.start import Outcome

if TYPE_CHECKING:
    from viscum.cli.common import Target

names_argument = click.argument("names", nargs=-1, metavar="NAME…")
all_option = click.option("--all", "all_", is_flag=True, help="Every service of this host.")
for_option = click.option(
    "--for", "for_", type=common.DURATION, metavar="DURATION",
    help="Turn back by itself after this long; no daemon is needed for it.",
)  # fmt: skip


@click.command()
@names_argument
@all_option
@for_option
@click.pass_context
def enable(ctx: click.Context, names: tuple[str, ...], all_: bool, for_: float | None) -> None:
    """Steer new flows to the service; flows of the cloud stay there.

    \b
    Example:
      viscum enable web --for 10m
    """
    host = common.target(ctx)

    def act(name: str) -> Slowly[None]:
        _steered(host.enable(name, for_seconds=for_))
        yield from ()

    common.each(names, all_, host, act)


@click.command()
@names_argument
@all_option
@click.option("--drain", type=common.DURATION, metavar="DURATION",
              help="Reset what is left after this long.")  # fmt: skip
@click.option("--now", is_flag=True, help="Reset the service's client connections at once.")
@for_option
@click.pass_context
def disable(
    ctx: click.Context,
    names: tuple[str, ...],
    all_: bool,
    drain: float | None,
    now: bool,
    for_: float | None,
) -> None:
    """Steer new flows to the cloud; the server keeps running, and its flows go on.

    \b
    Example:
      viscum disable web --drain 30s
    """
    if now and drain is not None:
        raise click.UsageError("give --drain or --now, not both")
    host = common.target(ctx)

    def act(name: str) -> Slowly[None]:
        result = yield from host.disable(name, drain=0.0 if now else drain, for_seconds=for_)
        if (now or drain is not None) and not result.flows_reset:
            result.notes.append("no flow had to be reset")
        _steered(result)

    common.each(names, all_, host, act)


def _steered(result: Outcome) -> None:
    common.outcome(result)
    if result.did == "disabled":
        note(f"note: the server keeps running (`viscum stop {result.name}` ends it)")
    if result.did != "unchanged":
        note(f"note: until a reboot; what runs after a reboot is in {common.config_dir()}/services")


def for_each(change: Callable[[Target, str, bool], Slowly[Outcome]]) -> click.Command:
    """The command that does nothing else than `change` (on what, to which service, whether to wait
    for flows), whose name and help it takes."""

    @click.command(change.__name__, help=change.__doc__)
    @names_argument
    @all_option
    @common.no_wait_option
    @click.pass_context
    def command(ctx: click.Context, names: tuple[str, ...], all_: bool, no_wait: bool) -> None:
        host = common.target(ctx)

        def act(name: str) -> Slowly[None]:
            common.outcome((yield from change(host, name, not no_wait)))

        common.each(names, all_, host, act)

    return command


@for_each
def stop(host: Target, name: str, wait: bool) -> Slowly[Outcome]:
    """End the server after its last flow (or its drain limit); the spec is kept.

    \b
    Example:
      viscum stop web
    """
    return host.stop(name, wait=wait)


@for_each
def start(host: Target, name: str, wait: bool) -> Slowly[Outcome]:
    """Start a stopped service, or one whose server has ended.

    \b
    Example:
      viscum start web
    """
    return host.start_again(name, wait=wait)


@for_each
def restart(host: Target, name: str, wait: bool) -> Slowly[Outcome]:
    """Move to new processes of the same spec, as an upgrade does: no client notices.

    \b
    Example:
      viscum restart web
    """
    return host.restart(name, wait=wait)


@click.command()
@names_argument
@all_option
@common.no_wait_option
@click.option("--now", is_flag=True, help="Reset its client connections instead of waiting.")
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...], all_: bool, no_wait: bool, now: bool) -> None:
    """Take services away: new flows go to the cloud, open ones may end within the drain limit.

    \b
    Example:
      viscum rm web
    """
    host = common.target(ctx)

    def act(name: str) -> Slowly[None]:
        common.outcome((yield from host.remove(name, wait=not no_wait, at_once=now)))

    common.each(names, all_, host, act, besides=host.has_log, to_go=True)
    if all_:
        host.sweep()


@click.command(name="exec", context_settings={"allow_interspersed_args": False})
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def exec_(ctx: click.Context, name: str, command: tuple[str, ...]) -> None:
    """Run COMMAND where the service's server runs; its exit status is this one's.

    \b
    Example:
      viscum exec web -- ss -tn
    """
    try:
        status = common.host(ctx).execute(name, common.without_dashes(command))
    except LaunchError as error:  # as shells and podman have it
        note(f"viscum: {error.filename or command[0]}: {error.strerror}")
        status = 127 if error.errno == errno.ENOENT else 126
    ctx.exit(status)


@click.command()
@click.pass_context
def tidy(ctx: click.Context) -> None:
    """Finish what is due (drains, --for), mend what was taken away, keep the logs within bounds.

    Every changing command does this too; a timer that calls it bounds the logs of a chatty server
    and steers again from an interface that was made anew. A server that ended is not started.

    \b
    Example:
      * * * * * viscum tidy
    """
    reset = common.host(ctx).tidy()
    if reset:
        say(common.were_reset(reset))
