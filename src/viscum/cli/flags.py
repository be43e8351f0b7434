"""The command line of `run` as a spec, and problems of a spec in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import click

from viscum.errors import InputError, Problem

FLAGS = {
    "name": "--name",
    "command": "COMMAND",
    "instances": "--instances",
    "steer.interfaces": "--on",
    "steer.targets": "--target",
    "steer.ports": "--port",
    "steer.clients": "--client",
    "steer.share": "--share",
    "steer.when-down": "--when-down",
    "steer.firewall": "--firewall",
    "run.environment": "-e",
    "run.user": "-u",
    "run.working-directory": "-w",
    "run.root": "--root",
    "run.sandbox": "--sandbox",
    "limits.cpu": "--cpus",
    "limits.memory": "--memory",
    "limits.processes": "--pids-limit",
    "director": "--director",
    "upgrade": "--upgrade",
    "egress.allow": "--allow",
    "steer.ping": "--ping",
    "run.drain": "--drain",
    "run.start-timeout": "--start-timeout",
}

# How to give what is missing; the spec's own advice is in TOML.
GIVE = {
    "name": "give --name web",
    "command": "give it last, after --: … -- nginx -g 'daemon off;'",
    "steer.interfaces": "give --on wlan0: where the clients' packets arrive",
    "steer.targets": "give --target cloud.example.com, or its addresses",
}
# Only paths with a dot: "name" and "command" are words of the language too.
_DOTTED = "|".join(re.escape(path) for path in FLAGS if "." in path)
_PATH = re.compile(rf"\b({_DOTTED})(?:\[\d+\]|\.[A-Za-z_]\w*)?(?![\w.])")


class Dashed(click.Command):
    """A command whose last argument, a command line, has to follow `--`.

    Else an option of the server's (`-e`, `-w`) would silently be taken for one of ours.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args and not {"-h", "--help"} & set(args):
            # Up to the first word of the server's, to complain of a misspelt option before this.
            parser = self.make_parser(ctx)
            parser.allow_interspersed_args = False
            parser.parse_args(list(args))
            raise click.UsageError(
                "no `--`: put the server's command behind one, "
                "as in: viscum run --name web … -- nginx -g 'daemon off;'",
                ctx,
            )
        return super().parse_args(ctx, args)


@contextmanager
def in_flags() -> Iterator[None]:
    """Turns the InputErrors raised inside into the command line's words."""
    try:
        yield
    except InputError as error:
        raise InputError(*map(_translated, error.problems)) from None


def _translated(problem: Problem) -> Problem:
    path = problem.field.partition("[")[0]
    if problem.value in ("", "[]") and problem.field in GIVE:
        return Problem(FLAGS[path], "", "is missing", GIVE[path])
    table, dot, key = path.partition("run.environment.")
    if dot and not table:
        if problem.value == "None":
            return Problem("-e", key, "has no '='", f"write -e {key}=VALUE")
        return Problem("-e", problem.value or key, problem.message, problem.fix)
    field = FLAGS.get(path) or _words(problem.field)
    return Problem(field, problem.value, _words(problem.message), _words(problem.fix))


def _words(text: str) -> str:
    return _PATH.sub(lambda found: FLAGS[found[1]], text)
