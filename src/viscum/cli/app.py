"""The commands, each imported only when it is called: start-up time is part of the product."""

from __future__ import annotations

import os
from importlib import import_module

import click

from viscum.names import DEFAULT_STATE_DIR

# command -> module of viscum.cli, short help
COMMANDS = {
    "run": ("run", "Put a server on this box, in one command."),
    "apply": ("run", "The same from spec files: show the difference, then act."),
    "plan": ("run", "What apply would do, as words or as shell commands."),
    "export": ("run", "A service's spec as TOML."),
    "schema": ("run", "The JSON Schema of a spec."),
    "ls": ("show", "The services of this box, read back from the kernel."),
    "ps": ("show", "The same as ls."),
    "status": ("show", "Everything about one service."),
    "logs": ("show", "What a server printed."),
    "top": ("top", "The services live, on a terminal."),
    "enable": ("control", "Steer new flows to the service."),
    "disable": ("control", "Steer new flows to the cloud; the server keeps running."),
    "stop": ("control", "End the server after its last flow; keep the spec."),
    "start": ("control", "Start a stopped service again."),
    "restart": ("control", "Move to new processes of the same spec, unnoticed."),
    "rm": ("control", "Take a service away."),
    "exec": ("control", "Run a command inside a service's namespaces."),
    "tidy": ("control", "Finish what is due, mend, bound the logs (for a timer)."),
    "controller": ("controller", "Supervise the services of this host (a daemon)."),
    "tenant": ("tenant", "Third parties, what each owns and may use."),
    "token": ("token", "Who may speak to the controller's API."),
    "audit": ("audit", "Who changed what."),
    "explain": ("explain", "What happens to a packet, and why."),
    "doctor": ("doctor", "What this box can do, and what stands in the way."),
    "lab": ("lab", "A client, an access point and a cloud to try it on."),
    "demo": ("demo", "Watch a server move to the edge and back."),
}


# What a controller can be asked for by --host; everything else needs the box itself.
REMOTE = frozenset(
    ("run", "apply", "plan", "export", "schema", "ls", "ps", "status", "logs", "top", "enable",
     "disable", "stop", "start", "restart", "rm", "explain")
)  # fmt: skip


class Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"viscum.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("exec", "exec_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from viscum.spec.values import did_you_mean

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = did_you_mean(args[0], list(COMMANDS), "see `viscum --help`")
            raise click.UsageError(f"no such command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="viscum")
@click.option(
    "--lock-timeout",
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another viscum command on this host.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show each step before it is taken.")
@click.option(
    "--host",
    metavar="URL",
    envvar="VISCUM_HOST",
    help="Ask the controller there: https://ADDRESS:7443 or unix:///run/viscum/api.sock.",
)
@click.option("--token-file", metavar="FILE", help="Holds the token for --host; or VISCUM_TOKEN.")
@click.option("--ca", metavar="FILE", help="Who has signed the certificate of --host.")
@click.option("--cert", metavar="FILE", help="A certificate to show to --host.")
@click.option("--key", metavar="FILE", help="Its private key.")
@click.pass_context
def app(
    ctx: click.Context,
    lock_timeout: float,
    verbose: bool,
    host: str | None,
    token_file: str | None,
    ca: str | None,
    cert: str | None,
    key: str | None,
) -> None:
    """Put an unmodified cloud server onto this router; clients never notice.

    Acts in the network namespace it runs in, on the host that VISCUM_STATE_DIR names
    (/run/viscum), with the settings in VISCUM_CONFIG_DIR (/etc/viscum).

    \b
    Example:
      viscum run --name web --on wlan0 --target cloud.example.com --port 80/tcp -- \\
          nginx -g 'daemon off;'
    """
    remote = None
    if host:
        if ctx.invoked_subcommand not in REMOTE:
            raise click.UsageError(
                f"`viscum {ctx.invoked_subcommand}` needs the box itself: run it there, without"
                " --host (and VISCUM_HOST)",
                ctx,
            )
        remote = {"url": host, "token_file": token_file, "ca": ca, "cert": cert, "key": key}
    elif token_file or ca or cert or key:
        raise click.UsageError("--token-file, --ca, --cert and --key go with --host", ctx)
    ctx.obj = {
        "remote": remote,
        "state_dir": os.environ.get("VISCUM_STATE_DIR") or DEFAULT_STATE_DIR,
        "lock_timeout": lock_timeout,
        "verbose": verbose,
    }
