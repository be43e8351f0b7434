"""The lab with all that belongs to it: the database and the real server in the cloud, and the same
server for the edge."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kit import (
    Stage,
    await_listening,
    example_dir,
    installed,
    spec_of,
    stage,
    with_environment,
)
from plates.mariadb import ADDRESS, PORT, MariaDB
from viscum.lab import CLOUD4
from viscum.lab.plan import CLOUD_NAME

NAME = "plates"
URL = f"http://{CLOUD_NAME}/"
# What cuts the way between the router and the world, and nothing else of either.
CUT = """
table inet cut {
    chain out {
        type filter hook postrouting priority 300
        oifname "wan0" drop
    }
}
"""


def python() -> str:
    """The example's own, with what it needs."""
    return str(installed(NAME) / "bin" / "python")


def draw(
    directory: Path, each: int, seed: int = 7, kinds: Sequence[str] = ()
) -> dict[str, dict[str, str]]:
    """Photos, of all kinds if none is named; and by name what is on them."""
    words = [python(), str(example_dir(NAME) / "photos.py"), "--each", str(each)]
    words += ["--seed", str(seed), *(("--kinds", *kinds) if kinds else ())]
    subprocess.run([*words, "--", str(directory)], check=True)
    return drawn(directory)


def drawn(directory: Path) -> dict[str, dict[str, str]]:
    """What is on photos that were drawn."""
    known: dict[str, dict[str, str]] = json.loads((directory / "plates.json").read_text())
    return known


def plate_of(directory: Path, name: str) -> str:
    return drawn(directory)[name]["plate"]


class Scene:
    """edge: the state directory of the server at the edge."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.lab = stage.lab
        self.edge = stage.directory / "edge"
        self.edge.mkdir()
        self.database = MariaDB(stage.lab, stage.directory / "mariadb")
        self.database.start()
        shutil.copy(self.database.password, self.edge / "password")
        shutil.copy(self.database.ca, self.edge / "ca.crt")
        for path in self.edge.iterdir():
            shutil.chown(path, "root")

    def spec(self, **environment: str) -> str:
        """The example's, with its files here and this environment besides or instead."""
        text = spec_of(NAME).replace("/var/lib/plates", str(self.edge))
        return with_environment(text, **environment)

    def move(self, **environment: str) -> None:
        """To the edge."""
        self.stage.apply(self.spec(**environment))

    def serve(self, role: str = "cloud", **settings: Any) -> subprocess.Popen[Any]:
        """The same program, started by hand; in the cloud it is the original."""
        port = settings.setdefault("port", 80)
        settings = {
            "spool": self.stage.directory / f"spool-{role}-{port}",
            "database": f"{ADDRESS}:{PORT}",
            "database_password_file": self.database.password,
            "database_ca": self.database.ca,
        } | settings
        words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        child = self.stage.server(
            role, [python(), "-m", "plates.server", *words],
            env={**os.environ, "PYTHONPATH": str(example_dir(NAME).parent)},
        )  # fmt: skip
        await_listening(self.lab, role, port)
        return child

    def send(self, directory: Path, url: str = URL, *more: str) -> list[dict[str, Any]]:
        """The phone's photos, one after the other; what it was told."""
        words = [sys.executable, str(example_dir(NAME) / "client.py"), url, str(directory), *more]
        done = self.lab.run("ue", words)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def status(self) -> dict[str, Any]:
        """What the server at the edge says of itself."""
        done = self.lab.run("ue", ["curl", "-sS", "-m", "20", f"http://{CLOUD4}/status"])
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def processes(self) -> list[int]:
        """Of the server at the edge."""
        generations = self.stage.status(NAME)["generations"]
        instances = [one for generation in generations for one in generation["instances"]]
        return [one["pid"] for one in instances if one["pid"]]

    def await_delivered(self, seconds: float = 40) -> None:
        """Until the edge keeps nothing any more. AssertionError if it takes longer."""
        end = time.monotonic() + seconds
        while (told := self.status())["waiting"]:
            assert time.monotonic() < end, f"after {seconds} s: {told}"
            time.sleep(0.1)

    def cut(self) -> None:
        self.lab.run("ap", ["nft", "-f", "-"], input=CUT, check=True)

    def mend(self) -> None:
        self.lab.run("ap", ["nft", "delete", "table", "inet", "cut"], check=True)


@contextlib.contextmanager
def scene(**settings: Any) -> Iterator[Scene]:
    with stage(NAME, dns=True, **settings) as made:
        yield Scene(made)


def link(names: Iterable[str], source: Path, directory: Path) -> Path:
    """Some of the photos, in a directory of their own."""
    directory.mkdir()
    for name in names:
        (directory / name).symlink_to(source / name)
    return directory
