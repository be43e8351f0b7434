"""What was asked for: one JSON file per service, one for the host, and the host's lock.

Files record intent only; what *is* is read back from the kernel (kernel/observe.py). Every file
is replaced atomically, so a command killed while writing leaves the old one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import asdict

from viscum.errors import Held, InputError, Problem, ViscumError
from viscum.spec import Spec, from_mapping, to_mapping

T = TypeVar("T")
State = Literal["starting", "live", "draining"]

FIRST_SIDS = 1 << 30  # of 2^32: who counts up from there never reaches the end


class Generation(msgspec.Struct, frozen=True):
    """All instances started from one version of a spec.

    starting: its process has not listened yet (a rollback removes it); live: takes new flows;
    draining: keeps the flows it has until they end, or until drain_until (CLOCK_BOOTTIME
    seconds; None: for ever).
    """

    number: int
    spec: Spec
    slots: tuple[int, ...]
    state: State = "starting"
    drain_until: float | None = None


class Retired(msgspec.Struct, frozen=True):
    """Steering that was narrowed: it takes no new flows, and keeps those it has."""

    sid: int
    spec: Spec
    addresses: tuple[str, ...]
    until: float | None


class Record(msgspec.Struct, frozen=True):
    """One service as asked for. Times are CLOCK_BOOTTIME."""

    name: str
    sid: int
    spec: Spec
    addresses: tuple[str, ...]  # the targets, names resolved, as networks
    generations: tuple[Generation, ...] = ()  # newest first
    next_generation: int = 1
    enabled: bool = True
    until_ns: int = 0  # then `enabled` turns into its opposite (--for)
    arm_until_ns: int = 0  # until then unknown UDP flows are the cloud's
    udp_epoch: int = 0
    running: bool = True  # False: stopped, the processes are not wanted
    removing: bool = False
    end_flows_at: float | None = None  # disable --drain: flows left then are reset
    tenant: str = ""  # whose it is; "": the operator's own
    retired: tuple[Retired, ...] = ()

    @property
    def unready(self) -> bool:
        """Whether it takes no new flows before `run.ready` says it may: its newest generation waits
        for that, and none is live meanwhile."""
        states = [g.state for g in self.generations]
        return bool(self.spec.run.ready) and states[:1] == ["starting"] and "live" not in states

    @property
    def sids(self) -> tuple[int, ...]:
        """Of everything a director knows of this service."""
        return (self.sid, *(r.sid for r in self.retired))


class HostRecord(msgspec.Struct, frozen=True):
    """What the services of one host share. `boot` tells records of an earlier boot apart.

    sids are never used twice: with the last service this is forgotten, and the next one begins
    anywhere, so that nobody takes a service for another one of the same name.
    """

    boot: str
    pool4: str
    pool6: str
    next_slot: int = 0
    next_sid: int = 1


class World(msgspec.Struct, frozen=True):
    """Everything asked for: the desired world that a plan is made for."""

    host: HostRecord
    services: dict[str, Record]

    def with_record(self, record: Record) -> World:
        return World(self.host, {**self.services, record.name: record})

    def without(self, name: str) -> World:
        return World(self.host, {k: v for k, v in self.services.items() if k != name})


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Store:
    """The state directory of one host."""

    def __init__(self, state_dir: str) -> None:
        self.dir = Path(state_dir)
        self._known: dict[Path, tuple[tuple[int, int], Record]] = {}  # for who loads often

    def load(self, pool4: str, pool6: str) -> World:
        """The desired world; records of an earlier boot count for nothing (their objects are gone).

        Raises ViscumError when a file can't be read as what it should be.
        """
        first = int.from_bytes(os.urandom(4)) % FIRST_SIDS + 1
        host = HostRecord(boot_id(), pool4, pool6, next_sid=first)
        found = self._host()
        if found is not None and found.boot != host.boot:
            return World(host, {})  # `save` forgets them: perhaps nobody holds the lock here
        services = {}
        for path in sorted((self.dir / "services").glob("*.json")):
            record = self._record_in(path)
            if record is not None:
                services[record.name] = record
        # It is written before the first record, perhaps just now, and removed after the last.
        found = found or (self._host() if services else None)
        if services and found is None and any(self._record_file(n).exists() for n in services):
            raise ViscumError(
                f"{self.dir / 'host.json'} is missing, which the services' records go with",
                state="nothing was changed; the data path goes on as it is",
                hint=f"move {self.dir / 'services'} away, then `viscum rm --all` clears what it"
                " described",
            )
        return World(found or host, services)

    def save(self, world: World) -> None:
        """Makes the files say `world`; writes only what differs from what they say now. For who
        holds the lock."""
        found = self._host()
        if found is not None and found.boot != world.host.boot:
            self._forget()
        if world.services:
            _write(self.dir / "host.json", msgspec.json.encode(world.host))
        wanted = {f"{name}.json" for name in world.services}
        for record in world.services.values():
            _write(self._record_file(record.name), _encode(record))
        directory = self.dir / "services"
        for path in directory.glob("*.json") if directory.is_dir() else ():
            if path.name not in wanted:
                path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Without services nothing is left of the state directory but a lock someone holds."""
        for name in ("services", "logs"):
            remove_left_overs(self.dir / name)
            remove_empty(self.dir / name)
        if not (self.dir / "services").exists():
            (self.dir / "host.json").unlink(missing_ok=True)

    @property
    def logs(self) -> Path:
        return self.dir / "logs"

    def log(self, service: str, generation: int, instance: int) -> Path:
        return self.logs / service / f"{generation}.{instance}.log"

    def version(self) -> int:
        """Differs, within this process, whenever a record was written or removed (by anybody):
        files are replaced, which changes their directory. 0: there are none.

        Before Linux 6.13 that directory's time is of the last tick (1 to 10 ms), in which two
        changes may lie; the files' numbers, which are read with their names, differ from those of
        the change before (from all earlier ones on a tmpfs, as /run is).
        """
        directory = self.dir / "services"
        try:
            changed = directory.stat().st_mtime_ns
            with os.scandir(directory) as entries:
                return hash((changed, frozenset((e.name, e.inode()) for e in entries)))
        except FileNotFoundError:
            return 0

    def touch(self) -> None:
        """Makes the version another one although no record differs."""
        moment = time.time_ns()  # finer than what the kernel would take
        os.utime(self.dir / "services", ns=(moment, moment))

    def _record_in(self, path: Path) -> Record | None:
        """Read once as long as the file is the same: it is never written to, only replaced."""
        try:
            there = path.stat()
        except FileNotFoundError:
            return None
        mark = (there.st_ino, there.st_mtime_ns)
        mark_known, record = self._known.get(path, (None, None))
        if record is None or mark_known != mark:
            record = _read(path, _record)
            if record is not None:
                self._known[path] = mark, record
        return record

    def _host(self) -> HostRecord | None:
        return _read(self.dir / "host.json", _host)

    def _record_file(self, service: str) -> Path:
        return self.dir / "services" / f"{service}.json"

    def _forget(self) -> None:
        for path in (self.dir / "services").glob("*.json"):
            path.unlink(missing_ok=True)


def _encode(record: Record) -> bytes:
    """Specs in their canonical form, everything else as it is."""
    plain = asdict(record)
    plain["spec"] = to_mapping(record.spec)
    for key in ("generations", "retired"):
        plain[key] = [
            {**asdict(entry), "spec": to_mapping(entry.spec)} for entry in getattr(record, key)
        ]
    return msgspec.json.encode(plain)


def _record(data: bytes) -> Record:
    plain = msgspec.json.decode(data, type=dict[str, Any])
    plain["generations"] = tuple(_struct(Generation, g) for g in plain["generations"])
    plain["retired"] = tuple(_struct(Retired, r) for r in plain["retired"])
    return _struct(Record, plain)


def _struct(kind: type[T], plain: dict[str, Any]) -> T:
    values = {**plain, "spec": from_mapping(plain["spec"])}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _host(data: bytes) -> HostRecord:
    return msgspec.json.decode(data, type=HostRecord)


def _read(path: Path, decode: Callable[[bytes], T]) -> T | None:
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, InputError, TypeError, KeyError) as error:
        raise ViscumError(
            f"{path} is not a record this version can read: {error}",
            state="nothing was changed; the data path goes on as it is",
            hint=f"move {path} away, then `viscum rm --all` clears what it described",
        ) from None


def _write(path: Path, data: bytes) -> None:
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        path.parent.mkdir(0o755, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # of a killed write
    # For root alone, as a spec's environment may hold secrets; and never through a link.
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    os.replace(new, path)


def remove_left_overs(path: Path) -> None:
    """What killed writes left, in a directory whose lock is held."""
    for left in path.glob(".*.new"):
        left.unlink(missing_ok=True)


def remove_empty(path: Path) -> None:
    """rmdir, if it is there and there is nothing in it."""
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ENOENT):
            raise


def refuse_of_others(directory: Path) -> None:
    """Whoever may write there could say what root does, or have it write somewhere else."""
    there = directory.stat()
    group = there.st_mode & stat.S_IWGRP and there.st_gid
    if there.st_uid not in (0, os.geteuid()) or group or there.st_mode & stat.S_IWOTH:
        raise InputError(
            Problem(
                "VISCUM_STATE_DIR",
                str(directory),
                "others than root may write there",
                f"chown root: {directory} && chmod go-w {directory}, or choose another directory",
            )
        )


def is_locked(state_dir: str) -> bool:
    """Whether a command holds the host's lock just now; asked without taking it (proc_locks(5))."""
    try:
        there = os.stat(Path(state_dir) / "lock")
    except FileNotFoundError:
        return False
    device = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
    return any(
        words[1] == "FLOCK" and device in words
        for words in map(str.split, Path("/proc/locks").read_text().splitlines())
    )


API_SOCKET = "api.sock"


def _forget_controller(directory: Path) -> None:
    """The socket of one that was killed; nothing if who made it is alive."""
    path = directory / API_SOCKET
    if not path.is_socket():
        return
    there = Path("/proc/net/unix").read_text(errors="surrogateescape")  # names are any bytes
    if str(path) not in {line.split(maxsplit=7)[-1] for line in there.split("\n") if line}:
        path.unlink(missing_ok=True)


@contextmanager
def lock(
    state_dir: str,
    what: str,
    timeout: float,
    waiting: Callable[[str], None],
    is_given_up: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """The one lock of a host: flock(2) on DIR/lock, which says who holds it and for what.

    `waiting` is told the holder once when the lock is taken; raises ViscumError after `timeout`
    seconds or once `is_given_up` says so, and if others than root may write to DIR. A dead holder's
    lock is free by itself.
    """
    path = Path(state_dir) / "lock"
    begun = time.monotonic()
    told = False
    while True:
        path.parent.mkdir(0o755, parents=True, exist_ok=True)
        try:
            refuse_of_others(path.parent)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # `rm` of the last service removed the directory just now
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 300, 0).decode(errors="replace").strip() or "another command"
            os.close(fd)
            if not told:
                waiting(holder)
                told = True
            waited = round(time.monotonic() - begun, 2)
            if waited >= timeout or is_given_up():
                raise Held(
                    f"{path} is held by {holder}",
                    state=f"nothing was changed (waited {min(waited, timeout):g} s)",
                    hint="wait for it, or give --lock-timeout a larger value",
                ) from None
            time.sleep(0.02)
            continue
        # `rm` of the last service removes the directory: is this still the file others open?
        try:
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(fd)
    try:
        # Programs that it starts hold it too: what a killed command had begun is finished first.
        os.set_inheritable(fd, True)
        os.truncate(fd, 0)
        os.pwrite(fd, f"`viscum {what}` (pid {os.getpid()})\n".encode(), 0)
        yield
    finally:
        try:
            if not (path.parent / "host.json").exists():  # no service is left, nor anything else
                remove_left_overs(path.parent)
                _forget_controller(path.parent)
                path.unlink(missing_ok=True)
                remove_empty(path.parent)  # unless the next command is there already
        finally:
            os.close(fd)
