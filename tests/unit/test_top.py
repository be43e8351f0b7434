"""`viscum top`'s arithmetic and lines, without a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from viscum.cli import top_screen as screen
from viscum.cli.top_data import Detail, Look, Seen, rows
from viscum.cli.top_screen import Choice
from viscum.model import FREE, Histogram, Hold
from viscum.status import GenerationStatus, InstanceStatus, ServiceStatus

INSTANCE = InstanceStatus("1.0", "n", "vs0", 7, ("0.0.0.0:80/tcp",), 2, 1.0, 2**20, 1)
STATUS = ServiceStatus(
    name="web",
    state="running",
    steering="edge",
    share=50,
    held=FREE,
    turns_back_in=None,
    targets=("203.0.113.7/32",),
    ports=("80/tcp",),
    interfaces=("wlan0",),
    director="ebpf",
    flows=2,
    in_bytes=1000,
    out_bytes=5000,
    decisions={"edge-syn": 10},
    generations=(GenerationStatus(1, "live", None, (INSTANCE,)),),
    drift=(),
    rtt=Histogram(100, (0, 0, 0, 4)),
)


@pytest.mark.req("C9")
def test_rates_are_between_two_looks() -> None:
    later = replace(
        STATUS,
        in_bytes=2000,
        out_bytes=4000,  # counted anew
        held=Hold(load=20.0),
        decisions={"edge-syn": 30, "return": 4},
        generations=(GenerationStatus(1, "live", None, (replace(INSTANCE, cpu=1.5),)),),
        rtt=Histogram(100100, (0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100)),
    )
    looks = [Look(10.0, (Seen("web", STATUS),)), Look(12.0, (Seen("web", later, 3, "healthy"),))]
    (row,) = rows(looks)
    assert (row.in_rate, row.out_rate, row.cpu) == (4000.0, 0.0, 0.25)
    assert (row.share, row.restarts, row.memory) == (20.0, 3, 2**20)
    assert row.decision_rates == {"edge-syn": 10.0, "return": 2.0}
    assert row.rtt is not None
    assert row.rtt[0] > 0.06, "of what came meanwhile"
    (first,) = rows(looks[:1])
    assert (first.in_rate, first.cpu) == (0.0, None)
    assert first.rtt is not None, "for want of anything newer, of all there was"
    assert rows([]) == []
    assert rows([Look(1.0, (Seen("new", None),))])[0].state == "starting"


@pytest.mark.req("C9")
@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1.0k"), (12345, "12k"), (9.99e6, "10M"),
     (1.2e9, "1.2G"), (None, "-")],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert screen.number(value) == text


@pytest.mark.req("C9")
@given(st.floats(0, 1e13))
def test_numbers_fit_their_columns(value: float) -> None:
    assert len(screen.number(value)) <= 5
    assert len(screen.size(value)) <= 5
    assert len(screen.seconds(value / 1e10)) <= 5


@pytest.mark.req("C9")
@given(st.integers(1, 250), st.integers(1, 60), st.integers(0, 40), st.sampled_from(screen.KEYS))
def test_every_line_fits(width: int, height: int, count: int, key: str) -> None:
    (row,) = rows([Look(1.0, (Seen("web", STATUS),))])
    many = [replace(row, name=f"service-number-{n}") for n in range(count)]
    choice = Choice(sort=key, service="service-number-0")
    lines = screen.table(screen.ordered(many, choice), choice, width, height)
    lines += screen.head("here", many, ("cpu 10%",), "12:00:00", width)
    assert all(len(line.text) <= width for line in lines)
    assert not many or any(line.style == "chosen" for line in lines)


@pytest.mark.req("C9")
def test_at_eighty_columns_all_are_there() -> None:
    (row,) = rows([Look(1.0, (Seen("web", STATUS, 2, "unhealthy"),))])
    title, line = (x.text for x in screen.table([row], Choice(sort="flows"), 80, 5))
    assert title.split() == [
        "NAME", "STATE", "EDGE", "FLOW▼", "IN", "OUT", "SYN99", "RTT50", "RTT99", "CPU", "MEM",
        "RST",
    ]  # fmt: skip
    assert line.split() == [
        "web", "unhealthy", "50%", "2", "0", "0", "-", "6.0u", "8.0u", "-", "1.0M", "2",
    ]  # fmt: skip
    narrow = screen.table([row], Choice(), 40, 5)[0].text.split()
    assert narrow == ["NAME▼", "STATE", "EDGE", "FLOWS", "IN"]


@pytest.mark.req("C9")
def test_the_order() -> None:
    base = rows([Look(1.0, (Seen("web", STATUS),))])[0]
    many = [replace(base, name=n, flows=f) for n, f in (("b", 2), ("a", 1), ("c", 2))]

    def names(**choice: object) -> str:
        return "".join(r.name for r in screen.ordered(many, Choice(**choice)))  # type: ignore[arg-type]

    assert names() == "abc"
    assert names(reverse=True) == "cba"
    assert names(sort="flows") == "bca", "most first, and by name"
    assert names(sort="flows", reverse=True) == "abc"


@pytest.mark.req("C9")
@given(st.text(max_size=50))
def test_what_a_server_prints_moves_no_cursor(text: str) -> None:
    (row,) = rows([Look(1.0, (Seen("web", STATUS),))])
    lines = screen.detail(row, Detail((text,), (f"\x1b[2J\x1b]0;owned\x07{text}",)), 60)
    assert all(line.text.isprintable() and len(line.text) <= 60 for line in lines)
