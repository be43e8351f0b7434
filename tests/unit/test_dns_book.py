"""What names stand for and until when; what may be believed; what is no DNS message at all."""

from __future__ import annotations

import time
from ipaddress import ip_address, ip_network
from pathlib import Path

import dns.flags
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from conftest import Figure
from viscum import evolve
from viscum.controller import settings
from viscum.controller.dns import judge
from viscum.controller.dns.book import NEW_PER_MINUTE, Book
from viscum.controller.dns.ears import Ears
from viscum.controller.dns.learn import (
    PATIENCE,
    PENDING,
    READ_PER_SECOND,
    SPOILED,
    Bucket,
    Listener,
)
from viscum.controller.dns.message import MAX_RECORDS, asked, question, read, wire_name
from viscum.errors import InputError
from viscum.kernel.dnswatch import Datagram, datagram
from viscum.model import Address
from viscum.spec import Port, Seconds, Spec, Steer, TargetNames
from viscum.store import HostRecord, Record, World

NAME = "cloud.example"
RULES = TargetNames(hold=Seconds(600), min_ttl=Seconds(30), max_ttl=Seconds(3600), max_addresses=4)
A, B, C, D, E, V6 = map(
    ip_address, ("198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.5",
                 "2001:db8:5::1")
)  # fmt: skip
pytestmark = pytest.mark.req("C4")


def book(rules: TargetNames = RULES, *more: str) -> Book:
    return Book((NAME, *more), rules)


def round_of(
    b: Book, *addresses: Address, now: float, ttl: float = 60, versions: tuple[int, ...] = (4, 6)
) -> list[str]:
    """One that is asked and answered."""
    b.asking(NAME)
    return b.found(NAME, addresses, ttl, now, versions)


# ---- the book ----------------------------------------------------------------------------------


def test_an_address_stays_for_a_while_after_it_was_last_seen() -> None:
    b = book()
    round_of(b, A, V6, now=0)
    round_of(b, B, now=60)
    b.expire(599)
    assert b.addresses() == {A, B, V6}
    b.expire(600)
    assert b.addresses() == {B}
    round_of(b, B, now=1000, ttl=3000)
    b.expire(6999)
    assert b.addresses() == {B}, "twice its time to live"
    b.expire(7000)
    assert b.addresses() == set()


def test_of_fifty_that_rotate_all_stay() -> None:
    b = book(replace(RULES, max_addresses=64))
    every = [ip_address(f"198.51.100.{n}") for n in range(50)]
    changes = set()
    for number in range(100):
        round_of(b, *(every[(4 * number + i) % 50] for i in range(4)), now=30.0 * number, ttl=20)
        b.expire(30.0 * number)
        if number > 15:
            changes.add(b.wanted())
    assert len(changes) == 1


def test_the_time_to_live_is_bounded() -> None:
    assert [book().clamp(ttl) for ttl in (0, 29, 31, 10**9)] == [30, 30, 31, 3600]
    b = book()
    round_of(b, A, now=0, ttl=2**31)
    assert b.next_expiry() == 7200


def test_nothing_goes_while_it_cannot_be_asked_for() -> None:
    b = book()
    round_of(b, A, V6, now=0)
    b.asking(NAME)
    assert b.next_expiry() is None, "there is nothing to wake up for"
    b.failed(NAME)
    b.expire(10**6)
    assert b.addresses() == {A, V6}
    round_of(b, B, now=10**6)
    b.expire(10**6)
    assert b.addresses() == {A, B, V6}, "having had no answer was no absence"
    b.expire(10**6 + 600)
    assert b.addresses() == set()


def test_of_a_family_that_cannot_be_asked_for_nothing_goes() -> None:
    b = book()
    round_of(b, A, V6, now=0)
    round_of(b, B, now=700, versions=(4,))
    b.expire(700)
    assert b.addresses() == {B, V6}
    round_of(b, B, now=1000)
    b.expire(1599)
    assert V6 in b.addresses()
    b.expire(1600)
    assert V6 not in b.addresses(), "that there is none any more is an answer"


def test_an_address_that_clients_are_told_is_no_better_than_one_that_is_asked_for() -> None:
    b = book()
    round_of(b, A, B, now=0)
    assert b.seen(NAME, C, 60, 1) is None
    assert b.seen(NAME, D, 60, 2) is None
    assert "there are 4 already" in (b.seen(NAME, E, 60, 3) or "")
    assert b.seen(NAME, E, 60, 70) is None, "in the place of what no client is told any more"
    assert b.addresses() == {A, B, D, E}
    assert b.seen(NAME, D, 60, 71) is None
    assert "there are 4 already" in (b.seen(NAME, C, 60, 120) or "")
    assert round_of(b, A, B, C, now=140) == []
    assert b.addresses() == {A, B, C, D}, "what is asked for takes the place of what was seen"
    assert b.seen(NAME, A, 60, 150) is None
    assert {e.source for e in b.entries.values() if e.address == A} == {"resolver"}


def test_new_addresses_seen_are_limited_in_time() -> None:
    b = book(replace(RULES, max_addresses=100))
    every = [ip_address(f"198.51.100.{n}") for n in range(NEW_PER_MINUTE + 1)]
    assert {b.seen(NAME, a, 60, 0) for a in every[:-1]} == {None}
    assert "new addresses within a minute" in (b.seen(NAME, every[-1], 60, 59) or "")
    assert b.seen(NAME, every[0], 60, 59) is None, "it is not new"
    assert b.seen(NAME, every[-1], 60, 60) is None


def test_more_addresses_than_may_be_are_told() -> None:
    assert round_of(book(), A, B, C, D, E, now=0) == [
        f"{E}: there are 4 already (steer.names.max-addresses)"
    ]


def test_what_a_record_has_is_adopted() -> None:
    b = book(RULES, "203.0.113.0/24")
    record = ("203.0.113.0/24", f"{A}/32", f"{V6}/128")
    b.adopt(record, 0)
    assert b.addresses() == {A, V6}
    assert not b.differs(record)
    round_of(b, A, now=10)
    assert {(e.address, e.source, e.first) for e in b.entries.values()} == {
        (A, "resolver", 0), (V6, "adopted", 0)
    }  # fmt: skip
    assert b.differs(("203.0.113.0/24", f"{V6}/128")), "it is to be put back"
    b.adopt((f"{A}/32",), 20)
    assert b.addresses() == {A}, "what somebody took away is forgotten"


def test_without_asking_nothing_goes_but_what_was_seen() -> None:
    b = book(replace(RULES, refresh="off"))
    b.adopt((f"{A}/32",), 0)
    b.seen(NAME, B, 60, 0)
    b.expire(10**6)
    assert b.addresses() == {A}


def test_a_name_that_is_dropped_takes_its_addresses_along() -> None:
    b = book(RULES, "www.example")
    b.asking("www.example")
    b.found("www.example", [A, B], 60, 0)
    round_of(b, A, now=0)
    b.change((NAME,), RULES)
    assert b.addresses() == {A}
    b.expire(600)
    assert b.addresses() == set()


# ---- addresses that go, as a record has them ---------------------------------------------------


STEER = Steer(interfaces=("wlan0",), targets=(NAME,), ports=(Port("tcp", 80, 80),))
SPEC = Spec(name="web", command=("httpd",), steer=STEER)
EMPTY = World(HostRecord("boot", "100.127.192.0/19", "fd76:6973:6375:6d::/112"), {})


def record(*addresses: Address, name: str = "web", spec: Spec = SPEC) -> tuple[World, Record]:
    networks = tuple(str(ip_network(a)) for a in addresses)
    world = evolve.create(EMPTY, replace(spec, name=name), networks, ())
    return world, world.services[name]


def test_flows_of_addresses_that_went_need_one_entry_however_often_that_happens() -> None:
    world, first = record(A)
    world = evolve.retarget(world, first, (f"{B}/32",), ())
    (gone,) = world.services["web"].retired
    assert gone.addresses == (f"{A}/32",)
    assert (gone.until, world.host.next_sid) == (None, 3)
    world = evolve.retarget(world, world.services["web"], (f"{C}/32",), {f"{A}/32"})
    (both,) = world.services["web"].retired
    assert both.addresses == (f"{B}/32", f"{A}/32")
    assert (both.sid, world.host.next_sid) == (gone.sid, 3)
    world = evolve.retarget(world, world.services["web"], (f"{C}/32", f"{A}/32"), {f"{A}/32"})
    assert world.services["web"].retired == (), "back, and the other one is not used"


# ---- judging -----------------------------------------------------------------------------------


GROUND = judge.Ground(
    {A: "wan0"}, ((ip_network("203.0.113.0/24"), "lan0"),), (ip_network("100.127.192.0/19"),)
)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("198.51.100.1", "is this box's own address (on wan0)"),
        ("203.0.113.9", "is in a network of this box's LAN (on lan0)"),
        ("100.127.192.7", "lies in Viscum's own address pool"),
        ("10.0.0.1", "is not a public address"),
        ("fd00::1", "is not a public address"),
        ("64:ff9b::c000:201", "is not a public address"),
        ("::ffff:198.51.100.9", "is not a public address"),
        ("127.0.0.53", "is loopback"),
        ("0.0.0.0", "is the unspecified address"),
        ("255.255.255.255", "is broadcast"),
        ("224.0.0.251", "is multicast"),
        ("ff02::fb", "is multicast"),
        ("fe80::1", "is link-local"),
        ("198.51.100.3", "is a target of other's"),
        ("198.51.100.66", "is beyond the tenant's allowance"),
        ("198.51.100.2", ""),
        ("2001:db8:5::2", ""),
    ],
)
def test_addresses_that_no_name_may_bring(address: str, why: str) -> None:
    world, mine = record(B)
    _, other = record(C, name="other")
    world = world.with_record(other)
    found = judge.refusal(
        ip_address(address), mine, world, GROUND, lambda a: str(a) != "198.51.100.66"
    )
    assert (found or "").startswith(why)
    assert bool(found) == bool(why)


def test_what_the_operator_names_bounds_what_names_bring() -> None:
    names = TargetNames(within=(ip_network("10.0.0.0/24"), ip_network("198.51.100.0/24")))
    spec = replace(SPEC, steer=replace(STEER, names=names))
    world, mine = record(B, spec=spec)
    found = {
        a: judge.refusal(ip_address(a), mine, world, GROUND, lambda a: True)
        for a in ("10.0.0.9", "10.0.1.9", "198.51.100.9", "198.51.100.1", "192.0.2.1")
    }
    assert [a for a, why in found.items() if why is None] == ["10.0.0.9", "198.51.100.9"]
    assert "own address" in (found["198.51.100.1"] or "")


# ---- messages ----------------------------------------------------------------------------------


def answer(*lines: str, name: str = NAME, kind: str = "A", number: int = 7) -> bytes:
    """Lines: `NAME TTL TYPE RDATA`, of the answer section."""
    query = dns.message.make_query(name, kind, id=number)
    made = dns.message.make_response(query)
    for line in lines:
        owner, ttl, rtype, data = line.split()
        data += "." * (rtype == "CNAME")
        made.answer.append(dns.rrset.from_text(f"{owner}.", int(ttl), "IN", rtype, data))
    return made.to_wire()


def test_a_question_is_what_dnspython_reads_in_it() -> None:
    parsed = dns.message.from_wire(question("www.Cloud.example", "AAAA", 513))
    assert (parsed.id, parsed.payload, parsed.flags) == (513, 1232, dns.flags.RD)
    assert [str(q) for q in parsed.question] == ["www.cloud.example. IN AAAA"]
    assert asked(question("Cloud.example", "A", 1)) == (wire_name(NAME), 1)


def test_only_what_the_name_leads_to_counts() -> None:
    chain = (
        "cloud.example 300 CNAME a.cdn.example", "a.cdn.example 20 CNAME b.cdn.example",
        "b.cdn.example 60 A 198.51.100.1", "b.cdn.example 60 A 198.51.100.2",
        "cloud.example.evil 60 A 198.51.100.4", "evil.example 60 A 198.51.100.5",
    )  # fmt: skip
    found = read(answer(*chain), NAME, "A")
    assert found is not None
    assert (found.addresses, found.ttl) == ((A, B), 20.0)
    upper = answer("CLOUD.example 60 A 198.51.100.1", name="cLoUd.eXample")
    assert getattr(read(upper, NAME, "A"), "addresses", None) == (A,)


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("evil.example 60 A 198.51.100.1",),
        ("cloud.example 60 CNAME a.example", "b.example 60 A 198.51.100.1"),
        ("cloud.example 60 CNAME cloud.example",),
        ("cloud.example 60 CNAME a.example", "a.example 60 CNAME cloud.example"),
        ("cloud.example 60 AAAA 2001:db8::1",),
        tuple(f"{'c' * n or 'cloud.example'} 60 CNAME {'c' * (n + 1)}" for n in range(20)),
    ],
)
def test_answers_without_an_address(lines: tuple[str, ...]) -> None:
    found = read(answer(*lines), NAME, "A")
    assert found is not None
    assert found.addresses == ()


def test_records_of_another_section_or_class_do_not_count() -> None:
    made = dns.message.make_response(dns.message.make_query(NAME, "A"))
    record = dns.rrset.from_text(f"{NAME}.", 60, "IN", "A", "198.51.100.1")
    made.additional.append(record)
    made.authority.append(record)
    made.answer.append(dns.rrset.from_text(f"{NAME}.", 60, "CH", "TXT", "x"))
    found = read(made.to_wire(), NAME, "A")
    assert found is None or found.addresses == ()


def test_what_answers_another_question_is_none() -> None:
    right = answer("cloud.example 60 A 198.51.100.1")
    assert read(right, NAME, "A") is not None
    assert read(right, NAME, "AAAA") is None
    assert read(right, "loud.example", "A") is None
    assert read(question(NAME, "A", 7), NAME, "A") is None, "no answer at all"
    assert read(right[:4] + b"\0\2" + right[6:], NAME, "A") is None, "two questions"
    assert read(right[:2] + bytes([right[2] | 0x28]) + right[3:], NAME, "A") is None, "an update"
    for length in range(len(right)):
        assert read(right[:length], NAME, "A") is None


def hostile() -> dict[str, bytes]:
    head = answer()[:2] + b"\x81\x80\0\1%b\0\0\0\0" + answer()[12:]
    one = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\1\2\3\4"
    return {
        "a name that points at itself": head % b"\0\1" + b"\xc0\x1f" + one[2:],
        "a name that points forward": head % b"\0\1" + b"\xff\xff" + one[2:],
        "more records than it has": head % b"\0\x40" + one,
        "too many records": head % (MAX_RECORDS + 1).to_bytes(2, "big") + one * 65,
        "a length past the end": head % b"\0\1" + one[:10] + b"\xff\xff",
        "an address of three bytes": head % b"\0\1" + one[:10] + b"\0\3\1\2\3",
        "labels without end": head % b"\0\1" + b"\x3f" * 3000,
        "a type of label that is none": head % b"\0\1" + b"\x80\x0c" + one[2:],
    }


@pytest.mark.parametrize("what", hostile())
def test_messages_that_mean_harm(what: str) -> None:
    assert read(hostile()[what], NAME, "A") is None


def test_the_slowest_message_is_bounded(figure: Figure) -> None:
    """64 records whose names are 60 pointers each, in a message as long as may be read."""
    made = bytearray(answer()[:6] + b"\0\x40" + bytes(4) + answer()[12:])
    pointer = 12
    for number in range(64):
        at = len(made)
        made += b"\1" + bytes([97 + number % 26]) + (0xC000 | pointer).to_bytes(2, "big")
        made += b"\0\1\0\1\0\0\0\1\0\4\1\2\3\4"
        pointer = at
    begun = time.perf_counter()
    read(bytes(made), NAME, "A")
    figure("the slowest message known", (time.perf_counter() - begun) * 1000, "ms")
    begun = time.perf_counter()
    for _ in range(100):
        read(answer("cloud.example 60 A 198.51.100.1"), NAME, "A")
    figure("an ordinary answer (with making it)", (time.perf_counter() - begun) * 10, "ms")


RIGHT = answer("cloud.example 60 CNAME a.example", "a.example 60 A 198.51.100.1")


@given(st.binary(max_size=600))
def test_bytes_are_no_message(data: bytes) -> None:
    read(data, NAME, "A")
    asked(data)
    datagram(data, True)
    read(RIGHT[:31] + data, NAME, "A")
    datagram(b"\x45" + data, True)
    datagram(b"\x60" + data, False)


@given(st.lists(st.tuples(st.integers(0, len(RIGHT) - 1), st.integers(0, 255)), max_size=8))
def test_a_message_with_errors_brings_nothing_but_its_own(edits: list[tuple[int, int]]) -> None:
    data = bytearray(RIGHT)
    for at, value in edits:
        data[at] = value
    found = read(bytes(data), NAME, "A")
    assert found is None or len(found.addresses) <= 1


# ---- what may be believed ----------------------------------------------------------------------


CLIENT, STRANGER = ip_address("10.1.0.2"), ip_address("10.1.0.3")
SERVER, EVIL = ip_address("192.0.2.53"), ip_address("192.0.2.66")
TOLD = answer("cloud.example 60 A 198.51.100.1")


def listener() -> Listener:
    made = Listener(lambda server: server == SERVER)
    made.names = {wire_name(NAME): NAME}
    return made


def query(
    client: Address = CLIENT, port: int = 5555, server: Address = SERVER, number: int = 7
) -> Datagram:
    return Datagram(False, client, port, server, 53, question(NAME, "A", number))


RIGHT_ANSWER = Datagram(True, SERVER, 53, CLIENT, 5555, TOLD)


def test_the_answer_to_a_question_is_believed_once() -> None:
    ears = listener()
    assert ears.heard("wlan0", query(), 0) is None
    told = ears.heard("wlan0", RIGHT_ANSWER, 1)
    assert told is not None
    assert (told.name, told.client, told.server, told.answer.addresses) == (
        NAME, CLIENT, SERVER, (A,)
    )  # fmt: skip
    assert ears.heard("wlan0", RIGHT_ANSWER, 1) is None


@pytest.mark.parametrize(
    ("what", "seen", "when"),
    [
        ("another client", RIGHT_ANSWER._replace(destination=STRANGER), 1.0),
        ("another port", RIGHT_ANSWER._replace(destination_port=5556), 1.0),
        ("another server", RIGHT_ANSWER._replace(source=EVIL), 1.0),
        ("another port of the server", RIGHT_ANSWER._replace(source_port=5353), 1.0),
        ("too late", RIGHT_ANSWER, PATIENCE + 1),
        ("from the clients' side", RIGHT_ANSWER._replace(outgoing=False), 1.0),
        (
            "another number",
            RIGHT_ANSWER._replace(payload=answer("cloud.example 60 A 198.51.100.1", number=8)),
            1.0,
        ),
        (
            "another type",
            RIGHT_ANSWER._replace(payload=answer("cloud.example 60 AAAA ::1", kind="AAAA")),
            1.0,
        ),
        (
            "another name",
            RIGHT_ANSWER._replace(payload=answer("loud.example 6 A 1.1.1.1", name="loud.example")),
            1.0,
        ),
        ("an error", RIGHT_ANSWER._replace(payload=TOLD[:3] + b"\x83" + TOLD[4:]), 1.0),
        ("truncated", RIGHT_ANSWER._replace(payload=TOLD[:2] + b"\x83" + TOLD[3:]), 1.0),
    ],
)
def test_any_other_answer_is_not(what: str, seen: Datagram, when: float) -> None:
    ears = listener()
    ears.heard("wlan0", query(), 0)
    assert ears.heard("wlan0", seen, when) is None, what


def test_without_a_question_and_from_an_untrusted_server_nothing_is_believed() -> None:
    assert listener().heard("wlan0", RIGHT_ANSWER, 0) is None
    ears = listener()
    ears.heard("wlan0", query(server=EVIL), 0)
    assert ears.heard("wlan0", RIGHT_ANSWER._replace(source=EVIL), 0) is None
    ears.heard("wlan0", query()._replace(outgoing=True), 0)
    assert ears.heard("wlan0", RIGHT_ANSWER, 0) is None, (
        "a question that leaves the box is no client's"
    )


def test_a_question_by_another_interface_is_another_one() -> None:
    ears = listener()
    ears.heard("lan2", query(), 0)
    assert ears.heard("wlan0", RIGHT_ANSWER, 1) is None


@pytest.mark.parametrize("source", [SERVER, STRANGER])
def test_an_answer_from_the_clients_side_ends_belief_for_a_while(source: Address) -> None:
    """A client sends the answer by way of this box, and what then leaves to another client can't
    be told from a real one: it may even be this box's own, by NAT. It may leave late (a queue), and
    the question may be asked after it came in."""
    told: list[tuple[str, Datagram]] = []
    ears = listener()
    ears._spoiled = lambda name, seen: told.append((name, seen))
    forged = RIGHT_ANSWER._replace(outgoing=False, source=source)
    ears.heard("wlan0", query(), 0)
    assert ears.heard("wlan0", forged, 0.1) is None
    assert told == [(NAME, forged)]
    ears.heard("wlan0", query(), 0.2)
    assert ears.heard("wlan0", RIGHT_ANSWER, 0.3) is None
    later = 0.1 + SPOILED
    ears.heard("wlan0", query(), later)
    assert ears.heard("wlan0", RIGHT_ANSWER, later) is not None


OWN4, OWN6, LINK6 = map(ip_address, ("10.1.0.1", "2001:db8:1::1", "fe80::1"))


def test_servers_that_are_believed() -> None:
    """Its own address is one that nobody else can use, or is listed."""

    def ears(*trust: str) -> Ears:
        made = Ears(tuple(map(ip_network, trust)), lambda *_: None, lambda *_: None, print)
        made.own = {OWN4, OWN6, LINK6}
        return made

    every = (OWN4, OWN6, LINK6, SERVER, EVIL, ip_address("fe80::2"))
    assert [a for a in every if ears()._trusted(a)] == [OWN4, LINK6]
    listed = ears("192.0.2.0/26", "2001:db8:1::1")
    assert [a for a in every if listed._trusted(a)] == [OWN4, OWN6, LINK6, SERVER]


def test_the_operator_s_servers_are_addresses(tmp_path: Path) -> None:
    file = tmp_path / settings.FILE
    file.write_text('[names]\nservers = ["192.0.2.53", "2001:db8::/64"]\ntrust = ["9.9.9.9"]\n')
    with pytest.raises(InputError) as raised:
        settings.read(str(tmp_path))
    assert [(p.field, p.value) for p in raised.value.problems] == [
        (f"{file}: names.servers[1]", "2001:db8::/64")
    ]
    file.write_text('[names]\nservers = ["192.0.2.53"]\n')
    assert settings.read(str(tmp_path)).names.servers == (ip_network("192.0.2.53"),)


def test_what_is_remembered_and_read_is_bounded() -> None:
    ears = listener()
    for port in range(3 * PENDING):
        ears.heard("wlan0", query(port=port), 0)
    assert len(ears._pending) == PENDING
    ports = range(2 * PENDING, 3 * PENDING)
    told = [
        ears.heard("wlan0", RIGHT_ANSWER._replace(destination_port=port), 0.5) for port in ports
    ]
    assert 0 < sum(t is not None for t in told) <= READ_PER_SECOND


def test_a_bucket_fills_with_time() -> None:
    bucket = Bucket(10)
    assert sum(bucket.take(100.0) for _ in range(50)) == 10
    assert sum(bucket.take(100.5) for _ in range(50)) == 5
