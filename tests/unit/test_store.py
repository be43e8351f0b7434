"""Records: written whole or not at all, read only if they are what they should be."""

from __future__ import annotations

import os
import socket
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from msgspec.structs import replace

from spec_strategies import SPECS
from support import need_root
from viscum import evolve, store
from viscum.errors import InputError, ViscumError
from viscum.spec import Port, Spec, Steer
from viscum.store import HostRecord, Retired, Store, World

POOL4, POOL6 = "100.127.192.0/19", "fd76:6973:6375:6d::/112"


def spec(name: str = "web") -> Spec:
    steer = Steer(interfaces=("wlan0",), targets=("198.18.0.10",), ports=(Port("tcp", 80, 80),))
    return Spec(name=name, command=("httpd",), steer=steer)


def world(*names: str) -> World:
    made = World(HostRecord(store.boot_id(), POOL4, POOL6), {})
    for name in names:
        made = evolve.create(made, spec(name), ("198.18.0.10/32",), ())
    return made


def files(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


@pytest.mark.req("N4")
@given(SPECS)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, one: Spec) -> None:
    made = evolve.create(world("other"), one, ("198.18.0.11/32", "2001:db8::/64"), ())
    record = made.services[one.name]
    retired = (Retired(9, one, ("198.18.0.12/32",), 1.5), Retired(8, one, (), None))
    record = replace(record, retired=retired, end_flows_at=7.25, until_ns=1 << 60, enabled=False)
    made = made.with_record(evolve.live(record, 99.5))
    kept = Store(str(tmp_path_factory.mktemp("state")))
    kept.save(made)
    assert kept.load("", "") == made


@pytest.mark.req("N16")
def test_services_that_went_have_no_file(tmp_path: Path) -> None:
    kept = Store(str(tmp_path))
    kept.save(world("one", "two"))
    assert files(tmp_path) == {"host.json", "services/one.json", "services/two.json"}
    kept.save(world("one"))
    assert files(tmp_path) == {"host.json", "services/one.json"}
    kept.save(world())
    kept.tidy()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.req("C1")
def test_the_version_tells_changes_within_one_tick_of_the_kernel_s_clock(tmp_path: Path) -> None:
    """Before Linux 6.13 the directory's time is the same after each of them."""
    kept = Store(str(tmp_path))
    assert kept.version() == 0
    made = world("one", "two")

    def version() -> int:
        os.utime(tmp_path / "services", ns=(1, 1))
        assert kept.version() == kept.version()
        return kept.version()

    versions = []
    kept.save(made)
    for enabled in (False, True, False):
        versions.append(version())
        kept.save(made.with_record(replace(made.services["one"], enabled=enabled)))
    versions.append(version())
    kept.save(made.without("two"))
    versions.append(version())
    kept.touch()
    versions.append(kept.version())
    assert all(one != next_one for one, next_one in pairwise(versions))


@pytest.mark.req("N16")
def test_a_write_that_is_cut_short_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Store(str(tmp_path))
    kept.save(old := world("one"))
    new = old.with_record(replace(old.services["one"], enabled=False))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            kept.save(new)
    assert kept.load("", "") == old
    kept.save(new)
    assert kept.load("", "") == new
    kept.save(world())
    kept.tidy()
    assert files(tmp_path) == set()


@pytest.mark.req("N16")
def test_what_says_the_same_is_not_written_again(tmp_path: Path) -> None:
    kept = Store(str(tmp_path))
    kept.save(world("one"))
    before = {name: (tmp_path / name).stat().st_ino for name in files(tmp_path)}
    kept.save(world("one"))
    assert {name: (tmp_path / name).stat().st_ino for name in files(tmp_path)} == before


@pytest.mark.req("N16")
def test_records_of_an_earlier_boot_count_for_nothing(tmp_path: Path) -> None:
    kept = Store(str(tmp_path))
    then = world("one")
    kept.save(World(replace(then.host, boot="another", next_slot=7), then.services))
    now = kept.load(POOL4, "")
    assert now == World(HostRecord(store.boot_id(), POOL4, "", 0, now.host.next_sid), {})
    assert now.host.next_sid != kept.load(POOL4, "").host.next_sid, "sids are not used twice"
    # Reading needs no lock: what another command writes meanwhile must not go.
    assert files(tmp_path) == {"host.json", "services/one.json"}


@pytest.mark.req("N16")
def test_records_of_an_earlier_boot_go_before_the_first_of_this(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two writes, they must not be taken for those of this boot."""
    kept, then = Store(str(tmp_path)), world("one", "two")
    kept.save(World(replace(then.host, boot="another"), then.services))
    really = os.replace

    def killed(source: Path, target: Path) -> None:
        really(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            kept.save(world("two"))
    assert kept.load("", "").services == {}


@pytest.mark.req("N15", "N16")
def test_records_without_the_hosts_are_not_read(tmp_path: Path) -> None:
    kept = Store(str(tmp_path))
    kept.save(world("one"))
    (tmp_path / "host.json").unlink()
    with pytest.raises(ViscumError, match=r"host\.json is missing") as raised:
        kept.load(POOL4, "")
    assert "nothing was changed" in raised.value.state
    (tmp_path / "services").rename(tmp_path / "away")  # as the hint says
    assert kept.load(POOL4, "").services == {}


@pytest.mark.req("N15")
@pytest.mark.parametrize("name", ["host.json", "services/one.json"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"boot": 1}',
        '{"name": "one", "spec": {"name": "one"}}',
        "\xff",
    ],
)
def test_a_record_that_is_none_is_named(tmp_path: Path, name: str, text: str) -> None:
    kept = Store(str(tmp_path))
    kept.save(world("one"))
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ViscumError) as raised:
        kept.load("", "")
    assert str(tmp_path / name) in raised.value.message
    assert "nothing was changed" in raised.value.state
    assert "move" in raised.value.hint


def held(directory: Path) -> None:
    with store.lock(str(directory), "test", 0, lambda holder: None):
        pass


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    there = tmp_path / "victim"
    there.write_text("precious")
    return there


@pytest.mark.req("N17")
def test_the_lock_is_no_link(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        held(tmp_path / "state")
    assert victim.read_text() == "precious"


@pytest.mark.req("C1")
def test_whatever_happens_the_lock_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller that kept it would keep everybody from it for as long as it lives."""

    def fails(directory: Path) -> None:
        raise OSError("no such disk")

    def lock() -> None:
        with store.lock(str(tmp_path / "state"), "test", 0, lambda line: None):
            pass

    with monkeypatch.context() as patched:
        patched.setattr(store, "_forget_controller", fails)
        with pytest.raises(OSError, match="no such disk"):
            lock()
    lock()


@pytest.mark.req("C1")
def test_others_sockets_may_be_called_anything(tmp_path: Path) -> None:
    """While it is looked whether the controller's is still somebody's."""
    with socket.socket(socket.AF_UNIX) as others, socket.socket(socket.AF_UNIX) as controllers:
        others.bind(b"\0vt-%d-\xff\n" % os.getpid())
        where = tmp_path / store.API_SOCKET
        controllers.bind(str(where))
        store._forget_controller(tmp_path)
        assert where.exists()
    store._forget_controller(tmp_path)
    assert not where.exists()


@pytest.mark.req("N17")
def test_no_record_is_written_through_a_link(tmp_path: Path, victim: Path) -> None:
    kept = Store(str(tmp_path / "state"))
    (kept.dir / "services").mkdir(parents=True)
    (kept.dir / "services" / ".one.json.new").symlink_to(victim)
    kept.save(world("one"))
    assert kept.load("", "") == world("one")
    assert victim.read_text() == "precious"


@pytest.mark.req("N17")
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_state_directory_that_others_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    if os.geteuid() == 0:
        os.chown(directory, 0, 1000)  # root's group is root
    directory.chmod(mode)
    with pytest.raises(InputError, match="others than root may write"):
        held(directory)
    assert list(directory.iterdir()) == []
    directory.chmod(0o755)
    held(directory)


@pytest.mark.req("N17")
def test_the_state_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    need_root()
    directory = tmp_path / "state"
    directory.mkdir()
    os.chown(directory, 1000, 0)
    with pytest.raises(InputError, match="others than root may write"):
        held(directory)


def test_a_careless_umask_makes_no_directory_that_is_refused(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        held(tmp_path / "state")
        Store(str(tmp_path / "state")).save(world("one"))
        held(tmp_path / "state")
    finally:
        os.umask(before)
    assert (tmp_path / "state" / "services").stat().st_mode & 0o022 == 0
