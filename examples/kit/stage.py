"""A lab in which an example is played: a client, an access point with Viscum, a cloud."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from kit.machine import need_reach, note_load
from kit.place import clear_up, place
from viscum.lab import CLOUD4, Lab

EXAMPLES = Path(__file__).parents[1]
# Where the READMEs put an example on a real box; its specs say so.
BOX = "/opt/viscum-examples"
CACHE = EXAMPLES.parent / ".cache" / "examples"
RADIO, WAN, RTT = 300e6, 50e6, 0.06  # bit/s, bit/s, s: what examples are measured with


def example_dir(name: str) -> Path:
    return EXAMPLES / name


def installed(name: str) -> Path:
    """The environment that `make example-NAME` made for what the example needs from PyPI."""
    return CACHE / name


def spec_of(name: str) -> str:
    """The example's spec, as it is for a real box: `Stage.here` has the paths for a stage."""
    return (example_dir(name) / "spec.toml").read_text()


def with_environment(spec: str, **values: str) -> str:
    """The spec with these variables in [run.environment], besides or instead."""
    for name, value in values.items():
        spec = re.sub(f"(?m)^{name} = .*\n", "", spec)
        more = f"[run.environment]\n{name} = {json.dumps(value)}\n"
        spec = spec.replace("[run.environment]\n", more)
    return spec


class Stage:
    """A lab and the services on it.

    directory: for files of servers, readable by all; gone afterwards.
    """

    def __init__(self, name: str, lab: Lab, directory: Path) -> None:
        self.name = name
        self.lab = lab
        self.directory = directory

    @cached_property
    def box(self) -> Path:
        """A copy of the examples, readable by all, for BOX: a checkout may be in a home, which a
        sandbox hides, and which may be closed to the users that servers run as."""
        copy = self.directory / "examples"
        shutil.copytree(
            EXAMPLES, copy, ignore=shutil.ignore_patterns("__pycache__", "test_*", "unit")
        )
        subprocess.run(["chmod", "-R", "a+rX", str(copy)], check=True)
        return copy

    def here(self, spec: str) -> str:
        """The spec with paths that are there on this stage instead of the real box's."""
        spec = re.sub(f"{BOX}/([a-z]+)/venv", lambda found: str(installed(found[1])), spec)
        return spec.replace(BOX, str(self.box)) if BOX in spec else spec

    def viscum(
        self, *words: str, ok: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """What an operator types on the access point. AssertionError if it fails."""
        done = self.lab.viscum(*words, env=self.lab.environment("ap") | environment)
        assert not ok or done.returncode == 0, f"viscum {' '.join(words)}: {done.stderr}"
        return done

    def apply(
        self, text: str | None = None, *, ok: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """The example's own spec, or this one."""
        path = self.directory / "spec.toml"
        path.write_text(self.here(text or spec_of(self.name)))
        return self.viscum("apply", str(path), ok=ok, **environment)

    def status(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.viscum("status", service, "--json").stdout)
        return found

    def wan_bytes(self) -> int:
        """Bytes that have crossed the access point's uplink so far, both ways."""
        done = self.lab.run("ap", ["ip", "-j", "-s", "link", "show", "dev", "wan0"], check=True)
        stats = json.loads(done.stdout)[0]["stats64"]
        return int(stats["rx"]["bytes"] + stats["tx"]["bytes"])

    def ping(self, target: str = CLOUD4, count: int = 20, role: str = "ue") -> list[float]:
        """Round trips in ms."""
        done = self.lab.run(role, ["ping", "-n", "-i", "0.05", "-c", str(count), target])
        return [float(w.partition("=")[2]) for w in done.stdout.split() if w.startswith("time=")]

    def server(self, role: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """A program that runs till the end of the play; what it prints goes to a file."""
        name = Path(argv[0]).name
        log = (self.directory / f"{role}-{name}.log").open("ab")
        return self.lab.popen(role, argv, **({"stdout": log, "stderr": log} | options))


@contextlib.contextmanager
def stage(name: str, **settings: Any) -> Iterator[Stage]:
    """settings: as for `viscum.lab.Lab`, RADIO, WAN and RTT where they say nothing else. What is
    left of stages that were killed goes first. Exits with words if the example's service could not
    run what is installed for it."""
    note_load()
    if installed(name).exists():
        need_reach(spec_of(name), installed(name) / "bin" / "python")
    clear_up()
    settings = {"radio_rate": RADIO, "wan_rate": WAN, "wan_rtt": RTT} | settings
    with place(name) as directory, Lab(directory.name, **settings) as lab:
        yield Stage(name, lab, directory)


def await_listening(lab: Lab, role: str, *ports: int, udp: bool = False) -> None:
    """Raises AssertionError after 30 s."""
    end = time.monotonic() + 30
    while True:
        found = lab.run(role, ["ss", "-Hnl", "-u" if udp else "-t"]).stdout
        missing = [port for port in ports if f":{port} " not in found]
        if not missing:
            return
        assert time.monotonic() < end, f"nothing listens at {missing} in {role}"
        time.sleep(0.05)
