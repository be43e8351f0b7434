"""A change that fails, and whose taking back fails too."""

from __future__ import annotations

from pathlib import Path

import pytest

from viscum import evolve, names, ops
from viscum.apply import OpFailed
from viscum.change import Change
from viscum.model import Observed
from viscum.spec import Port, Spec, Steer
from viscum.store import HostRecord, Store, World, boot_id

NOTHING = Observed({}, {}, {}, {}, frozenset(), frozenset(), (), None)


class Refused(OSError):
    pass


class Step:
    """Done is what was applied; one that is refused is not."""

    def __init__(self, what: str, done: list[str]) -> None:
        self.what, self.done = what, done

    def describe(self) -> str:
        return self.what

    def shell(self) -> tuple[str, ...]:
        return (self.what,)

    def apply(self) -> None:
        if self.what == "start":
            raise Refused("no room")
        self.done.append(self.what)


class Broken(Change):
    """`blind`: after the step that fails the kernel can't be looked at any more."""

    blind = False

    def __init__(self, state: Path) -> None:
        empty = World(HostRecord(boot_id(), "100.127.192.0/19", ""), {})
        super().__init__(names.HostNames(str(state)), Store(str(state)), empty)
        self.looks = 0
        self.done: list[str] = []

    def observe(self) -> Observed:
        self.looks += 1
        if self.blind and self.looks > 1:
            raise Refused("can't see")
        return NOTHING

    def ops(self, world: World, *_: object) -> tuple[ops.Op, ...]:
        return (Step("start" if world.services else "stop", self.done),)

    def begin(self) -> OpFailed:
        steer = Steer(interfaces=("wlan0",), targets=("198.18.0.10",), ports=(Port("tcp", 80, 80),))
        one = Spec(name="web", command=("httpd",), steer=steer)
        with pytest.raises(OpFailed) as raised:
            self.commit(evolve.create(self.world, one, ("198.18.0.10/32",), ()))
        return raised.value


@pytest.mark.req("N16")
def test_what_was_begun_is_taken_back(tmp_path: Path) -> None:
    change = Broken(tmp_path / "state")
    failed = change.begin()
    assert (failed.message, failed.state) == (
        "could not start: no room",
        "what was begun is taken back",
    )
    assert change.done == ["stop"]
    assert change.store.load("", "").services == {}


@pytest.mark.req("N15", "N16")
def test_the_first_error_is_told_where_taking_back_fails_too(tmp_path: Path) -> None:
    change = Broken(tmp_path / "state")
    change.blind = True
    failed = change.begin()
    assert failed.message == "could not start: no room"
    assert "taking back what was done failed too" in failed.state
    assert "can't see" in failed.state
    assert list(change.store.load("", "").services) == ["web"]  # removing: the next command does


@pytest.mark.req("N16")
def test_what_can_be_is_taken_back_though_no_file_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Broken(tmp_path / "state")
    saves: list[World] = []

    def save(world: World) -> None:
        saves.append(world)
        if len(saves) > 1:
            raise Refused("disk full")

    monkeypatch.setattr(change.store, "save", save)
    failed = change.begin()
    assert failed.message == "could not start: no room"
    assert "disk full" in failed.state
    assert change.done == ["stop"]
