"""What the documents say about commands, files and decisions holds for the code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from viscum.cli.app import app
from viscum.explain import REASONS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
UNITS = sorted(p for p in (ROOT / "contrib").rglob("*") if p.is_file())
FENCE = re.compile(r"^```[a-z]*\n(.*?)^```$", re.M | re.S)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
START = re.compile(r"(?:^|[# =]|bin/)(?P<command>viscum [a-z-])")
OUTPUT = ("the lab is up", "try:", "note:", "now:", "next:")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def commands(path: Path) -> Iterator[tuple[str, bool]]:
    """(from `viscum` on, whether it is only mentioned in a sentence) for every command line."""
    text = path.read_text()
    if path.suffix != ".md":
        text = text.replace('"$PROG"', "viscum").replace('"$SERVICES"', "x")
        lines = [(line, False) for line in text.splitlines() if not line.startswith("#")]
    else:
        lines = [(line, False) for block in FENCE.findall(text) for line in block.splitlines()]
        lines += [(words, True) for words in CODE.findall(FENCE.sub("", text))]
    for line, mentioned in lines:
        found = START.search(line)
        if found and not line.startswith(OUTPUT):
            yield line[found.start("command") :].split("  #")[0], mentioned


def parse(words: list[str]) -> None:
    """As click would, without running anything. Raises click.ClickException."""
    command: click.Command = app
    context = click.Context(app, info_name="viscum")
    while isinstance(command, click.Group):
        rest = command.make_context(context.info_name, list(words), resilient_parsing=False)
        if not (rest._protected_args or rest.args):
            return  # a mention of an option that goes before any command
        name, found, words = command.resolve_command(rest, [*rest._protected_args, *rest.args])
        assert found is not None, name
        context, command = rest, found
    try:
        made = command.make_context(context.info_name, list(words), parent=context)
    except click.exceptions.Exit:
        return  # --help
    nested = made.params.get("command")
    if context.info_name == "viscum" and nested and nested[0] == "viscum":
        parse(list(nested[1:]))


ALL = [(path, *found) for path in (*DOCUMENTS, *UNITS) for found in commands(path)]


@pytest.mark.req("N2")
@pytest.mark.parametrize(
    ("path", "command", "mentioned"), ALL, ids=[f"{p.name}:{c[:50]}" for p, c, _ in ALL]
)
def test_a_command_line_parses(path: Path, command: str, mentioned: bool) -> None:
    lexer = shlex.shlex(command.replace("…", "x"), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if set(word) <= set(";<>|&"):  # what the shell keeps for itself
            break
        words.append(word)
    if mentioned and words[1] == "run" and "--" not in words:
        words += ["--", "server"]
    try:
        parse(words[1:])
    except click.ClickException as error:
        said = error.format_message()
        unknown = isinstance(error, click.NoSuchOption) or said.startswith("no such command")
        if unknown or not mentioned:  # a mere mention may leave arguments out
            pytest.fail(f"{path.name}: {command!r}: {said}")


def test_command_lines_are_found() -> None:
    """Of each document that has some, so that the test above can't pass by seeing nothing."""
    found = {path.name for path, _, _ in ALL}
    assert {"README.md", "boot.md", "troubleshooting.md", "spec.md", "viscum.service"} <= found
    assert len(ALL) > 60


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_to_files(path: Path) -> None:
    text = FENCE.sub("", path.read_text())
    for target in LINK.findall(text):
        if not target.startswith(("http://", "https://", "#")):
            file = path.parent / target.partition("#")[0]
            assert file.exists(), f"{path.name} links to {target}"


@pytest.mark.req("N14")
def test_every_decision_is_described() -> None:
    """docs/packet.md has each reason in its table, with the place explain says, and no other."""
    text = (ROOT / "docs" / "packet.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (edge|cloud|dropped) \|", text, re.M)
    assert dict(rows) == {reason: place for reason, (place, _) in REASONS.items()}
    assert len(rows) == len(REASONS)


def test_the_stated_maxima_are_those_of_the_code() -> None:
    from viscum import names

    header = (ROOT / "src/viscum/bpf/viscum.h").read_text()
    program = (ROOT / "src/viscum/bpf/viscum.bpf.c").read_text()
    text = (ROOT / "docs" / "packet.md").read_text()
    stated = {
        k: v.replace(",", "") for k, v in re.findall(r"^\| ([^|]+) \| ([\d,]+) \|$", text, re.M)
    }
    size = dict(re.findall(r"^HASH_MAP\((\w+), .*?, (\d+), \w+\);", program, re.M))
    limit = dict(re.findall(r"^#define V_MAX_(\w+) (\d+)$", header, re.M))
    assert stated == {
        "services (a service being changed may count twice)": size["services"],
        "target addresses": size["targets"],
        "target prefixes": size["prefixes"],
        "client prefixes, all services together": size["clients"],
        "ports (distinct sets of services per address × ports)": size["ports"],
        "instances on a host": str(names.MAX_SLOTS),
        "instances of a generation": limit["INSTANCES"],
        "generations of a service at a time": limit["GENERATIONS"],
        "client interfaces of a service": limit["INTERFACES"],
        "IPv6 extension headers": "8",
    }
