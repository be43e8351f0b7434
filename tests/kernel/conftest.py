"""Namespaces for one test, taken away afterwards: bare ones, and the topology of the data path."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from kernel.topo import TARGET4, TARGET6, Topo
from viscum.kernel import netns
from viscum.kernel.syscalls import in_netns

_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Space:
    """A network namespace with its loopback up."""

    name: str
    fd: int

    def run(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a program in it, to the end; AssertionError with its words if it fails."""

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(argv, capture_output=True, text=True, **options)

        done = in_netns(self.fd, run)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done

    def json(self, *argv: str) -> Any:
        return json.loads(self.run(*argv).stdout or "[]")


NewSpace = Callable[[], Space]


@pytest.fixture
def new_space() -> Iterator[NewSpace]:
    """`new_space()` makes a namespace of a name of its own."""
    made: list[Space] = []

    def make() -> Space:
        name = f"vt-{os.getpid()}-s{next(_NUMBERS)}"
        space = Space(name, netns.create(name))
        made.append(space)
        space.run("ip", "link", "set", "lo", "up")
        return space

    yield make
    for space in made:
        os.close(space.fd)
        netns.delete(space.name)


@pytest.fixture
def space(new_space: NewSpace) -> Space:
    return new_space()


@pytest.fixture
def topo() -> Iterator[Topo]:
    """With one service, in slot 1."""
    with Topo() as topo:
        topo.add_service(1)
        yield topo


@pytest.fixture(params=[TARGET4, TARGET6], ids=["v4", "v6"])
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)
