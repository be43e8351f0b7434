"""The spool alone: what is acknowledged is there afterwards, what is not is not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plates.spool import Spool
from support import need_root

LIMIT = 1 << 20
WRITER = """
import sys; from pathlib import Path; from plates.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 30)
number = 0
while True:
    spool.append([{"id": number}])
    print(number, flush=True)
    number += 1
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    need_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def all_of(spool: Spool) -> list[int]:
    """Delivers everything."""
    found = []
    while segment := spool.take():
        with segment:
            found += [record["id"] for record in segment.records()]
            segment.delivered()
    return found


def fill(spool: Spool, size: int) -> int:
    """Records of that size until there is no space; how many were acknowledged."""
    acknowledged = 0
    try:
        while True:
            spool.append([{"id": acknowledged, "filling": "x" * size}])
            acknowledged += 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return acknowledged


@pytest.mark.req("U1")
def test_records_come_out_in_order_and_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    spool.append([{"id": 1}, {"id": 2}])
    spool.append([{"id": 3}])
    assert spool.count() == 3
    assert all_of(spool) == [1, 2, 3]
    assert all_of(spool) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.req("U1")
def test_what_was_not_delivered_comes_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    spool.append([{"id": 1}])
    segment = spool.take()
    assert segment
    with segment:
        assert [r["id"] for r in segment.records()] == [1]
        assert spool.take() is None  # while somebody is at it
        spool.append([{"id": 2}])  # into another file
    assert all_of(spool) == [1, 2]


@pytest.mark.req("U1")
def test_a_file_that_is_written_to_is_nobody_elses(tmp_path: Path) -> None:
    """Two generations of a service share a directory during an upgrade."""
    old, new = Spool(tmp_path, LIMIT), Spool(tmp_path, LIMIT)
    old.append([{"id": 1}])
    assert all_of(new) == []
    old.append([{"id": 2}])
    assert all_of(old) == [1, 2]


@pytest.mark.req("U1")
def test_a_writer_killed_at_any_moment_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    words = [sys.executable, "-c", WRITER, str(tmp_path)]
    paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
    writer = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | paths)
    assert writer.stdout
    for line in writer.stdout:
        if line == "200\n":
            break
    writer.send_signal(signal.SIGKILL)
    acknowledged = 200 + sum(1 for line in writer.stdout if line.endswith("\n"))
    writer.wait()
    found = all_of(Spool(tmp_path, LIMIT))
    assert found == list(range(len(found)))
    # one more may be on the disk, whose acknowledgement was on its way
    assert len(found) in (acknowledged + 1, acknowledged + 2)


@pytest.mark.req("U1")
def test_half_a_line_is_not_a_record(tmp_path: Path) -> None:
    """What a crash in the middle of a write leaves."""
    (tmp_path / "1.jsonl").write_bytes(b'{"id": 1}\n{"id": 2}\n{"id": ')
    assert all_of(Spool(tmp_path, LIMIT)) == [1, 2]


@pytest.mark.req("U1")
def test_a_full_disk_refuses_and_what_was_there_stays(tiny: Path) -> None:
    spool = Spool(tiny, LIMIT)
    acknowledged = fill(spool, 3000)
    assert 10 < acknowledged < 22
    for _ in range(3):  # it stays full, and goes on saying so
        with pytest.raises(OSError, match="No space"):
            spool.append([{"id": "lost", "filling": "x" * 8000}])
    assert all_of(spool) == list(range(acknowledged))
    spool.append([{"id": 0}])
    assert all_of(spool) == [0]


@pytest.mark.req("U1")
def test_a_disk_that_fails_costs_no_more_than_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither open files nor a lock that nobody gives back."""

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    spool = Spool(tmp_path, LIMIT)
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as broken:
        broken.setattr("plates.spool._sync_directory", fail)
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output"):
                spool.append([{"id": "lost"}])
    assert os.listdir("/proc/self/fd") == before
    spool.append([{"id": 1}])
    assert all_of(spool) == [1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.req("U1")
def test_a_clock_that_repeats_itself_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a router's without a battery does: every start is at the same time."""
    monkeypatch.setattr("time.time_ns", lambda: 1)
    spools = [Spool(tmp_path, LIMIT) for _ in range(3)]
    for number, spool in enumerate(spools):
        spool.append([{"id": number}])
    assert sorted(number for spool in spools for number in all_of(spool)) == [0, 1, 2]


@pytest.mark.req("U1")
def test_it_never_takes_more_than_its_limit(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1000)
    acknowledged = fill(spool, 100)
    assert spool.size() <= 1000
    assert all_of(spool) == list(range(acknowledged))
    spool.append([{"id": 0}])


@pytest.mark.req("U1")
def test_what_is_put_aside_is_kept_and_counts(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    spool.append([{"id": 1}])
    for _ in range(2):  # the second time as after a crash in between
        segment = spool.take()
        assert segment
        with segment:
            path = segment.put_aside([{"id": 1}])
    size = spool.size()
    assert all_of(spool) == [1]
    assert path.read_text() == '{"id": 1}\n'
    assert (spool.count(), spool.count_aside(), 0 < spool.size() < size) == (0, 1, True)
    assert Spool(tmp_path, LIMIT).take() is None
