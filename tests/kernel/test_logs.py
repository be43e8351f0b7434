"""Logs that nobody reads along: bounded from outside while a real server writes."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Figure
from kernel.conftest import Space
from kernel.instance import instance
from support import need_program, wait_until
from viscum import evolve
from viscum.host import Host
from viscum.kernel import logs, process
from viscum.kernel.syscalls import FALLOC_FL_KEEP_SIZE, boottime_ns, fallocate
from viscum.spec import from_mapping
from viscum.store import HostRecord, World

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A small tmpfs, as on a router."""
    path = tmp_path / "logs"
    logs.mount_dir(str(path), 4 * MIB)
    yield path
    logs.unmount_dir(str(path))
    assert not path.is_mount()


def write(fd: int, first: int, last: int) -> None:
    for number in range(first, last):
        os.write(fd, b"%063d\n" % number)


def numbers(lines: list[str]) -> list[int]:
    assert all(len(line) == 63 for line in lines)
    return [int(line) for line in lines]


@pytest.mark.req("N17")
def test_trim_keeps_the_end_and_the_writer_goes_on(directory: Path) -> None:
    path = str(directory / "web.log")
    fd = logs.open_log(path)
    write(fd, 0, 20_000)
    assert logs.used(path) > MIB
    assert logs.trim(path, 64 * KIB) <= 64 * KIB + 4 * KIB
    assert os.stat(path).st_size == 20_000 * 64
    write(fd, 20_000, 20_010)
    kept = numbers(logs.tail(path).lines)
    assert kept == list(range(kept[0], 20_010))
    assert len(kept) >= 64 * KIB // 64
    assert logs.tail(path, 5).lines == logs.tail(path).lines[-5:]
    assert logs.tail(path, 10**6).lines == logs.tail(path).lines
    assert logs.trim(path, 64 * KIB) == logs.used(path) <= 64 * KIB + 4 * KIB
    os.close(fd)


@pytest.mark.req("N17", "C2")
@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 2 * MIB, (1 << 63) - 1])
def test_trim_of_a_log_that_was_made_absurdly_long(directory: Path, size: int) -> None:
    """With room reserved beyond its end, as far as there can be any."""
    path = str(directory / "web.log")
    fd = logs.open_log(path)
    write(fd, 0, 20_000)
    os.truncate(path, size)
    if size + MIB < 1 << 63:
        fallocate(fd, FALLOC_FL_KEEP_SIZE, size, MIB)
    assert logs.trim(path, 64 * KIB) <= 64 * KIB + 4 * KIB
    os.close(fd)


@pytest.mark.req("N17", "C2")
def test_one_log_that_is_none_keeps_no_other_from_being_trimmed(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    world = World(HostRecord("", "100.127.192.0/19", ""), {})
    for name in ("a", "b"):
        spec = from_mapping(
            {
                "name": name,
                "command": ["server"],
                "steer": {"interfaces": ["lo"], "targets": ["198.18.0.10"]},
                "limits": {"log": "64K"},
            }
        )
        world = evolve.create(world, spec, ("198.18.0.10/32",), ())
    host.store.log("a", 1, 0).mkdir(parents=True)
    path = str(host.store.log("b", 1, 0))
    fd = logs.open_log(path)
    write(fd, 0, 20_000)
    host.trim_logs(world)
    assert logs.used(path) <= 64 * KIB + 4 * KIB
    os.close(fd)


@pytest.mark.req("N17")
def test_trim_lets_a_short_log_alone(directory: Path) -> None:
    path = str(directory / "web.log")
    fd = logs.open_log(path)
    os.write(fd, b"one\ntwo\nhalf")
    logs.trim(path, 64 * KIB)
    assert logs.tail(path).lines == ["one", "two", "half"]
    assert logs.tail(path, 1).lines == ["half"]
    assert logs.tail(path, 0).lines == []
    os.close(fd)


@pytest.mark.req("N17")
def test_far_more_than_fits_passes_through(directory: Path) -> None:
    """64 MiB by a process of its own through a 4 MiB tmpfs: no write fails, none is lost
    but those that were cut off at the front."""
    path = str(directory / "web.log")
    fd = logs.open_log(path)
    block = 256 * KIB
    for number in range(256):
        code = f"head -c {block - 64} /dev/zero | tr '\\0' x; printf '\\n%062d\\n' {number}"
        subprocess.run(["sh", "-c", code], stdout=fd, check=True)
        if number % 8 == 0:
            logs.trim(path, MIB)
    logs.trim(path, MIB)
    assert logs.used(path) <= MIB + 4 * KIB
    kept = [int(line) for line in logs.tail(path).lines if line.isdigit()]
    assert kept == list(range(252, 256))
    os.close(fd)


@pytest.mark.req("N17")
def test_the_hard_stop_is_the_file_system(directory: Path) -> None:
    path = str(directory / "web.log")
    fd = logs.open_log(path)
    with pytest.raises(OSError, match="No space left"):
        write(fd, 0, 5 * MIB // 64)
    logs.trim(path, 64 * KIB)  # also where nothing more can be written
    os.write(fd, b"\nafter\n")
    assert logs.tail(path, 1).lines == ["after"]
    os.close(fd)


@pytest.mark.req("N17")
def test_mounting_is_idempotent_and_resizes(directory: Path) -> None:
    (directory / "kept").write_text("x")
    logs.mount_dir(str(directory), 8 * MIB)
    assert (directory / "kept").read_text() == "x"
    info = os.statvfs(directory)
    assert info.f_blocks * info.f_frsize == 8 * MIB
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    assert sum(str(directory) in line for line in mounts) == 1


@pytest.mark.req("N2", "N17")
def test_since_misses_nothing_that_is_kept(directory: Path) -> None:
    path = str(directory / "web.log")
    fd = logs.open_log(path)
    opened = boottime_ns()
    write(fd, 0, 10)
    before = boottime_ns()
    logs.trim(path)
    between = boottime_ns()
    write(fd, 10, 20)
    logs.trim(path)
    after = boottime_ns()
    assert numbers(logs.tail(path, since_ns=opened).lines) == list(range(20))
    # Asked for lines since a moment between two marks: from the mark before it.
    assert numbers(logs.tail(path, since_ns=before).lines) == list(range(20))
    found = logs.tail(path, since_ns=between)
    assert numbers(found.lines) == list(range(10, 20))
    assert found.since_ns is not None
    assert before <= found.since_ns <= between
    assert logs.tail(path, since_ns=after).lines == []
    assert numbers(logs.tail(path, 3, since_ns=between).lines) == [17, 18, 19]
    assert logs.tail(path, since_ns=0).since_ns is None
    os.close(fd)


@pytest.mark.req("N17")
def test_the_index_stays_small(directory: Path) -> None:
    path = str(directory / "web.log")
    fd = logs.open_log(path)
    moments = []
    for number in range(2 * logs.MARKS):
        write(fd, number, number + 1)
        logs.trim(path)
        moments.append(boottime_ns())
    os.close(fd)
    size = os.stat(f"{path}.index").st_size
    assert 0 < size <= 16 * logs.MARKS
    assert numbers(logs.tail(path, since_ns=moments[-2]).lines) == [2 * logs.MARKS - 1]
    old = numbers(logs.tail(path, since_ns=moments[100]).lines)
    assert 50 < old[0] <= 101
    assert old[-1] == 2 * logs.MARKS - 1
    logs.remove(path)
    logs.remove(path)
    assert list(directory.iterdir()) == []


@pytest.mark.req("N2", "N17")
def test_follow_goes_on_where_tail_ended(directory: Path) -> None:
    paths = [str(directory / "a.log"), str(directory / "b.log")]
    a, b = (logs.open_log(path) for path in paths)
    os.write(a, b"before\n")
    starts = {path: logs.tail(path).end for path in paths}
    os.write(b, b"one\n")  # after tail, before follow
    lines = logs.follow(starts)
    assert next(lines) == (paths[1], "one")
    # The rest comes while the reader waits for it.
    got: list[tuple[str, str]] = []
    thread = threading.Thread(target=lambda: got.extend(lines))
    thread.start()
    os.write(a, b"tw")
    os.write(a, b"o\nthree\n")
    os.write(b, b"four\nlast")
    for path in paths:
        logs.remove(path)
    thread.join(20)
    assert not thread.is_alive()
    assert [line for path, line in got if path == paths[0]] == ["two", "three"]
    assert [line for path, line in got if path == paths[1]] == ["four", "last"]
    for fd in (a, b):
        os.close(fd)


@pytest.mark.req("N17")
def test_follow_skips_what_was_trimmed_before_it_was_read(directory: Path) -> None:
    path = str(directory / "web.log")
    fd = logs.open_log(path)
    write(fd, 0, 10)
    lines = logs.follow({path: 0})
    assert int(next(lines)[1]) == 0
    write(fd, 10, 40_000)
    logs.trim(path, 64 * KIB)
    logs.remove(path)
    os.close(fd)
    seen = numbers([line for _, line in lines])
    assert seen[:9] == list(range(1, 10))
    assert seen[9:] == list(range(seen[9], 40_000))
    assert seen[9] > 30_000


@pytest.mark.req("N17")
def test_follow_ends_when_told(directory: Path) -> None:
    path = str(directory / "web.log")
    fd = logs.open_log(path)
    reader, writer = os.pipe()
    os.write(fd, b"a line\n")
    os.close(writer)
    assert list(logs.follow({path: 0}, stop_fd=reader)) == [(path, "a line")]
    for each in (fd, reader):
        os.close(each)
    with pytest.raises(FileNotFoundError):
        next(logs.follow({str(directory / "none.log"): 0}))


# ---- a real server that shouts ----------------------------------------------------------------

LINE = 400_000  # bytes that nginx logs for each request: 100 parameters of 4,000


def shouting_nginx(where: Path) -> tuple[str, ...]:
    """nginx with its access log on standard output, as in its container image."""
    need_program("nginx")
    conf = where / "nginx.conf"
    words = " ".join(f"'{'x' * 3999} '" for _ in range(LINE // 4000))
    conf.write_text(
        "user www-data; daemon off; error_log stderr; pid /run/nginx.pid; worker_processes 1;"
        "events {} http { log_format shout " + words + " '$request_uri';"
        " access_log /dev/stdout shout; server { listen 80;"
        ' location / { return 200 "answer to $request_uri"; } } }'
    )
    return "nginx", "-c", str(conf)


@pytest.mark.req("N17")
def test_a_gigabyte_of_stdout_harms_nobody(space: Space, figure: Figure) -> None:
    """Test 7: the log stays within its bound, the server answers each request, and the last
    lines are all there. Trimmed from outside every 20 requests (8 MB), on a 16 MiB tmpfs."""
    with instance(space.fd) as web:
        directory = web.directory / "logs"
        logs.mount_dir(str(directory), logs.HARD_STOP)
        web.log = directory / "web.log"
        log = str(web.log)
        try:
            server = web.start(*shouting_nginx(web.directory))
            web.wait_for_answer()
            requests = 1_000_000_000 // LINE + 1
            most = 0
            for number in range(requests):
                assert web.get(f"/{number}").endswith(f"answer to /{number}")
                if number % 20 == 0:
                    most = max(most, logs.used(log))
                    logs.trim(log)
            logs.trim(log)
            assert os.stat(log).st_size > 1_000_000_000
            assert logs.used(log) <= logs.BOUND + 4 * KIB
            assert most < logs.HARD_STOP
            said = [line.rsplit(maxsplit=1)[-1] for line in logs.tail(log).lines]
            assert said == [f"/{requests - 2}", f"/{requests - 1}"]
            assert web.get("/still").endswith("answer to /still")
            assert process.main_pid(web.group) == server
            assert process.stop(web.group, 20).by_itself
        finally:
            web.group.kill()
            assert web.group.wait_empty(10)
            figure("written by the server", os.stat(log).st_size / 1e6, "MB")
            figure("log afterwards", logs.used(log) / KIB, "KiB")
            logs.unmount_dir(str(directory))


@pytest.mark.req("N17")
def test_the_hard_stop_leaves_the_server_answering(space: Space) -> None:
    """Nobody trims: nginx gets ENOSPC for its log, and goes on; room made, it logs again."""
    with instance(space.fd) as web:
        directory = web.directory / "logs"
        logs.mount_dir(str(directory), 4 * MIB)
        web.log = directory / "web.log"
        log = str(web.log)
        try:
            web.start(*shouting_nginx(web.directory))
            web.wait_for_answer()
            for number in range(20):
                assert web.get(f"/{number}").endswith(f"answer to /{number}")
            assert logs.used(log) <= 4 * MIB
            assert not any(line.endswith(" /19") for line in logs.tail(log).lines)
            logs.trim(log)

            def logged_again() -> bool:  # nginx does not try again within the same second
                assert web.get("/again").endswith("answer to /again")
                return logs.tail(log, 1).lines[-1].endswith(" /again")

            wait_until(logged_again, "nginx to log again")
        finally:
            web.group.kill()
            assert web.group.wait_empty(10)
            logs.unmount_dir(str(directory))


@pytest.mark.req("N17", "C6")
def test_the_end_of_a_log_has_a_size_at_most(directory: Path) -> None:
    path = str(directory / "web.log")
    fd = logs.open_log(path)
    os.write(fd, b"".join(b"line %04d\n" % n for n in range(1000)))
    os.lseek(fd, 1 << 20, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)  # no longer O_APPEND
    os.write(fd, b"after a hole 1\nafter a hole 2\n")
    after = ["after a hole 1", "after a hole 2"]
    page = -10000 % 4096  # up to the hole
    for lines in (None, 500, 100_000):
        end = [f"line 0{n}" for n in (997, 998, 999)]
        assert logs.tail(path, lines, most=page + 64).lines == [*end, *after]
        assert logs.tail(path, lines, most=29).lines == after[1:]
        assert logs.tail(path, lines, most=0).lines == []
    assert logs.tail(path, 1, most=64).lines == after[1:]
    logs.trim(path, 1 << 30)  # leaves a mark
    os.write(fd, b"x" * 999 + b"\n")
    assert logs.tail(path, since_ns=boottime_ns(), most=2000).since_ns is not None
    assert logs.tail(path, since_ns=boottime_ns(), most=500).since_ns is None, "not all of it"


def test_a_log_is_no_longer_than_what_is_in_it(directory: Path) -> None:
    """A hostile server writes far beyond the end, so that whoever reads the log reads for ever."""
    path = str(directory / "web.log")
    fd = logs.open_log(path)
    os.write(fd, b"first\n")
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)  # no longer O_APPEND
    for number in range(1, 9):
        os.pwrite(fd, b"far\n", number << 50)
    os.ftruncate(fd, 1 << 60)
    assert logs.tail(path, 3).lines[-3:] == ["far"] * 3
    assert logs.tail(path).lines == ["first", *["far"] * 8]
    assert logs.tail(path, 100).lines == logs.tail(path).lines
    # Nor does it keep more than its share by reserving it beyond the end.
    os.ftruncate(fd, 4096)
    fallocate(fd, FALLOC_FL_KEEP_SIZE, 4096, MIB)
    assert logs.used(path) > MIB
    assert logs.trim(path, 64 * KIB) == logs.used(path) == 4096
    assert logs.tail(path).lines == ["first"]
    os.close(fd)


@pytest.mark.req("C6")
def test_who_follows_is_not_held_up_by_a_line_that_never_ends(directory: Path) -> None:
    path = str(directory / "web.log")
    fd = logs.open_log(path)
    os.write(fd, b"begun ")
    followed = logs.Follower({path: 0})
    try:
        assert list(followed.read()) == []
        for _ in range(4):
            os.write(fd, b"x" * logs.LINE)
        parts = [line for _, line in followed.read()]
        assert parts, "it comes in parts"
        assert max(map(len, parts)) <= 2 * logs.LINE
        os.write(fd, b"y" * (3 * logs.BEHIND) + b"\nthe newest\n")
        assert [line for _, line in followed.read()][-1] == "the newest"
        assert sum(map(len, parts)) <= 5 * logs.LINE
    finally:
        followed.close()
        os.close(fd)
