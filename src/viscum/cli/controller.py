"""controller: the daemon that supervises what the other commands set up."""

from __future__ import annotations

import click

from viscum.cli import common


@click.command()
@click.pass_context
def controller(ctx: click.Context) -> None:
    """Supervise this host's services until told to end (SIGTERM). Also installed as viscumd.

    Services that run are adopted as they are, and stay when it ends, however it ends. Settings are
    read from controller.toml in /etc/viscum.

    \b
    Example:
      viscum controller
    """
    from viscum.controller import main

    main.run(common.host(ctx, progress=lambda line: None))
