"""The state directory on a real file system: who may read it, and mounts in it."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import need_root
from viscum import evolve
from viscum.host import Host
from viscum.kernel import logs
from viscum.spec import from_mapping
from viscum.store import HostRecord, Store, World, boot_id

SPEC = {
    "name": "web",
    "command": ["server"],
    "steer": {"interfaces": ["wlan0"], "targets": ["203.0.113.7"]},
    "run": {"environment": {"TOKEN": "secret"}},
}


@pytest.fixture
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="vt-state-", dir="/var/tmp") as directory:
        yield Store(directory)


@pytest.fixture
def world() -> World:
    spec = from_mapping(SPEC)
    empty = World(HostRecord(boot_id(), "100.127.192.0/19", ""), {})
    return evolve.create(empty, spec, ("203.0.113.7/32",), ())


@pytest.mark.req("N17")
def test_only_root_reads_what_may_hold_secrets(store: Store, world: World) -> None:
    """A spec has environment variables, and those often have passwords."""
    host = Host(str(store.dir), config_dir=str(store.dir / "etc"))
    store.save(world)
    files = [store.dir / "services" / "web.json", host.keep(world.services["web"].spec)]
    for path in files:
        assert "secret" in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.req("N16")
def test_logs_that_another_command_takes_away_just_now(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda path: True)  # it was, a moment ago
    assert not Host(str(store.dir / "state")).has_log("web")


@pytest.mark.req("N17")
def test_logs_may_be_a_file_system_of_their_own(store: Store, world: World) -> None:
    """As docs/boot.md advises; the last service's removal leaves the mount to who made it."""
    need_root()
    store.save(world)
    logs.mount_dir(str(store.logs))
    try:
        store.save(world.without("web"))
        store.tidy()
        assert Path(store.logs).is_mount()
        assert not (store.dir / "services").exists()
    finally:
        logs.unmount_dir(str(store.logs))
    store.tidy()
    assert not store.logs.exists()
