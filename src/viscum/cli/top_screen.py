"""How `viscum top` looks: lines of a given width, from what is known. Pure: no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from viscum.cli.top_data import Detail, Row

Style = Literal["", "head", "chosen", "good", "bad", "dim"]


class Line(NamedTuple):
    text: str
    style: Style = ""


class Column(NamedTuple):
    """key: what sorts by it. keep: the narrower the screen, the sooner low ones go."""

    title: str
    key: str
    width: int
    keep: int
    text: Callable[[Row], str]
    order: Callable[[Row], float | str]


def number(value: float | None, units: str = " kMGT", base: int = 1000) -> str:
    """In five characters at most."""
    if value is None:
        return "-"
    for unit in units:
        if abs(value) < base - 0.5 or unit == units[-1]:
            text = f"{value:.1f}" if unit.strip() and abs(value) < 9.95 else f"{value:.0f}"
            return text + unit.strip()
        value /= base
    raise AssertionError


def bits(value: float) -> str:
    return number(value) if value >= 1 else "0"


def size(value: float | None) -> str:
    return number(value, " KMGT", 1024)


def seconds(value: float | None) -> str:
    """As 42u, 1.2m, 3.4s."""
    if value is None:
        return "-"
    if value < 0.9995:
        return number(value * 1e6, "um")
    return f"{value:.1f}s" if value < 9.95 else f"{number(value, ' k')}s"


def _state(row: Row) -> str:
    if row.health == "unhealthy" and row.state == "running":
        return "unhealthy"
    return "no listener" if row.state == "not listening" else row.state


def _share(row: Row) -> str:
    if row.steering != "edge":
        return row.steering or "-"
    return f"{row.share:.0f}%"


def _part(pair: tuple[float, float] | None, index: int) -> float:
    return pair[index] if pair else -1.0


def _latency(title: str, key: str, keep: int, index: int, which: str) -> Column:
    def pair(row: Row) -> tuple[float, float] | None:
        found: tuple[float, float] | None = getattr(row, which)
        return found

    return Column(
        title, key, 5, keep,
        lambda r: seconds(found[index] if (found := pair(r)) else None),
        lambda r: _part(pair(r), index),
    )  # fmt: skip


COLUMNS = (
    Column("NAME", "name", 10, 99, lambda r: r.name, lambda r: r.name),
    Column("STATE", "state", 11, 98, _state, lambda r: _state(r)),
    Column("EDGE", "share", 5, 97, _share, lambda r: r.share),
    Column("FLOWS", "flows", 5, 96, lambda r: number(r.flows), lambda r: r.flows),
    Column("IN", "in", 5, 95, lambda r: bits(r.in_rate), lambda r: r.in_rate),
    Column("OUT", "out", 5, 94, lambda r: bits(r.out_rate), lambda r: r.out_rate),
    _latency("SYN99", "syn", 80, 1, "connect"),
    _latency("RTT50", "rtt", 89, 0, "rtt"),
    _latency("RTT99", "rtt99", 88, 1, "rtt"),
    Column("CPU", "cpu", 5, 93, lambda r: "-" if r.cpu is None else f"{r.cpu:.0%}",
           lambda r: -1 if r.cpu is None else r.cpu),
    Column("MEM", "memory", 5, 92, lambda r: size(r.memory), lambda r: r.memory or -1),
    Column("RST", "restarts", 3, 70, lambda r: number(r.restarts), lambda r: r.restarts or -1),
)  # fmt: skip
KEYS = tuple(c.key for c in COLUMNS)
LEFT = ("name", "state")
HELP = "↑↓ choose  ⏎ detail  s/S sort  r reverse  e enable  d disable  D drain  q quit"


class Choice(NamedTuple):
    """What the user has chosen. offset: lines scrolled in the detail."""

    sort: str = "name"
    reverse: bool = False
    service: str = ""
    detail: bool = False
    offset: int = 0


def ordered(rows: Iterable[Row], choice: Choice) -> list[Row]:
    column = next(c for c in COLUMNS if c.key == choice.sort)
    text = choice.sort in LEFT
    found = sorted(rows, key=lambda r: r.name)
    return sorted(found, key=column.order, reverse=choice.reverse == text)  # numbers: most first


def clean(text: str, width: int) -> str:
    """What a server printed may move the cursor, or worse."""
    return "".join(c if c.isprintable() else "·" for c in text)[: max(width, 0)]


def head(
    place: str, rows: list[Row], signals: tuple[str, ...], clock: str, width: int
) -> list[Line]:
    flows = sum(r.flows for r in rows)
    coming, going = sum(r.in_rate for r in rows), sum(r.out_rate for r in rows)
    what = f"viscum: {place}  {_count(len(rows), 'service')}  {_count(flows, 'flow')}  "
    what += f"in {bits(coming)} out {bits(going)} bit/s"
    clock = clock if width >= 40 else ""
    room = width - len(clock) - 1
    first = f"{clean(what, room):<{max(room, 0)}} {clock}"
    return [Line(clean(first, width), "head"), Line(clean("  ".join(signals), width), "dim")]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def table(rows: list[Row], choice: Choice, width: int, height: int) -> list[Line]:
    """The title and as many rows as fit, the chosen one among them."""
    columns = _fitting(width)
    spare = width - sum(c.width + 1 for c in columns) + 1
    mark = "▲" if choice.reverse else "▼"
    titles = [
        f"{c.title[: c.width - 1]}{mark}" if c.key == choice.sort else c.title for c in columns
    ]
    lines = [Line(_joined(columns, titles, spare, width), "head")]
    room = max(height - 1, 1)
    at = next((n for n, r in enumerate(rows) if r.name == choice.service), 0)
    start = max(0, min(at - room // 2, len(rows) - room))
    for row in rows[start : start + room]:
        text = _joined(columns, [c.text(row) for c in columns], spare, width)
        lines.append(Line(text, "chosen" if row.name == choice.service else style(row)))
    return lines


def style(row: Row) -> Style:
    state = _state(row)
    if state in ("dead", "unhealthy", "no listener"):
        return "bad"
    if state != "running" or row.steering != "edge" or row.share == 0:
        return "dim"
    return "good" if row.share == 100 else ""


def _fitting(width: int) -> list[Column]:
    found = list(COLUMNS)
    while len(found) > 1 and sum(c.width + 1 for c in found) - 1 > width:
        found.remove(min(found, key=lambda c: c.keep))
    return found


def _joined(columns: list[Column], cells: list[str], spare: int, width: int) -> str:
    """The name takes the room that is left."""
    words = []
    for column, cell in zip(columns, cells, strict=True):
        wide = column.width + (min(max(spare, 0), 30) if column.key == "name" else 0)
        cut = cell if len(cell) <= wide else cell[: wide - 1] + "…"
        words.append(f"{cut:<{wide}}" if column.key in LEFT else f"{cut:>{wide}}")
    return clean(" ".join(words), width)


def detail(row: Row, more: Detail | None, width: int) -> list[Line]:
    """Everything about one service, as long as it is."""
    s = row.status
    lines = [Line(f"{row.name}: {_state(row)}, steering {row.steering} {_share(row)}", "head")]
    if s is not None:
        held = f", held at {s.held.share:.0f}% by the controller" if s.held.share < 100 else ""
        lines += [
            Line(f"on {', '.join(s.interfaces)} by {s.director}{held}"),
            Line(f"targets {', '.join(s.targets)}"),
            Line(f"ports {', '.join(s.ports) or 'all'}"),
        ]
        for g in s.generations:
            ends = "" if g.ends_in is None else f", flows end in {g.ends_in:.0f} s"
            lines.append(Line(f"generation {g.number}: {g.state}{ends}"))
            for i in g.instances:
                where = f"pid {i.pid}" if i.pid else "no process"
                heard = ", ".join(i.listens) or "nothing"
                lines.append(Line(f"  {i.label}: {where}, {i.flows} flows, listens on {heard}"))
    for title, pair in (("SYN to SYN-ACK", row.connect), ("round trips", row.rtt)):
        if pair:
            lines.append(Line(f"{title}: half within {seconds(pair[0])}, 99 % within "
                              f"{seconds(pair[1])}"))  # fmt: skip
    if row.decisions:
        lines.append(Line("packets by decision, and per second", "head"))
        for reason, count in sorted(row.decisions.items(), key=lambda item: -item[1]):
            rate = row.decision_rates.get(reason, 0.0)
            lines.append(Line(f"{count:>14} {number(rate):>6}/s  {reason}"))
    if more is None:
        lines.append(Line("(looking for events and the log)", "dim"))
    else:
        if more.events:
            lines.append(Line("events", "head"))
            lines += [Line(e) for e in more.events[-8:]]
        lines.append(Line("log" if more.log else "no log", "head"))
        lines += [Line(text) for text in more.log]
    return [Line(clean(line.text, width), line.style) for line in lines]
