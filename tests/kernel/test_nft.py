"""nftables by netlink against `nft -j`."""

from __future__ import annotations

import pytest

from kernel.conftest import Space
from support import need_program
from viscum.errors import ViscumError
from viscum.kernel import nft
from viscum.kernel.nft import Chain, Table

OPERATORS = """
table inet fw4 {
    comment "the operator's"
    set lan { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }
    chain forward { type filter hook forward priority filter; policy drop; ip saddr @lan accept; }
    chain helper { counter; }
}
table ip nat { chain post { type nat hook postrouting priority srcnat + 5; masquerade; }; }
table ip6 mangle { chain pre { type filter hook prerouting priority mangle; }; }
table arp filter { chain out { type filter hook output priority 0; policy drop; }; }
table bridge b { chain passing { type filter hook forward priority -200; }; }
table netdev nd { chain in { type filter hook ingress device "lo" priority -500; }; }
"""


@pytest.fixture
def space(space: Space) -> Space:
    need_program("nft")
    return space


def _ruleset(space: Space) -> str:
    return space.run("nft", "-a", "list", "ruleset").stdout


@pytest.mark.req("N18")
def test_our_table_comes_and_goes_beside_the_operators(space: Space) -> None:
    nft.apply(OPERATORS, space.fd)
    before = _ruleset(space)
    assert nft.table_comment("inet", "viscum", space.fd) is None
    nft.apply('table inet viscum { comment "1a2b3c"; chain c { counter; }; }', space.fd)
    assert nft.table_comment("inet", "viscum", space.fd) == "1a2b3c"
    assert nft.table_comment("ip", "viscum", space.fd) is None
    assert before in _ruleset(space)
    nft.delete_table("inet", "viscum", space.fd)
    assert nft.table_comment("inet", "viscum", space.fd) is None
    assert _ruleset(space) == before


@pytest.mark.req("N16")
def test_deleting_a_table_that_is_not_there_is_nothing(space: Space) -> None:
    nft.delete_table("inet", "viscum", space.fd)
    assert nft.tables(space.fd) == []


def test_tables_and_comments_are_what_nft_shows(space: Space) -> None:
    nft.apply(OPERATORS, space.fd)
    comment = "viscum:web ü " + "x" * 100
    nft.apply(f'table inet viscum {{ comment "{comment}"; }}', space.fd)
    theirs = {
        Table(x["table"]["family"], x["table"]["name"], x["table"].get("comment", ""))
        for x in space.json("nft", "-j", "list", "tables")["nftables"]
        if "table" in x
    }
    ours = nft.tables(space.fd)
    assert {(t.family, t.name) for t in ours} == {(t.family, t.name) for t in theirs}
    comments = {t.name: t.comment for t in ours}
    assert comments["viscum"] == comment
    assert comments["fw4"] == "the operator's"
    assert comments["nat"] == ""


def test_base_chains_are_what_nft_shows(space: Space) -> None:
    nft.apply(OPERATORS, space.fd)
    theirs = {
        Chain(
            family=c["family"],
            table=c["table"],
            name=c["name"],
            type=c["type"],
            hook=c["hook"],
            prio=c["prio"],
            policy=c["policy"],
        )
        for c in (x["chain"] for x in space.json("nft", "-j", "list", "chains")["nftables"][1:])
        if "hook" in c
    }
    ours = nft.base_chains(space.fd)
    assert set(ours) == theirs
    assert len(ours) == 6
    (forward,) = (c for c in ours if c.table == "fw4")
    assert (forward.hook, forward.policy, forward.prio) == ("forward", "drop", 0)


def test_a_refused_ruleset_has_nfts_words_and_leaves_nothing(space: Space) -> None:
    with pytest.raises(ViscumError, match="syntax error, unexpected newline"):
        nft.apply("table inet viscum { }\nadd rule inet viscum\n", space.fd)
    with pytest.raises(ViscumError, match="No such file or directory"):
        nft.apply("table inet viscum { }\nadd rule inet viscum nope accept\n", space.fd)
    assert nft.tables(space.fd) == []


def test_without_nft_the_error_says_what_to_install(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ViscumError) as caught:
        nft.apply("table inet viscum { }", space.fd)
    assert "nftables" in caught.value.hint


@pytest.mark.req("N12")
def test_rules_by_comment_and_by_what_they_use(space: Space) -> None:
    nft.apply(
        OPERATORS
        + """
table inet fw4 {
    chain forward { ct state established accept comment "viscum"; iifname "vs*" accept; }
}
""",
        space.fd,
    )
    found = {(r.table, r.chain): r for r in nft.rules(space.fd) if r.comment or r.words}
    assert ("nat", "post") in found
    assert "masq" in found["nat", "post"].words
    (ours,) = [r for r in nft.rules(space.fd) if r.comment == "viscum"]
    assert (ours.family, ours.table, ours.chain) == ("inet", "fw4", "forward")
    assert "ct" in ours.words
    theirs = space.json("nft", "-j", "list", "ruleset")["nftables"]
    assert len(nft.rules(space.fd)) == sum("rule" in x for x in theirs)
