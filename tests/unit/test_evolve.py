"""How what is asked for changes: pure functions from record to record."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from viscum import evolve, names
from viscum.errors import InputError, ViscumError
from viscum.spec import Port, Spec, Steer
from viscum.store import HostRecord, World

EMPTY = World(HostRecord("boot", "100.127.192.0/19", ""), {})
STEER = Steer(interfaces=("wlan0",), targets=("198.18.0.10",), ports=(Port("tcp", 80, 80),))
SPEC = Spec(name="web", command=("httpd",), steer=STEER)
ADDRESSES = ("198.18.0.10/32",)
MADE = evolve.create(EMPTY, SPEC, ADDRESSES, ())


@pytest.mark.req("N9")
def test_a_drain_limit_of_nothing_never_ends_flows() -> None:
    assert evolve.deadline(100.0, 30.0) == 130.0
    assert evolve.deadline(100.0, 0) is None


@pytest.mark.req("N8")
def test_a_new_service_starts_with_one_generation() -> None:
    (generation,) = MADE.services["web"].generations
    assert (generation.number, generation.state, generation.slots) == (1, "starting", (0,))
    assert (MADE.host.next_sid, MADE.host.next_slot) == (2, 1)


@pytest.mark.req("N8")
def test_an_upgrade_puts_a_generation_in_front_and_drains_the_others() -> None:
    made = evolve.add_generation(MADE, MADE.services["web"], replace(SPEC, instances=2), ())
    newest, oldest = made.services["web"].generations
    assert (newest.number, newest.slots, oldest.number) == (2, (1, 2), 1)
    live = evolve.live(made.services["web"], 50.0)
    assert [(g.state, g.drain_until) for g in live.generations] == [
        ("live", None),
        ("draining", 50.0),
    ]


@pytest.mark.req("N9")
@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [(50.0, 70.0, 50.0), (70.0, 50.0, 50.0), (None, 50.0, 50.0), (50.0, None, 50.0)],
)
def test_of_two_limits_the_earlier_holds(
    first: float | None, second: float | None, kept: float
) -> None:
    generation = MADE.services["web"].generations[0]
    twice = evolve.drained(evolve.drained(generation, first), second)
    assert (twice.state, twice.drain_until) == ("draining", kept)


@pytest.mark.req("N8", "N15")
def test_generations_that_still_serve_have_a_maximum() -> None:
    made = MADE
    for _ in range(names.MAX_GENERATIONS - 1):
        made = evolve.add_generation(made, made.services["web"], SPEC, ())
    with pytest.raises(InputError, match="still serve flows") as raised:
        evolve.add_generation(made, made.services["web"], SPEC, ())
    fix = raised.value.problems[0].fix
    assert "`viscum status web`" in fix
    assert "also the newest generation's, with `viscum disable --now web`" in fix


@pytest.mark.req("N16")
def test_slots_go_round_and_leave_out_those_in_use() -> None:
    last = World(replace(EMPTY.host, next_slot=names.MAX_SLOTS - 2), {})
    made = evolve.create(last, replace(SPEC, instances=4), ADDRESSES, (0, 1))
    assert made.services["web"].generations[0].slots == (4094, 4095, 2, 3)
    assert made.host.next_slot == 4
    other = evolve.create(made, replace(SPEC, name="two", instances=2), ADDRESSES, (5,))
    assert other.services["two"].generations[0].slots == (4, 6)


@pytest.mark.req("N13")
def test_slots_can_be_used_up() -> None:
    with pytest.raises(ViscumError, match="slots of this host are in use") as raised:
        evolve.create(EMPTY, SPEC, ADDRESSES, range(names.MAX_SLOTS))
    assert raised.value.state == "nothing was changed"


@pytest.mark.req("N9")
@pytest.mark.parametrize(
    ("steer", "addresses", "narrowed"),
    [
        (STEER, ADDRESSES, False),
        (STEER, (*ADDRESSES, "198.18.0.11/32"), False),
        (STEER, ("198.18.0.11/32",), True),
        (replace(STEER, ports=()), ADDRESSES, False),
        (replace(STEER, ports=(Port("tcp", 443, 443),)), ADDRESSES, True),
        (replace(STEER, ports=(*STEER.ports, Port("udp", 443, 443))), ADDRESSES, False),
        (replace(STEER, interfaces=("br-lan",)), ADDRESSES, True),
        (replace(STEER, interfaces=("wlan0", "br-lan")), ADDRESSES, False),
    ],
)
def test_steering_that_becomes_narrower_keeps_the_flows_it_has(
    steer: Steer, addresses: tuple[str, ...], narrowed: bool
) -> None:
    old = MADE.services["web"]
    new = replace(SPEC, steer=steer)
    record = evolve.change_spec(MADE, old, new, addresses, 9.0).services["web"]
    assert (record.spec, record.addresses) == (new, addresses)
    assert record.generations == old.generations
    assert [(r.sid, r.spec, r.addresses, r.until) for r in record.retired] == (
        [(2, SPEC, ADDRESSES, 9.0)] if narrowed else []
    )


@pytest.mark.req("N9")
def test_nothing_is_kept_of_narrowed_steering_where_no_flow_can_be_left() -> None:
    stopped = evolve.without_generation(MADE.services["web"], 1)
    narrow = replace(SPEC, steer=replace(STEER, ports=(Port("tcp", 443, 443),)))
    changed = evolve.change_spec(MADE, stopped, narrow, ADDRESSES, None)
    assert changed.services["web"].retired == ()
    assert changed.host == MADE.host


@pytest.mark.req("N9")
def test_stopping_drains_everything_and_keeps_the_spec() -> None:
    record = evolve.stopping(evolve.live(MADE.services["web"], None), 5.0)
    assert not record.running
    assert not record.removing
    assert record.spec == SPEC
    assert [(g.state, g.drain_until) for g in record.generations] == [("draining", 5.0)]
    assert evolve.removing(record, 4.0).removing
    assert evolve.without_generation(record, 1).generations == ()
