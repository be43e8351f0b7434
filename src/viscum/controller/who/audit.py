"""Who changed what: JSON lines that are only ever appended, each with the hash of the one before.

An intention is written before anything is changed, and what became of it afterwards: where the log
can't be written, nothing is changed by the API.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from viscum.controller import settings
from viscum.controller.who.access import Principal
from viscum.errors import ViscumError
from viscum.kernel import files
from viscum.names import CONFIG_DIR
from viscum.spec import Spec, diff

DEFAULT = "/var/log/viscum/audit.log"
MAX_SIZE = 2**22  # bytes of one file
KEPT = 8  # older files
BEGUN = "begun"  # the outcome of an intention
CUT_OFF = "the controller was ended: finished, if it had begun"
TAIL = 2**18  # more than the longest line
# Bytes, as JSON, of what somebody else gave: nobody pushes others' entries out by long ones.
THING, OUTCOME, CHANGE, CHANGES = 200, 1000, 300, 2400
FIRST = "0" * 64  # before the first line


class Entry(Struct, frozen=True, kw_only=True):
    """One line. before: the hash of the previous line; hash: of this one without `hash`."""

    n: int
    at: str
    principal: str
    how: str
    action: str
    object: str
    tenant: str
    outcome: str
    changes: tuple[str, ...] = ()
    request: str = ""
    before: str = FIRST
    hash: str = ""


class Deed(Struct, frozen=True):
    """What somebody does, or tries. thing: to what; tenant: whose that is; request: the answer's
    `request-id`."""

    who: Principal
    action: str
    thing: str
    tenant: str = ""
    changes: tuple[str, ...] = ()
    request: str = ""


class Noting:
    """What a change becomes: set inside `Audit.change`. thing: if it has a name only now."""

    outcome = "done"
    changes: tuple[str, ...] = ()
    thing = ""


class Unwritable(ViscumError):
    """The audit log can't be written: what is not noted is not done."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"the audit log {path} can't be written: {error.strerror or error}",
            state="nothing was changed: what can't be noted is not done",
            hint="make room or mend it; `viscum …` as root on the box itself goes on working",
        )


class Audit:
    """Of one host."""

    def __init__(self, path: str = DEFAULT, *, max_size: int = MAX_SIZE, kept: int = KEPT) -> None:
        self.path = Path(path)
        self.max_size = max_size
        self.kept = kept
        self.noted: Callable[[Entry], None] = lambda entry: None  # told on the event loop
        self._open: Counter[str] = Counter()  # what is being changed by way of `change`
        self._left: dict[str, object] = {}  # how what was changed that way was left
        self.state: Callable[[str], object] = lambda thing: None

    async def note(self, deed: Deed, outcome: str) -> Entry:
        """Returns when it is on the disk. Raises Unwritable."""
        entry = await asyncio.to_thread(self.write, deed, outcome)
        if outcome != BEGUN:
            self.noted(entry)
        return entry

    @asynccontextmanager
    async def change(self, deed: Deed) -> AsyncIterator[Noting]:
        """Notes the intention, and what became of it. Raises Unwritable before anything is done."""
        noting = Noting()
        await self.note(deed, BEGUN)
        try:
            with self.known(deed.thing):
                yield noting
        except asyncio.CancelledError:
            noting.outcome = CUT_OFF
            raise
        except BaseException as error:
            noting.outcome = f"failed: {error}" if str(error) else f"failed: {error!r}"
            raise
        finally:
            done = replace(deed, thing=noting.thing or deed.thing, changes=noting.changes)
            try:
                await asyncio.shield(self.note(done, noting.outcome))
            except Unwritable as error:
                error.state = f"what was asked for was begun before: {noting.outcome}"
                raise

    @contextmanager
    def known(self, thing: str) -> Iterator[None]:
        """What happens to it meanwhile was asked for by way of `change`."""
        self._open[thing] += 1
        try:
            yield
        finally:
            self._open[thing] -= 1
            self._open += Counter()  # forgets those at zero
            self._left[thing] = self.state(thing)

    def knows(self, thing: str) -> bool:
        """Whether it is as `change` has left it, or is being changed that way. Asked once for each
        change of it: the next one is another."""
        if self._open[thing]:
            return True
        return thing in self._left and self._left.pop(thing) == self.state(thing)

    def write(self, deed: Deed, outcome: str) -> Entry:
        """The same, for who may wait. Raises Unwritable."""
        try:
            with files.exclusive(self.path):
                last = self._last()
                if last is not None and self.path.stat().st_size > self.max_size:
                    self._rotate()
                entry = Entry(
                    n=last.n + 1 if last else 1,
                    at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    principal=deed.who.name,
                    how=deed.who.how,
                    action=deed.action,
                    object=_cut(deed.thing, THING),
                    tenant=deed.tenant,
                    outcome=_cut(outcome, OUTCOME),
                    changes=_cut_all(deed.changes),
                    request=deed.request,
                    before=last.hash if last else FIRST,
                )
                entry = replace(entry, hash=hash_of(entry))
                files.append_private(self.path, msgspec.json.encode(entry))
                return entry
        except OSError as error:
            raise Unwritable(self.path, error) from None

    def _last(self) -> Entry | None:
        """The newest line that is one: a write that was cut short is left, and `verify` says so."""
        for path in (self.path, self._old(1)):
            try:
                lines = files.tail(path, TAIL).splitlines()
            except FileNotFoundError:
                continue
            found = next(filter(None, map(_entry, reversed(lines))), None)
            if found is not None:
                return found
        return None

    def _old(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _rotate(self) -> None:
        for number in range(self.kept, 0, -1):
            older = self._old(number)
            if number == self.kept:
                older.unlink(missing_ok=True)
            elif older.exists():
                older.rename(self._old(number + 1))
        self.path.rename(self._old(1))

    # ---- reading

    def files(self) -> list[Path]:
        """The oldest first; not all need be there."""
        return [*(self._old(n) for n in range(self.kept, 0, -1)), self.path]

    def newest(
        self, count: int, tenant: str | None = None, before: int | None = None
    ) -> list[Entry]:
        """The newest, of one tenant alone or older than an entry, if that is given; the oldest of
        them first."""
        found: list[Entry] = []
        mark = b"" if tenant is None else b'"tenant":' + msgspec.json.encode(tenant)
        for path in reversed(self.files()):
            if len(found) >= count:
                break
            if before is not None and self._begins(path) >= before:
                continue
            for line in files.lines_backwards(path):
                if len(found) >= count:
                    break
                entry = _entry(line) if mark in line else None
                if (
                    entry is not None
                    and tenant in (None, entry.tenant)
                    and (before is None or entry.n < before)
                ):
                    found.append(entry)
        return found[::-1]

    def _begins(self, path: Path) -> int:
        """The number of its first entry; 0: that is none."""
        entry = _entry(next(_lines(path), b""))
        return entry.n if entry else 0

    def verify(self) -> Verdict:
        """Whether every line is there and is what was written."""
        wrong: list[str] = []
        last: Entry | None = None
        count = begins = 0
        lines = (
            (path, number, line)
            for path in self.files()
            for number, line in enumerate(_lines(path), 1)
        )
        for path, number, line in lines:
            where = f"{path}:{number}"
            entry = _entry(line)
            if entry is None:
                wrong.append(f"{where} is no entry")
                continue
            count += 1
            begins = begins or entry.n
            if entry.n == 1 and entry.before != FIRST:
                wrong.append(f"{where} is not how a log begins")
            if hash_of(entry) != entry.hash or msgspec.json.encode(entry) != line.rstrip(b"\n"):
                wrong.append(f"{where} (entry {entry.n}) was changed")
            if last is not None and (entry.before != last.hash or entry.n != last.n + 1):
                wrong.append(f"{where}: entry {entry.n} does not follow entry {last.n}")
            last = entry
        return Verdict(count, begins, tuple(wrong), last)


class Verdict(NamedTuple):
    """entries read, from number `begins` on (older ones were rotated away); what is wrong; the
    newest one, to hold against what was noted elsewhere: lines cut off at the end leave no gap."""

    entries: int
    begins: int
    wrong: tuple[str, ...]
    last: Entry | None


def of_settings(given: settings.Audit, config_dir: str) -> Audit:
    """A host with settings of its own (the lab, a test) does not write into the machine's log."""
    default = DEFAULT if config_dir == CONFIG_DIR else str(Path(config_dir) / "audit.log")
    return Audit(given.file or default, max_size=int(given.max_size), kept=given.keep)


def differs(old: Spec | None, new: Spec | None) -> tuple[str, ...]:
    """What differs between two specs, without what an environment variable holds."""
    found = []
    for change in diff(old, new):
        hidden = change.path.startswith("run.environment.")
        found.append(f"{change.path}: changed" if hidden else str(change))
    return tuple(found)


def _cut(text: str, most: int) -> str:
    """What of it takes at most so many bytes as JSON; "…" says that there was more."""
    kept = text[:most]
    while len(msgspec.json.encode(kept)) > most + 2:
        kept = kept[: len(kept) * 3 // 4]
    return kept if kept == text else f"{kept}…"


def _cut_all(changes: tuple[str, ...]) -> tuple[str, ...]:
    kept: list[str] = []
    left = CHANGES
    for change in changes:
        text = _cut(change, CHANGE)
        left -= len(msgspec.json.encode(text))
        if left < 0:
            return (*kept, f"… and {len(changes) - len(kept)} more")
        kept.append(text)
    return tuple(kept)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except FileNotFoundError:
        pass


def _entry(line: bytes) -> Entry | None:
    try:
        return msgspec.json.decode(line, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def hash_of(entry: Entry) -> str:
    plain = asdict(entry)
    del plain["hash"]
    return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()
