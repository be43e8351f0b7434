"""explain: what happens to a packet, and why."""

from __future__ import annotations

from functools import partial

import click
import msgspec

from viscum import explain as asking
from viscum.cli import common
from viscum.cli.output import as_json, note, say
from viscum.host import Host


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[NAME] PACKET")
@click.option("--on", "interface", metavar="IFACE", help="Where the packet comes in.")
@click.option("--json", "json_", is_flag=True, help="As JSON.")
@click.pass_context
def explain(ctx: click.Context, words: tuple[str, ...], interface: str | None, json_: bool) -> None:
    """Ask the loaded data path what it would do with PACKET; nothing is changed or counted.

    \b
    PACKET: tcp|udp|icmp CLIENT[:PORT] > TARGET[:PORT] [syn|ack|fin|rst|quic]
    Example:
      viscum explain web 'tcp 10.1.0.2:40000 > 203.0.113.7:443 syn'
      viscum explain --on wlan0 'udp [2001:db8::2]:5000 > [2001:db8::7]:443 quic'
    """
    if len(words) > 2 or (len(words) == 1 and not interface):
        raise click.UsageError(
            "give NAME and 'PACKET' (one word, in quotes), or --on IFACE 'PACKET'"
        )
    name = words[0] if len(words) == 2 else ""
    host = common.target(ctx)
    ask = partial(asking.explain, host) if isinstance(host, Host) else host.explain
    answer = ask(words[-1], name=name, interface=interface or "")
    if json_:
        as_json(msgspec.to_builtins(answer))
        return
    say(answer.sentence)
    for hook in answer.bypassed:
        note(f'note: it does not pass {hook} (firewall = "bypass")')
