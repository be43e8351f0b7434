"""The text of our nft table: nft takes it, and its digest says what it is."""

from __future__ import annotations

import subprocess
from ipaddress import ip_address, ip_network

import pytest
from msgspec.structs import replace

from support import need_program, need_root
from viscum import egress
from viscum.egress import EgressInstance
from viscum.spec import EgressRule

OWN = (ip_address("100.127.192.1"), ip_address("fd76:6973:6375:6d::1"))
TARGETS = (ip_network("198.18.0.10/32"), ip_network("2001:db8:c::/64"))
LAN = (ip_network("10.1.0.0/24"), ip_network("10.1.0.0/16"), ip_network("2001:db8:1::/64"))
POOLS = (ip_network("100.127.192.0/19"), ip_network("fd76:6973:6375:6d::/112"))
RULES = tuple(
    EgressRule.parse(text)
    for text in (
        "internet",
        "lan",
        "router",
        "internet 443/tcp",
        "10.9.0.0/16",
        "router 53/udp",
        "2001:db8::/32 1-9/tcp",
    )
)


def instance(slot: int, *allow: EgressRule, honour: bool = False) -> EgressInstance:
    return EgressInstance(f"vs{slot}", f"web/1.{slot}", OWN, TARGETS, allow, honour)


RULESETS = {
    "one": egress.ruleset([instance(0, *RULES[:1])], LAN, POOLS),
    "sandboxed": egress.ruleset([replace(instance(0, *RULES), sandboxed=True)], LAN, POOLS),
    "nothing allowed": egress.ruleset([instance(0)], LAN, POOLS),
    "every rule": egress.ruleset([instance(0, *RULES, honour=True)], LAN, POOLS),
    "links": egress.ruleset([instance(0, *RULES)], LAN, POOLS, ("wlan0", "br-lan")),
    "no lan, one pool": egress.ruleset([instance(4095, *RULES)], (), POOLS[:1]),
    "many": egress.ruleset([instance(n, *RULES, honour=n % 2 > 0) for n in range(50)], LAN, POOLS),
    "a link that leaves": egress.ruleset(
        [instance(1), EgressInstance("vs2", "viscum:web.1.0", (), (), (), False)], LAN, POOLS
    ),
}


@pytest.mark.req("N11")
@pytest.mark.parametrize("name", RULESETS)
def test_nft_takes_it_as_one_transaction_over_what_is_there(name: str) -> None:
    need_root()
    need_program("nft", "unshare")
    text = RULESETS[name]
    script = text + text  # the second over the first
    for words in (["-c", "-f", "-"], ["-f", "-"]):
        done = subprocess.run(
            ["unshare", "-n", "nft", *words], input=script, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.req("N11")
def test_without_instances_there_is_nothing_to_hold() -> None:
    assert egress.ruleset([], LAN, POOLS) == ""
    assert egress.digest("") is None


@pytest.mark.req("N16")
def test_the_digest_says_whether_it_is_the_same() -> None:
    one = [instance(0, *RULES), instance(1)]
    text = egress.ruleset(one, LAN, POOLS)
    assert egress.digest(text) == egress.digest(egress.ruleset(one[::-1], LAN[::-1], POOLS))
    others = (
        egress.ruleset(one[:1], LAN, POOLS),
        egress.ruleset(one, LAN[:1], POOLS),
        egress.ruleset(one, LAN, POOLS[:1]),
        egress.ruleset(one, LAN, POOLS, ("wlan0",)),
        egress.ruleset([one[0], replace(one[1], honour=True)], LAN, POOLS),
        egress.ruleset([one[0], replace(one[1], allow=RULES[:1])], LAN, POOLS),
        egress.ruleset([one[0], replace(one[1], own=OWN[:1])], LAN, POOLS),
    )
    digests = {egress.digest(text), *map(egress.digest, others)}
    assert len(digests) == 1 + len(others)


@pytest.mark.req("N11")
def test_a_link_that_leaves_may_send_nothing() -> None:
    """Neither onwards nor, but for neighbours and answers, to the router."""
    text = RULESETS["a link that leaves"]
    chain = text.split("chain vs2 {", 1)[1].split("}", 1)[0]
    assert [line.strip() for line in chain.splitlines()[1:] if line.strip()] == ["drop"]
    assert 'iifname "vs2" jump vs2\n' in text
    assert 'iifname "vs2" jump vs2-router\n' in text
