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

from viscum.controller.who import turns
from viscum.controller.who.access import Access, Principal
from viscum.controller.who.audit import Audit, Unwritable, differs, hash_of
from viscum.controller.who.tokens import Tokens
from viscum.errors import InputError, ViscumError
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
        audit.write(WHO, "service.put", f"acme-{n}", "done", "acme")


def test_a_line_says_who_did_what(tmp_path: Path) -> None:
    audit = Audit(str(tmp_path / "log" / "audit.log"))
    audit.write(WHO, "service.put", "acme-web", "done", "acme", ("steer.share: 100 -> 10",), "r1")
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
        async with audit.change(WHO, "service.put", "acme-web"):
            done = True

    with pytest.raises(Unwritable, match="can't be written"):
        asyncio.run(change())
    assert not done


def test_never_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("")
    (tmp_path / "audit.log").symlink_to(tmp_path / "victim")
    with pytest.raises(Unwritable):
        write(Audit(str(tmp_path / "audit.log")), 1)
    assert (tmp_path / "victim").read_text() == ""


def test_an_intention_and_what_became_of_it(tmp_path: Path) -> None:
    audit = Audit(str(tmp_path / "audit.log"))

    async def changes() -> None:
        async with audit.change(WHO, "service.put", "acme-web", tenant="acme", request="r1"):
            assert audit.knows("acme-web")
            assert [e.outcome for e in audit.newest(9)] == ["begun"]
        with pytest.raises(ViscumError):
            async with audit.change(WHO, "service.stop", "acme-web", tenant="acme"):
                raise ViscumError("it did not stop")

    asyncio.run(changes())
    assert [(e.action, e.outcome) for e in audit.newest(9, "acme")] == [
        ("service.put", "begun"),
        ("service.put", "done"),
        ("service.stop", "begun"),
        ("service.stop", "failed: it did not stop"),
    ]
    assert not audit.knows("acme-other")


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
