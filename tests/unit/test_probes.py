"""What a row of answers makes of a server's state, and where and how a spec says to ask."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from viscum import evolve
from viscum.controller.health import asking, verdict
from viscum.controller.health.verdict import Tally
from viscum.errors import InputError
from viscum.kernel import prober
from viscum.model import Observed
from viscum.names import HostNames
from viscum.plan import instances, steering
from viscum.spec import Probe, from_mapping
from viscum.store import HostRecord, Record, World

THREE = Probe(failures=3, successes=2)


def tally(answers: str, probe: Probe = THREE, begin: Tally | None = None) -> Tally:
    """After those answers: + good, - bad."""
    return reduce(lambda t, a: verdict.after(t, a == "+", probe), answers, begin or Tally())


@pytest.mark.req("C3")
@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ("", "unknown"),
        ("+", "unknown"),
        ("++", "healthy"),
        ("+-+-+", "unknown"),
        ("++--", "healthy"),
        ("++---", "unhealthy"),
        ("++--+--", "healthy"),
        ("---", "unhealthy"),
        ("---+", "unhealthy"),
        ("---++", "healthy"),
        ("---+-+", "unhealthy"),
    ],
)
def test_a_row_of_answers(answers: str, state: str) -> None:
    assert tally(answers).state == state


@pytest.mark.req("C3")
def test_what_falls_ill_again_soon_is_believed_later() -> None:
    def needed(begin: Tally) -> int:
        """Good answers in a row until it is healthy."""
        count = 0
        while begin.state != "healthy":
            begin, count = verdict.after(begin, True, THREE), count + 1
        return count

    ill = tally("++---")
    assert needed(ill) == 2, "the first illness is no relapse"
    seen = []
    for _ in range(8):
        ill = tally("---", begin=tally("+" * needed(ill), begin=ill))
        seen.append(needed(ill))
    assert seen == [4, 8, 16, 32, 64, 64, 64, 64]
    well = tally("+" * (64 + verdict.CALM), begin=ill)
    assert needed(tally("---", begin=well)) == 2, "after a while it is forgotten"


@pytest.mark.req("C3")
def test_when_it_is_restarted() -> None:
    probe = Probe(failures=2, restart_after=4)
    counts = []
    at = Tally()
    for _ in range(4):
        count = 0
        while not verdict.is_to_restart(at, probe):
            at, count = verdict.after(at, False, probe), count + 1
        counts.append(count)
        at = verdict.restarted(at)
    assert counts == [4, 8, 16, 32], "less often, if it does not help"
    at = tally("+----", probe, at)
    assert verdict.is_to_restart(at, probe), "as at first, once it has helped"
    assert not verdict.is_to_restart(tally("-" * 1000), THREE)


@pytest.mark.req("C3")
@given(st.text("+-", max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_it_changes_only_by_enough_answers_in_a_row(text: str, failures: int, good: int) -> None:
    probe = Probe(failures=failures, successes=good)
    at = Tally()
    for n, answer in enumerate(text, 1):
        new = verdict.after(at, answer == "+", probe)
        if new.state == "healthy" != at.state:
            assert text[:n].endswith("+" * good)
        if new.state == "unhealthy" != at.state:
            assert text[:n].endswith("-" * failures)
        assert new.state != "unknown" or at.state == "unknown"
        at = new


@pytest.mark.req("C3")
def test_a_new_process_begins_anew_but_for_its_bad_name() -> None:
    assert verdict.anew(tally("++")) == Tally("unknown")
    assert verdict.anew(tally("---")).state == "unhealthy"
    assert tally("++", begin=verdict.anew(tally("---"))).state == "healthy"


@pytest.mark.req("C3")
@pytest.mark.parametrize(
    ("states", "of_all"),
    [
        ([], "unknown"),
        (["healthy"], "healthy"),
        (["healthy", "unknown"], "unknown"),
        (["healthy", "unhealthy", "unknown"], "unhealthy"),
    ],
)
def test_the_service_is_as_its_worst_instance(states: list[verdict.State], of_all: str) -> None:
    assert verdict.of_all(states) == of_all


# ---- the spec ------------------------------------------------------------------------------------


def record(addresses: tuple[str, ...] = ("203.0.113.7/32",), **tables: Any) -> Record:
    plain = {
        "name": "web",
        "command": ["server"],
        "steer": {"interfaces": ["wlan0"], "targets": ["203.0.113.7"]} | tables.pop("steer", {}),
        **tables,
    }
    world = World(HostRecord("b", "100.64.0.0/19", ""), {})
    return evolve.create(world, from_mapping(plain), addresses, ()).services["web"]


def world(of: Record) -> World:
    return World(HostRecord("b", "100.64.0.0/19", ""), {"web": of})


@pytest.mark.req("C3")
def test_where_it_is_asked() -> None:
    def at(*addresses: str, **tables: Any) -> tuple[list[str], int]:
        (i,) = instances(world(record(addresses, **tables)), HostNames("/run/viscum"))
        return prober.places(i.record.addresses), asking.port(i)

    inside = ["127.0.0.1", "::1"]
    ports = {"steer": {"ports": ["53/udp", "80-90/tcp"]}}
    assert at("203.0.113.7/32", probe={"type": "http"}, **ports) == (["203.0.113.7", *inside], 80)
    assert at("2001:db8::/64", "2001:db9::1/128", probe={"type": "tcp", "port": 9}, **ports) == (
        ["2001:db8::1", *inside],
        9,
    )
    udp = {"type": "udp", "send": "", "expect": ""}
    assert at("2001:db8::7/128", "10.0.0.0/31", probe=udp, **ports) == (
        ["2001:db8::7", "10.0.0.0", *inside],
        53,
    )


@pytest.mark.req("C3")
@pytest.mark.parametrize(
    ("probe", "field"),
    [
        ({"type": "http", "path": "healthz"}, "probe.path"),
        ({"type": "http", "path": "/a b"}, "probe.path"),
        ({"type": "http", "path": "/a\r\nX: y"}, "probe.path"),
        ({"type": "http", "host": "a\r\nX: y"}, "probe.host"),
        ({"type": "https", "host": ""}, "probe.host"),
        ({"type": "https", "host": "straße.example"}, "probe.host"),
        ({"type": "exec"}, "probe.command"),
        ({"type": "tcp", "command": ["true"]}, "probe.command"),
        ({"type": "udp", "expect": "x"}, "probe.send"),
        ({"type": "tcp", "timeout": "0s"}, "probe.timeout"),
    ],
)
def test_what_can_not_be_asked_is_refused(probe: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        record(probe=probe, steer={"ports": ["80/tcp", "80/udp"]})
    assert field in [p.field for p in caught.value.problems]


@pytest.mark.req("C3")
def test_what_is_not_ready_takes_no_flows() -> None:
    def accepting(of: Record) -> list[bool]:
        seen = Observed({}, {}, {}, {}, frozenset(), frozenset(), (), None)
        (service,) = steering(world(of), seen)
        return [g.accepting for g in service.generations]

    plain, ready = record(), record(run={"ready": ["true"]})
    assert accepting(plain) == [True], "it takes them as soon as it listens"
    assert accepting(ready) == [False]
    live = evolve.live(ready, None)
    assert accepting(live) == [True]
    assert accepting(evolve.anew(live)) == [False], "nor does one that is started again"
    assert evolve.anew(evolve.live(plain, None)) == evolve.live(plain, None)
    relaxed = replace(evolve.anew(live), spec=plain.spec)
    assert accepting(relaxed) == [True], "once nobody is to be asked any more"
    beside = evolve.add_generation(world(live), live, live.spec, ()).services["web"]
    assert accepting(beside) == [False, True], "the old one goes on"
