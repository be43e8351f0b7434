"""Writes docs/paper.md, its plots and data in docs/paper/, and the same as one HTML file.

    PYTHONPATH=src:examples .cache/examples/paper/bin/python -m paper.report

is what `make paper` does when everything is measured.
"""

from __future__ import annotations

import base64
import html
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from paper import plots
from paper.claims import Claim, claims, not_here
from paper.measure import KEPT, PARTS, Part, earlier, page
from paper.measured import Measured, Missing, number

PLACES = (("the access point itself", plots.BOX), ("edge", plots.EDGE), ("cloud", plots.CLOUD))
RTT, COST = "paper-rtt", "paper-compare"
WAYS = ("a process on the box", "Viscum", "Docker")

INTRO = Path(__file__).with_name("intro.md")
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;"
    "color:#222;background:#fff}table{border-collapse:collapse;width:100%;font-size:.9rem}"
    "td,th{border-bottom:1px solid #ddd;padding:.35rem .5rem;text-align:left;vertical-align:top}"
    "td:first-child{width:38%}"
    "img{max-width:100%}pre{overflow-x:auto;background:#f6f6f6;padding:.8rem;font-size:.8rem}"
    "code{font-size:.9em}"
)


def part_of(name: str) -> Part:
    """By the name of its figures."""
    return next(part for part in PARTS if part.figures == name)


class Report:
    """out: a directory for pictures and data."""

    def __init__(self, outcomes: dict[str, Any], out: Path) -> None:
        self.outcomes, self.out = outcomes, out
        done = {name for name, of in outcomes.items() if of["outcome"] == "done"}
        self.measured = Measured((part.figures for part in PARTS if part.name in done), KEPT)

    def why_not(self, part: Part) -> str:
        """Why there is nothing of it."""
        outcome = self.outcomes.get(part.name)
        if outcome is None:
            return "not measured yet"
        return f"{outcome['outcome']}: {outcome['why']}" if outcome["why"] else "has no such figure"

    # ---- tables ----------------------------------------------------------------------------------

    def row(self, claim: Claim) -> str:
        part = part_of(claim.part)
        data = f"[csv](paper/{part.figures}.csv)"
        try:
            ours = claim.ours(self.measured)
        except Missing:
            return line(claim.says, claim.theirs, f"– ({self.why_not(part)})", "–", code(part), "–")
        shown = f"**{number(ours.value)}** {ours.unit}".strip()
        shown += f" ({ours.spread})" if ours.spread else ""
        return line(claim.says, claim.theirs, shown, ratio(claim, ours.value), code(part), data)

    def claims(self) -> Iterator[str]:
        yield "\n## Claim by claim\n"
        for section, some in groupby(claims(), key=lambda claim: claim.section):
            yield f"\n**{section[0].upper()}{section[1:]}**\n"
            yield line("claim", "paper", "measured", "ratio", "by", "data")
            yield line(*["---"] * 6)
            yield from map(self.row, some)

    def parts(self) -> Iterator[str]:
        yield "\n## The run\n"
        machines = sorted({of["on"] for of in self.outcomes.values()})
        yield f"{'; '.join(machines)}.\n"
        yield line("part", "", "measured at", "commit", "took", "data")
        yield line(*["---"] * 6)
        for part in PARTS:
            outcome = self.outcomes.get(part.name)
            if outcome is None or outcome["outcome"] != "done":
                yield line(code(part), part.what, self.why_not(part), "–", "–", "–")
                continue
            links = " ".join(f"[{name}](paper/{name})" for name in part.data)
            took = f"{outcome['took']:.0f} s"
            yield line(
                code(part), part.what, outcome["when"], f"`{outcome['commit']}`", took, links
            )

    def seeds(self) -> Iterator[str]:
        yield "\n## Seeds\n"
        for part in PARTS:
            for row in self.measured.figures[part.figures].rows if (
                part.figures in self.measured.figures) else []:  # fmt: skip
                if row.claim.startswith("seed"):
                    yield f"- {part.name}, {row.claim.removeprefix('seed of ')}: {row.value:.0f}"

    def not_here(self) -> Iterator[str]:
        yield "\n## Not measured here, and why\n"
        yield from (f"- **{what}**: {why}." for what, why in not_here().items())

    # ---- pictures --------------------------------------------------------------------------------

    def picture(self, name: str, title: str, said: str, part: str,
                draw: Callable[[Path], None]) -> Iterator[str]:  # fmt: skip
        yield f"\n### {title}\n\n{said}\n"
        path = self.out / f"{name}.svg"
        try:
            draw(path)
            yield f"![{title}](paper/{name}.svg)"
        except Missing:
            path.unlink(missing_ok=True)
            yield f"Not drawn: {self.why_not(part_of(part))}."

    def distribution(self, part: str, what: str, label: str) -> Callable[[Path], None]:
        """Of what was measured in several places."""

        def draw(path: Path) -> None:
            there = [
                (place, colour)
                for place, colour in PLACES
                if any(row.claim == f"{what}, {place}" for row in self.measured.rows(part))
            ]
            rows = [(place, self.measured.row(part, f"{what}, {place}").samples, colour)
                    for place, colour in there]  # fmt: skip
            if not rows:
                raise Missing(part)
            plots.distribution(path, rows, label)

        return draw

    def pictures(self) -> Iterator[str]:
        series, events = (KEPT / name for name in part_of("paper-switch").series)
        yield "\n## Figures\n"
        yield from self.picture(
            "rtt", "Round trips", "`ping` from the client: the access point itself, what answers "
            "at the edge by Viscum, and the cloud (the director disabled).",
            RTT, self.distribution(RTT, "ping", "ms"))  # fmt: skip
        yield from self.picture(
            "page", "A page by a new connection", "`curl`, from the first SYN to the last byte.",
            RTT, self.distribution(RTT, "page by a new connection", "ms"))  # fmt: skip
        yield from self.picture(
            "switch", "Throughput, on and off", "One client fetches 8 MB again and again, by a new "
            "connection each time, while the operator types the commands named in the plot "
            "(`killed`: SIGKILL to the server).",
            "paper-switch", lambda path: plots.over_time(series, events, path))  # fmt: skip
        yield from self.picture(
            "wan", "Bytes on the WAN over time", "The same run, added up.",
            "paper-switch", lambda path: plots.added_up(series, events, path))  # fmt: skip
        yield from self.trees()
        for what, name, label in (("throughput", "throughput", "Gbit/s"),
                                  ("start to first answer", "start", "ms")):  # fmt: skip
            names = WAYS if what == "throughput" else WAYS[1:]
            yield from self.picture(
                name, f"{what.capitalize()}, compared", "Medians; the lines are the least and the "
                "most.", COST, lambda path, w=what, n=names, unit=label: plots.bars(  # type: ignore[misc]
                    path, self.measured, COST, w, n, unit))  # fmt: skip
        yield from self.picture(
            "guard", "Disabled by load", "A service is offered three times what the box can do for "
            "60 seconds. The dashed line is the set-point.",
            "paper-guard", lambda path: plots.share(KEPT / "guard-share.csv", path))  # fmt: skip
        yield from self.picture(
            "game", "A player's ping", "A first-person shooter, at the edge and in the cloud.",
            "game", self.distribution("game", "player ping", "ms"))  # fmt: skip
        yield from self.picture(
            "faces", "Frame to answer", "Faces in a camera's frames, found at the edge and in the "
            "cloud.", "faces", self.distribution("faces", "frame to answer", "ms"))  # fmt: skip
        yield from self.picture(
            "plates", "Photo to answer", "Number plates, read at the edge and in the cloud.",
            "plates", self.distribution("plates", "photo to answer", "ms"))  # fmt: skip

    def trees(self) -> Iterator[str]:
        yield "\n### Process trees, as in Fig. 5\n"
        path = KEPT / "paper-trees.txt"
        if COST not in self.measured.figures or not path.exists():
            yield f"Not drawn: {self.why_not(part_of(COST))}."
            return
        yield "`ps --forest` of all that is there because of one service, the same busybox httpd."
        yield "Resident memory (RSS) in kB.\n"
        yield f"```\n{path.read_text().strip()}\n```"

    def markdown(self) -> str:
        pieces = (self.claims(), self.pictures(), self.not_here(), self.parts(), self.seeds())
        return "\n".join([INTRO.read_text(), *(text for piece in pieces for text in piece), ""])


def line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def code(part: Part) -> str:
    return f"`{part.command}`"


def ratio(claim: Claim, ours: float) -> str:
    if claim.given:
        return "given"
    if claim.paper is None:
        return "–"
    if claim.paper == 0:
        return "the same" if ours == 0 else "not the same"
    return number(ours / claim.paper)


def whole(markdown: str, pictures: Path) -> str:
    """As one HTML file: pictures inside, links to data where they are from there."""
    body = MarkdownIt("commonmark").enable("table").render(markdown)

    def inline(found: re.Match[str]) -> str:
        data = base64.b64encode((pictures / found[1]).read_bytes()).decode()
        return f'src="data:image/svg+xml;base64,{data}"'

    body = re.sub(r'src="paper/([^"]+\.svg)"', inline, body)
    body = body.replace('href="paper/', 'href="')
    title = html.escape(markdown.partition("\n")[0].lstrip("# "))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def write(where: Path) -> None:
    """The page, and a directory of the same name; the old ones stay until the new are whole."""
    out, new = where.with_suffix(""), where.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    report = Report(earlier(), new)
    text = report.markdown()
    for part in PARTS:
        for name in part.data:
            if (KEPT / name).exists():
                shutil.copy(KEPT / name, new / name)
    (new / "index.html").write_text(whole(text, new))
    (new / "page").write_text(text)
    shutil.rmtree(out, ignore_errors=True)
    (new / "page").rename(where)
    new.rename(out)


def main() -> None:
    if not earlier():
        sys.exit("nothing is measured yet; next: make paper")
    write(page())
    print(f"written: {page()}, {page().with_suffix('')}/index.html")


if __name__ == "__main__":
    main()
