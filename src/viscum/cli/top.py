"""top: the services of a host as they are now, once a second, on a terminal."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from viscum.cli import common
from viscum.cli import top_screen as screen
from viscum.cli.output import as_json, say
from viscum.cli.top_data import DRAIN, PACE, Detail, Feed, Here, Row, Source, There
from viscum.cli.top_screen import Choice, Line
from viscum.errors import ViscumError
from viscum.host import Host
from viscum.store import API_SOCKET

if TYPE_CHECKING:
    from curses import window as Window

TICK = 100  # ms between two looks at the keyboard
WIDE = 132  # columns of --once where there is no terminal
ASKED = {
    "e": ("enable", "enable {}: new flows go to the edge"),
    "d": ("disable", "disable {}: new flows go to the cloud"),
    "D": ("drain", f"disable {{}}, and reset what is open after {DRAIN:g} s"),
}


@click.command()
@click.option("--once", is_flag=True, help="Print it once and end; so it is without a terminal.")
@click.option("--json", "json_", is_flag=True, help="The same as JSON.")
@click.pass_context
def top(ctx: click.Context, once: bool, json_: bool) -> None:
    """Show the services live: state, share, flows, rates, latency, CPU, memory.

    With a controller on this box, or on the one that --host names, restarts, health and events
    as well. Keys: arrows choose, Enter shows one service (its packets by decision, events, log), s
    and S change the order, r reverses it, e, d and D enable, disable and drain the chosen one, q
    ends. NO_COLOR is respected.

    \b
    Example:
      viscum top
    """
    source = _source(ctx)
    if once or json_ or not sys.stdout.isatty() or not sys.stdin.isatty():
        _once(source, json_)
        return
    import curses
    import locale

    locale.setlocale(locale.LC_ALL, "")
    os.environ.setdefault("ESCDELAY", "25")
    try:
        window = curses.initscr()
        try:
            curses.noecho()
            curses.cbreak()
            window.keypad(True)
            _Screen(window, source).run()
        finally:
            curses.endwin()
    except curses.error as error:
        raise ViscumError(
            f"this terminal ({os.environ.get('TERM') or 'TERM is not set'}) can't be used: {error}",
            hint="viscum top --once",
        ) from None


def _source(ctx: click.Context) -> Source:
    host = common.target(ctx)
    if not isinstance(host, Host):
        return There(host.client)
    host.load()  # refuses where it can't be seen
    path = os.path.join(host.names.state_dir, API_SOCKET)
    if os.path.exists(path):
        from viscum.remote import Client, Place

        client = Client(Place(socket=path))
        try:
            client.request("GET", "/v1/host")
            return There(client, host.names.prefix)
        except ViscumError:
            pass  # left of one that was killed
    return Here(host)


def _once(source: Source, json_: bool) -> None:
    """Two looks, for the rates."""
    from viscum.cli.top_data import rows

    looks = source.looks()
    window = [next(looks)]
    if isinstance(source, There):
        time.sleep(PACE)
    window.append(next(looks))
    found = rows(window)
    if json_:
        import msgspec

        shown = [{k: v for k, v in msgspec.to_builtins(r).items() if k != "status"} for r in found]
        as_json({"at": time.time(), "signals": window[-1].signals, "services": shown})
        return
    width = os.get_terminal_size(1).columns if sys.stdout.isatty() else WIDE
    clock = time.strftime("%H:%M:%S")
    chosen = screen.ordered(found, Choice())
    for line in screen.head(source.place, found, window[-1].signals, clock, width):
        say(line.text.rstrip())
    for line in screen.table(chosen, Choice(), width, len(found) + 1):
        say(line.text.rstrip())


class _Screen:
    """The terminal, until `q`."""

    def __init__(self, window: Window, source: Source) -> None:
        import curses

        self.window = window
        self.curses = curses
        self.choice = Choice()
        self.asking = ""  # the key whose action waits for a y
        self.said = ""
        self.more: tuple[str, Detail | None] = ("", None)
        self.fetching = False
        self.feed = Feed(source)
        self.styles = self._styles()
        window.timeout(TICK)
        try:
            curses.curs_set(0)
        except curses.error:
            pass  # it has no cursor that can be hidden

    def _styles(self) -> dict[str, int]:
        c = self.curses
        found = {
            "": 0,
            "head": c.A_BOLD,
            "chosen": c.A_REVERSE,
            "good": 0,
            "bad": c.A_BOLD,
            "dim": 0,
        }
        if c.has_colors() and not os.environ.get("NO_COLOR"):
            c.start_color()  # which sets the terminal's own colours, too; hence not otherwise
            c.use_default_colors()
            for n, (style, colour) in enumerate(
                (("good", c.COLOR_GREEN), ("bad", c.COLOR_RED), ("dim", c.COLOR_YELLOW)), 1
            ):
                c.init_pair(n, colour, -1)
                found[style] = c.color_pair(n)
        return found

    def run(self) -> None:
        drawn: Any = None
        while True:
            if self.feed.ends is not None:
                raise self.feed.ends
            state = (
                self.feed.latest, self.feed.error, self.choice, self.asking, self.said,
                self.more, self._size(),
            )  # fmt: skip
            if state != drawn:
                self._draw()
                drawn = state
            key = self._key()
            if key == "q" and not self.asking:
                return
            if key:
                self._press(key)

    # ---- keys

    def _key(self) -> str:
        try:
            found = self.window.get_wch()
        except self.curses.error:
            return ""  # none came
        except KeyboardInterrupt:
            return "q"
        if isinstance(found, str):
            return {"\n": "enter", "\r": "enter", "\x1b": "back", "\x7f": "back"}.get(found, found)
        c = self.curses
        return {
            c.KEY_UP: "k", c.KEY_DOWN: "j", c.KEY_ENTER: "enter", c.KEY_BACKSPACE: "back",
            c.KEY_LEFT: "back", c.KEY_RIGHT: "enter", c.KEY_PPAGE: "page up",
            c.KEY_NPAGE: "page down", c.KEY_HOME: "home", c.KEY_END: "end",
        }.get(found, "")  # fmt: skip

    def _press(self, key: str) -> None:
        chosen = self.choice
        if self.asking:
            if key == "y":
                self._act(self.asking, chosen.service)
            self.said = "" if key == "y" else "nothing was changed"
            self.asking = ""
            return
        self.said = ""
        page = max(self._size()[0] - 5, 1)
        steps = {"k": -1, "j": 1, "page up": -page, "page down": page, "home": -9999, "end": 9999}
        if key in steps and chosen.detail:
            self.choice = chosen._replace(offset=max(0, chosen.offset + steps[key]))
        elif key in steps:
            self._move(steps[key])
        elif key in ("s", "S"):
            at = screen.KEYS.index(chosen.sort) + (1 if key == "s" else -1)
            self.choice = chosen._replace(sort=screen.KEYS[at % len(screen.KEYS)], reverse=False)
        elif key == "r":
            self.choice = chosen._replace(reverse=not chosen.reverse)
        elif key == "enter" and chosen.service:
            self.choice = chosen._replace(detail=True, offset=0)
            self._fetch()
        elif key == "back":
            self.choice = chosen._replace(detail=False)
        elif key in ASKED and chosen.service:
            self.asking = key

    def _move(self, by: int) -> None:
        names = [r.name for r in self._rows()]
        if not names:
            return
        at = names.index(self.choice.service) if self.choice.service in names else 0
        self.choice = self.choice._replace(service=names[min(max(at + by, 0), len(names) - 1)])

    def _act(self, key: str, name: str) -> None:
        verb = ASKED[key][0]

        def act() -> None:
            try:
                self.feed.source.act(verb, name)
                self.said = f"{name}: {verb}d" if verb != "drain" else f"{name}: draining"
            except (OSError, ViscumError) as error:
                self.said = getattr(error, "message", None) or str(error)

        threading.Thread(target=act, daemon=True).start()

    def _fetch(self) -> None:
        """The chosen one's events and log, without holding up the keyboard."""
        name = self.choice.service
        if self.fetching:
            return
        self.fetching = True

        def fetch() -> None:
            try:
                self.more = name, self.feed.source.detail(name)
            except (OSError, ViscumError) as error:
                self.more = name, Detail(events=(getattr(error, "message", None) or str(error),))
            finally:
                self.fetching = False

        threading.Thread(target=fetch, daemon=True).start()

    # ---- drawing

    def _size(self) -> tuple[int, int]:
        height, width = self.window.getmaxyx()
        return height, width

    def _rows(self) -> list[Row]:
        return screen.ordered(self.feed.rows(), self.choice)

    def _draw(self) -> None:
        height, width = self._size()
        rows = self._rows()
        names = [r.name for r in rows]
        if self.choice.service not in names:
            first = names[0] if names else ""
            self.choice = self.choice._replace(service=first, detail=False)
        clock = time.strftime("%H:%M:%S")
        place = self.feed.source.place
        lines = screen.head(place, rows, self.feed.signals, clock, width)
        room = max(height - len(lines) - 1, 1)
        row = next((r for r in rows if r.name == self.choice.service), None)
        if self.choice.detail and row is not None:
            self._fetch()
            more = self.more[1] if self.more[0] == row.name else None
            every = screen.detail(row, more, width)
            offset = min(self.choice.offset, max(len(every) - room, 0))
            self.choice = self.choice._replace(offset=offset)
            lines += every[offset : offset + room]
        elif rows:
            lines += screen.table(rows, self.choice, width, room)
        elif self.feed.window:
            lines.append(Line("no services; `viscum run` starts one", "dim"))
        lines = lines[: max(height - 1, 1)]
        self.window.erase()
        for n, line in enumerate(lines):
            self._put(n, line, width)
        self._put(height - 1, self._foot(), width)
        self.window.refresh()

    def _foot(self) -> Line:
        if self.asking:
            return Line(f"{ASKED[self.asking][1].format(self.choice.service)}? y/n", "bad")
        if self.feed.error:
            return Line(f"{self.feed.error}; trying again", "bad")
        return Line(self.said or screen.HELP, "head" if self.said else "dim")

    def _put(self, y: int, line: Line, width: int) -> None:
        text = screen.clean(line.text, width)
        try:
            self.window.addnstr(y, 0, text.ljust(width), width, self.styles[line.style])
        except self.curses.error:
            pass  # the last cell of the screen, or one that has just become smaller
