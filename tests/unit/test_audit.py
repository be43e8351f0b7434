"""The audit log and the tokens: what is written, and that tampering shows."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from viscum.controller.who import refusals, turns
from viscum.controller.who.access import Access, Principal
from viscum.controller.who.audit import Audit, Deed, Unwritable, differs, hash_of
from viscum.controller.who.refusals import Refusals
from viscum.controller.who.tokens import Tokens
from viscum.errors import InputError, ViscumError
from viscum.kernel import files
from viscum.spec import from_mapping

pytestmark = pytest.mark.req("C6")

WHO = Principal("alice", "acme", "operator", "token", "1")
SPEC = from_mapping(
    {
        "name": "acme-web",
        "command": ["nginx"],
        "steer": {"interfaces": ["wlan0"], "targets": ["203.0.113.7"]},
        "run": {"environment": {"PASSWORD": "hunter2", "MODE": "a"}},
    }
)


def write(audit: Audit, count: int, first: int = 0) -> None:
    for n in range(first, first + count):
        audit.write(Deed(WHO, "service.put", f"acme-{n}", "acme"), "done")


def test_a_line_says_who_did_what(tmp_path: Path) -> None:
    audit = Audit(str(tmp_path / "log" / "audit.log"))
    changes = ("steer.share: 100 -> 10",)
    audit.write(Deed(WHO, "service.put", "acme-web", "acme", changes, "r1"), "done")
    (line,) = audit.path.read_text().splitlines()
    entry = json.loads(line)
    assert entry["hash"]
    assert entry | {"at": "", "hash": ""} == {
        "n": 1,
        "at": "",
        "principal": "alice",
        "how": "token",
        "action": "service.put",
        "object": "acme-web",
        "tenant": "acme",
        "outcome": "done",
        "changes": ["steer.share: 100 -> 10"],
        "request": "r1",
        "before": "0" * 64,
        "hash": "",
    }
    assert stat.S_IMODE(audit.path.stat().st_mode) == 0o600


def test_what_differs_is_noted_without_what_the_environment_holds() -> None:
    run = replace(SPEC.run, environment={"PASSWORD": "correct horse", "MODE": "a", "NEW": "s3cret"})
    changed = replace(SPEC, run=run, steer=replace(SPEC.steer, share=10))
    noted = differs(SPEC, changed)
    assert set(noted) == {
        "steer.share: 100 -> 10",
        "run.environment.NEW: changed",
        "run.environment.PASSWORD: changed",
    }
    for text in (str(noted), str(differs(None, SPEC)), str(differs(SPEC, None))):
        assert not any(secret in text for secret in ("hunter2", "correct horse", "s3cret"))


@settings(deadline=None)  # every line goes to the disk
@given(st.data())
def test_any_change_of_a_line_shows(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    audit = Audit(str(tmp_path_factory.mktemp("audit") / "audit.log"), max_size=4096)
    write(audit, 30)
    assert audit.verify()[:3] == (30, 1, ())
    files = sorted(audit.path.parent.glob("audit.log*"))
    assert len(files) > 2, "more than one file"
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 2))  # but not the last line's end
    new = data.draw(st.integers(0, 255).filter(lambda b: b != content[at]))
    path.write_bytes(content[:at] + bytes([new]) + content[at + 1 :])
    assert audit.verify().wrong


def test_a_line_forged_with_a_hash_of_its_own_shows(tmp_path: Path) -> None:
    audit = Audit(str(tmp_path / "audit.log"))
    write(audit, 3)
    lines = audit.path.read_bytes().splitlines(keepends=True)
    second = replace(audit.newest(2)[0], principal="nobody")
    forged = msgspec.json.encode(replace(second, hash=hash_of(second))) + b"\n"
    audit.path.write_bytes(lines[0] + forged + lines[2])
    (wrong,) = audit.verify().wrong
    assert "entry 3 does not follow entry 2" in wrong


@pytest.mark.parametrize("victim", ["audit.log", "audit.log.1", "audit.log.2"])
def test_a_line_that_is_missing_or_moved_shows(tmp_path: Path, victim: str) -> None:
    audit = Audit(str(tmp_path / "audit.log"), max_size=4096)
    write(audit, 35)
    path = tmp_path / victim
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) > 3
    for changed in ([*lines[:1], *lines[2:]], [*lines[:1], lines[2], lines[1], *lines[3:]],
                    [*lines[:2], lines[1], *lines[2:]]):  # fmt: skip
        path.write_bytes(b"".join(changed))
        assert audit.verify().wrong
    path.write_bytes(b"".join(lines))
    assert not audit.verify().wrong
    path.unlink()
    gone = audit.verify()
    assert gone.wrong or gone.begins != 1 or (gone.last is not None and gone.last.n < 35)


def test_the_end_cut_off_shows_against_the_number_noted_elsewhere(tmp_path: Path) -> None:
    """By itself a shorter chain is a chain: docs/security.md says so."""
    audit = Audit(str(tmp_path / "audit.log"))
    write(audit, 5)
    noted = audit.verify().last
    lines = audit.path.read_bytes().splitlines(keepends=True)
    audit.path.write_bytes(b"".join(lines[:3]))
    after = audit.verify()
    assert not after.wrong
    assert noted is not None
    assert after.last is not None
    assert (noted.n, after.last.n) == (5, 3)


def test_the_oldest_files_go(tmp_path: Path) -> None:
    audit = Audit(str(tmp_path / "audit.log"), max_size=4096, kept=2)
    write(audit, 100)
    assert {p.name for p in tmp_path.glob("audit.log*")} == {
        "audit.log", "audit.log.1", "audit.log.2"
    }  # fmt: skip
    verdict = audit.verify()
    assert verdict.wrong == ()
    assert verdict.begins > 1
    assert verdict.last is not None
    assert verdict.begins + verdict.entries - 1 == verdict.last.n == 100
    assert [e.n for e in audit.newest(3)] == [98, 99, 100]
    assert audit.newest(3, "beta") == []


def test_a_write_that_was_cut_short_breaks_nothing_and_shows(tmp_path: Path) -> None:
    audit = Audit(str(tmp_path / "audit.log"))
    write(audit, 2)
    with audit.path.open("ab") as file:
        file.write(b'{"n":3,"at":"2026')
    write(audit, 1)
    verdict = audit.verify()
    assert verdict.last is not None
    assert verdict.last.n == 3
    assert len(verdict.wrong) == 1, verdict.wrong


def test_many_writers_make_one_chain(tmp_path: Path) -> None:
    audits = [Audit(str(tmp_path / "audit.log"), max_size=8192, kept=100) for _ in range(4)]
    threads = [threading.Thread(target=write, args=(audit, 25)) for audit in audits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert audits[0].verify()[:3] == (100, 1, ())


def test_what_can_not_be_noted_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    audit = Audit(str(tmp_path / "file" / "audit.log"))
    done = False

    async def change() -> None:
        nonlocal done
        async with audit.change(Deed(WHO, "service.put", "acme-web")):
            done = True

    with pytest.raises(Unwritable, match="can't be written"):
        asyncio.run(change())
    assert not done


def test_what_was_done_and_can_not_be_noted_any_more_is_told(tmp_path: Path) -> None:
    """As when the disk is full only then: nobody is to believe that nothing was changed."""
    audit = Audit(str(tmp_path / "audit.log"))

    async def change(error: Exception | None) -> None:
        async with audit.change(Deed(WHO, "service.put", "acme-web", "acme")):
            audit.path.unlink()
            audit.path.mkdir()
            if error:
                raise error

    for error, became in ((None, "done"), (ViscumError("no room"), "failed: no room")):
        with pytest.raises(Unwritable) as caught:
            asyncio.run(change(error))
        assert caught.value.state == f"what was asked for was begun before: {became}"
        audit.path.rmdir()


def test_never_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("")
    (tmp_path / "audit.log").symlink_to(tmp_path / "victim")
    with pytest.raises(Unwritable):
        write(Audit(str(tmp_path / "audit.log")), 1)
    assert (tmp_path / "victim").read_text() == ""


def test_an_intention_and_what_became_of_it(tmp_path: Path) -> None:
    audit = Audit(str(tmp_path / "audit.log"))

    async def changes() -> None:
        async with audit.change(Deed(WHO, "service.put", "acme-web", "acme", request="r1")):
            assert audit.knows("acme-web")
            assert [e.outcome for e in audit.newest(9)] == ["begun"]
        with pytest.raises(ViscumError):
            async with audit.change(Deed(WHO, "service.stop", "acme-web", "acme")):
                raise ViscumError("it did not stop")

    asyncio.run(changes())
    assert [(e.action, e.outcome) for e in audit.newest(9, "acme")] == [
        ("service.put", "begun"),
        ("service.put", "done"),
        ("service.stop", "begun"),
        ("service.stop", "failed: it did not stop"),
    ]
    assert not audit.knows("acme-other")


@pytest.mark.parametrize("letter", ["x", "\x01", "ü", "𝄞", '"'])
def test_an_entry_has_a_size_at_most(tmp_path: Path, letter: str) -> None:
    audit = Audit(str(tmp_path / "audit.log"))
    most = letter * 2**20
    deed = Deed(WHO, "service.put", most, "acme", (most,) * 40 + ("short",) * 40, "r1")
    entry = audit.write(deed, most)
    assert audit.path.stat().st_size < 5000
    assert entry.object.startswith(letter)
    assert entry.object.endswith("…")
    assert entry.changes[0].startswith(letter)
    assert entry.changes[-1] == f"… and {80 - len(entry.changes) + 1} more"
    assert audit.verify().wrong == ()


def test_the_newest_are_read_from_the_end(tmp_path: Path) -> None:
    audit = Audit(str(tmp_path / "audit.log"), max_size=4096, kept=9)
    write(audit, 60)
    audit.write(replace(Deed(WHO, "service.put", "beta-web", "beta")), "done")
    write(audit, 2)
    assert [e.n for e in audit.newest(4)] == [60, 61, 62, 63]
    assert [e.object for e in audit.newest(9, "beta")] == ["beta-web"]
    assert [e.n for e in audit.newest(3, "acme", before=62)] == [58, 59, 60]
    assert [e.n for e in audit.newest(1000)] == list(range(1, 64))
    assert [e.n for e in audit.newest(3, before=3)] == [1, 2]
    for path in audit.files()[:-1]:  # who reads these is told so
        path.unlink(missing_ok=True)
        path.mkdir()
    count = len(audit.path.read_text().splitlines())
    assert len(audit.newest(count)) == count


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(1, 9))
def test_lines_backwards_are_the_lines(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, block: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines"
    path.write_bytes(data)
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "BLOCK", block)
        assert [*files.lines_backwards(path)] == lines[::-1]


# ---- refusals ----------------------------------------------------------------------------------


def refused(audit: Audit) -> list[tuple[str, str, str, str]]:
    return [
        (e.principal, e.object, e.tenant, e.outcome.partition(" within")[0])
        for e in audit.newest(1000)
    ]


def test_refusals_are_counted_and_then_noted(tmp_path: Path) -> None:
    audit = Audit(str(tmp_path / "audit.log"))
    of = Refusals(audit)
    for _ in range(1000):
        of.count(WHO, "", 403, "PUT /v1/tenants/{tenant}")
        of.count(None, "192.0.2.7", 401, "GET /v1/host")
    of.count(WHO, "", 429, "GET /v1/live")
    of.count(replace(WHO, tenant=None), "", 403, "GET /v1/audit")
    of.count(WHO, "", 404, "GET /v1/host")
    assert not audit.path.exists(), "nothing is written for a request"
    asyncio.run(of.tell())
    assert sorted(refused(audit)) == [
        ("192.0.2.7", "401", "", "1000 times"),
        ("alice", "403", "", "once"),
        ("alice", "403", "acme", "1000 times"),
        ("alice", "429", "acme", "once"),
    ]
    asyncio.run(of.tell())
    assert len(refused(audit)) == 4, "told once"


def test_a_flood_of_refusals_fills_no_log_and_hides_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = 1000.0
    monkeypatch.setattr(turns, "now", lambda: moment)
    audit = Audit(str(tmp_path / "audit.log"))
    of = Refusals(audit)
    minutes = 120
    for minute in range(minutes):
        for n in range(100):
            of.count(None, f"192.0.2.{n}", 401, "GET /v1/host")
        if minute == minutes - 1:
            of.count(WHO, "", 403, "GET /v1/audit")
        asyncio.run(of.tell())
        moment += refusals.EVERY
    found = refused(audit)
    strangers = [f for f in found if f[0] != "alice"]
    later = minutes * refusals.EVERY / refusals.LATER
    assert len(strangers) <= refusals.BURST + later
    assert ("others", "401", "", "84 times") in strangers
    assert ("alice", "403", "acme", "once") in found, "a tenant has entries of its own"
    asyncio.run(of.tell(all_of_it=True))
    counted = [1 if n == "once" else int(n.split()[0]) for who, _, _, n in refused(audit)]
    assert sum(counted) == 100 * minutes + 1, "what is told later is not lost"


def test_what_can_not_be_noted_goes_on_being_counted(tmp_path: Path) -> None:
    audit = Audit(str(tmp_path / "audit.log"))
    audit.path.mkdir()
    of = Refusals(audit)
    for _ in range(3):
        of.count(WHO, "", 403, "GET /v1/audit")
        asyncio.run(of.tell())
    audit.path.rmdir()
    asyncio.run(of.tell())
    assert refused(audit) == [("alice", "403", "acme", "3 times")]


# ---- turns ---


def test_a_tenant_has_its_turns_and_the_operator_is_not_held_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = 1000.0
    monkeypatch.setattr(turns, "now", lambda: moment)
    of = turns.Turns()
    root, other = replace(WHO, tenant=None), replace(WHO, tenant="beta")
    with ExitStack() as under_way:
        for _ in range(turns.AT_ONCE):
            under_way.enter_context(of.turn(WHO))
        with pytest.raises(turns.Hurried, match="under way"), of.turn(WHO):
            pass
        with of.turn(other), of.turn(root):
            pass
    for _ in range(turns.BURST - turns.AT_ONCE):
        with of.turn(WHO):
            pass
    with pytest.raises(turns.Hurried) as raised, of.turn(WHO):
        pass
    assert raised.value.after == 1
    with of.turn(other), of.turn(root):
        pass
    moment += 1.0
    with of.turn(WHO):
        pass
    with pytest.raises(turns.Hurried), of.turn(WHO):
        pass


def test_in_the_long_run_a_tenant_leaves_the_log_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 1000.0
    monkeypatch.setattr(turns, "now", lambda: moment)
    of = turns.Turns()
    noted = 0
    for _ in range(86400):
        moment += 1.0
        try:
            with of.turn(WHO):
                noted += 1
        except turns.Hurried:
            pass
    assert noted == pytest.approx(turns.NOTED_BURST + 86400 / turns.NOTED_EVERY, abs=1)
    with pytest.raises(turns.Hurried), of.turn(WHO):
        pass
    with of.turn(WHO, noted=False):  # what is not noted fills nothing
        pass


# ---- tokens ------------------------------------------------------------------------------------


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(str(tmp_path))


def test_a_token_is_told_once_and_kept_as_its_digest(tokens: Tokens) -> None:
    made, secret = tokens.add("alice", "operator", "acme", None)
    kept = tokens.path.read_text()
    assert secret.rpartition("_")[2] not in kept
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    assert len(secret.split("_", 2)[2]) == 43, "32 random bytes"
    assert tokens.by_token(secret) == made
    assert repr(made).find(secret) == -1


@given(at=st.integers(0, 58), new=st.characters(min_codepoint=33, max_codepoint=126))
def test_a_wrong_character_is_a_wrong_token(
    tmp_path_factory: pytest.TempPathFactory, at: int, new: str
) -> None:
    tokens = Tokens(str(tmp_path_factory.getbasetemp() / "one"))
    known = tokens.path.with_name("secret")
    if not known.exists():
        known.parent.mkdir(exist_ok=True)
        known.write_text(tokens.add("alice", "viewer", None, None)[1])
    secret = known.read_text()
    wrong = secret[:at] + new + secret[at + 1 :]
    assert (tokens.by_token(wrong) is not None) == (wrong == secret)


@pytest.mark.parametrize(
    "given", ["", "_", "__", "viscum_", "viscum__", "x" * 10000, "ü", "\udc80"]
)
def test_nonsense_is_no_token(tokens: Tokens, given: str) -> None:
    tokens.add("alice", "viewer", None, None)
    tokens.add("cn", "viewer", None, None, "certificate")
    assert tokens.by_token(given) is None


def test_a_certificate_is_no_token(tokens: Tokens) -> None:
    """Its digest is empty: nothing hashes to that."""
    made, secret = tokens.add("box-7", "operator", None, None, "certificate")
    assert secret == ""
    assert tokens.by_token(f"viscum_{made.id}_") is None
    assert tokens.by_certificate("box-7") == made
    assert tokens.by_certificate("box-8") is None
    with pytest.raises(InputError):
        tokens.add("box-7", "admin", None, None, "certificate")


def test_a_token_that_would_count_for_no_time_is_none(tokens: Tokens) -> None:
    with pytest.raises(InputError, match="ends it before it begins"):
        tokens.add("alice", "viewer", None, 0.0)
    assert tokens.all() == {}


def test_expiry_and_removal_count_at_once(tokens: Tokens, tmp_path: Path) -> None:
    access = Access(str(tmp_path))
    _, short = tokens.add("alice", "viewer", None, 0.2)
    made, long = tokens.add("bob", "viewer", None, 3600.0)
    who, other = access.by_token(short), access.by_token(long)
    assert who is not None
    assert other is not None
    assert access.valid(who)
    time.sleep(0.25)  # it is time that is tested
    assert access.by_token(short) is None
    assert not access.valid(who)
    assert access.valid(other)
    assert [c.name for c in tokens.remove({made.id, "nothing"})] == ["bob"]
    assert access.by_token(long) is None
    assert not access.valid(other)


def test_a_tenant_that_is_no_more_has_no_tokens(tokens: Tokens, tmp_path: Path) -> None:
    directory = tmp_path / "tenants"
    directory.mkdir()
    (directory / "acme.toml").write_text("")
    access = Access(str(tmp_path))
    _, secret = tokens.add("alice", "admin", "acme", None)
    who = access.by_token(secret)
    assert who is not None
    (directory / "acme.toml").unlink()
    assert access.by_token(secret) is None
    assert not access.valid(who)


def test_who_could_not_be_looked_up_is_nobody(tokens: Tokens) -> None:
    """A file that somebody has spoilt opens no door."""
    _, secret = tokens.add("alice", "admin", None, None)
    tokens.path.write_text("[{}]")
    with pytest.raises(ViscumError, match="can't be read"):
        tokens.by_token(secret)


def test_two_who_add_at_the_same_time_both_do(tmp_path: Path) -> None:
    def add(name: str) -> None:
        for n in range(10):
            Tokens(str(tmp_path)).add(f"{name}{n}", "viewer", None, None)

    threads = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Tokens(str(tmp_path)).all()) == 40
    assert not [p for p in os.listdir(tmp_path) if p.endswith(".new")]
