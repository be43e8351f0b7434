"""What is due of several services is finished although it can't be for one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from viscum import drains, evolve, store
from viscum.change import Change
from viscum.errors import ViscumError
from viscum.host import Host
from viscum.spec import from_mapping
from viscum.store import HostRecord, World

pytestmark = pytest.mark.req("N9", "N16")


@pytest.mark.parametrize("own", ["", "good", "bad"])
def test_a_step_that_fails_is_that_service_s_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    """Of three whose time is over (`--for`) one can't be changed."""
    said: list[str] = []
    host = Host(str(tmp_path), progress=said.append)
    world = World(HostRecord(store.boot_id(), "100.127.192.0/19", ""), {})
    for name in ("bad", "fine", "good"):
        steer = {"interfaces": ["lo"], "targets": ["198.18.0.10"], "ports": ["80/tcp"]}
        spec = from_mapping({"name": name, "command": ["server"], "steer": steer})
        world = evolve.create(world, spec, ("198.18.0.10/32",), ())
        world = world.with_record(replace(world.services[name], until_ns=1))
    change = Change(host.names, host.store, world)

    def commit(wanted: World) -> None:
        if not wanted.services["bad"].enabled:
            raise ViscumError("a step failed")
        change.world = wanted

    monkeypatch.setattr(change, "commit", commit)
    if own == "bad":
        with pytest.raises(ViscumError, match="a step failed"):
            drains.settle(host, change, own)
        return
    drains.settle(host, change, own)
    assert {n: r.enabled for n, r in change.world.services.items()} == {
        "bad": True, "fine": False, "good": False,
    }  # fmt: skip
    assert change.stuck == {"bad": "a step failed"}
    assert said == ["bad: what is due can't be finished: a step failed"]
