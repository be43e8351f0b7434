"""A tenant's spec held against its file: every way beyond it is refused, naming the field."""

from __future__ import annotations

import threading
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from support import need_root
from viscum import evolve
from viscum.controller.who import tenants
from viscum.controller.who.access import Access, Denied, Principal
from viscum.controller.who.tokens import Tokens
from viscum.errors import InputError
from viscum.host import Host
from viscum.model import Network
from viscum.spec import from_mapping
from viscum.store import HostRecord, Record, World, boot_id
from viscum.tenancy import quota, rules
from viscum.tenancy.files import Tenants, parse, slots
from viscum.tenancy.guard import Guard
from viscum.tenancy.types import Tenant, contains

pytestmark = pytest.mark.req("C6")

EMPTY = World(HostRecord("boot", "100.127.192.0/19", "fd76::/112"), {})
ACME = """
targets = ["203.0.113.0/28", "2001:db8:7::/48"]
domains = ["acme.example"]
interfaces = ["wlan0", "br-lan"]
clients = ["10.1.0.0/16"]
egress = ["internet", "10.0.0.5 5432/tcp", "router 53/udp", "192.0.2.0/24"]
firewall = "honour"
roots = ["/srv/acme"]
priority = 50

[quotas]
services = 3
cpu = 2
memory = "1G"
processes = 100
flows = 1000
"""
BETA = 'targets = ["198.51.100.0/24"]\ninterfaces = ["wlan0"]\n'


def good(**changes: Any) -> dict[str, Any]:
    """A spec that is within the allowance; changes by path, with __ for the dots."""
    spec: dict[str, Any] = {
        "name": "acme-web",
        "command": ["nginx"],
        "steer": {
            "interfaces": ["wlan0"],
            "targets": ["203.0.113.7", "www.acme.example", "2001:db8:7:1::/64"],
            "ports": ["443/tcp"],
            "clients": ["10.1.2.0/24"],
            "firewall": "honour",
        },
        "limits": {"cpu": 0.5, "memory": "256M", "processes": 20},
    }
    for path, value in changes.items():
        *tables, key = path.split("__")
        table = spec
        for name in tables:
            table = table.setdefault(name, {})
        table[key.replace("_", "-")] = value
    return spec


@pytest.fixture
def access(tmp_path: Path) -> Access:
    directory = tmp_path / "tenants"
    directory.mkdir()
    (directory / "acme.toml").write_text(ACME)
    (directory / "beta.toml").write_text(BETA)
    return Access(str(tmp_path))


WHO = Principal("alice", "acme", "operator", "token", "1")
ROOT = Principal("root", None, "admin", "socket")


def refused(call: Callable[..., Any], *args: Any) -> dict[str, str]:
    """Field → message."""
    with pytest.raises(InputError) as raised:
        call(*args)
    return {p.field: f"{p.value}: {p.message}" for p in raised.value.problems}


def test_what_is_within_is_admitted_and_sandboxed(access: Access) -> None:
    spec = access.admit(WHO, from_mapping(good()), EMPTY)
    assert spec.run.sandbox == "strict"
    assert replace(spec, run=replace(spec.run, sandbox="off")) == from_mapping(good())


def test_a_name_says_whose_it_is(access: Access) -> None:
    """Also to the operator, for instance at boot from /etc/viscum/services."""
    names = {n: access.owner(ROOT, n, EMPTY) for n in ("web", "acme", "acme-web", "acmeweb", "b-a")}
    assert names == {"web": "", "acme": "acme", "acme-web": "acme", "acmeweb": "", "b-a": ""}
    spec = from_mapping(good(steer__targets=["198.51.100.1"]))
    assert set(refused(access.admit, ROOT, spec, EMPTY)) == {"steer.targets[0]"}


def test_the_operator_is_not_held_to_anything(access: Access) -> None:
    spec = from_mapping(good(name="web", steer__targets=["198.51.100.1"], run__user="root"))
    assert access.admit(ROOT, spec, EMPTY) == spec


BEYOND: list[tuple[str, dict[str, Any]]] = [
    # somebody else's addresses
    ("steer.targets[0]", {"steer__targets": ["198.51.100.1"]}),
    ("steer.targets[1]", {"steer__targets": ["203.0.113.7", "192.0.2.1"]}),
    ("steer.targets[0]", {"steer__targets": ["203.0.113.16"]}),
    ("steer.targets[0]", {"steer__targets": ["203.0.113.0/27"]}),
    ("steer.targets[0]", {"steer__targets": ["203.0.112.0/22"]}),
    ("steer.targets[0]", {"steer__targets": ["2001:db8::/32"]}),
    ("steer.targets[0]", {"steer__targets": ["2001:db8:8::1"]}),
    ("steer.targets[0]", {"steer__targets": ["64:ff9b::cb00:7107"]}),
    ("steer.targets", {"steer__targets": [f"2001:db8:7::{n:x}" for n in range(65)]}),
    # somebody else's names
    ("steer.targets[0]", {"steer__targets": ["bank.example"]}),
    ("steer.targets[0]", {"steer__targets": ["evilacme.example"]}),
    ("steer.targets[0]", {"steer__targets": ["acme.example.bank.example"]}),
    ("steer.targets[0]", {"steer__targets": ["example"]}),
    ("steer.targets[0]", {"steer__targets": ["xn--acme-epa.example"]}),
    # somebody else's clients and interfaces
    ("steer.interfaces[0]", {"steer__interfaces": ["eth0"]}),
    ("steer.interfaces[1]", {"steer__interfaces": ["wlan0", "wlan0.7"]}),
    ("steer.clients", {"steer__clients": []}),
    ("steer.clients[0]", {"steer__clients": ["10.0.0.0/8"]}),
    ("steer.clients[1]", {"steer__clients": ["10.1.0.0/16", "10.2.0.1"]}),
    ("steer.clients[0]", {"steer__clients": ["2001:db8:7::/64"]}),
    ("steer.clients[0]", {"steer__clients": ["0.0.0.0/0"]}),
    # around what protects the router and its LAN
    ("steer.firewall", {"steer__firewall": "bypass"}),
    ("steer.when-down", {"steer__when_down": "drop"}),
    ("egress.allow[0]", {"egress__allow": ["lan"]}),
    ("egress.allow[1]", {"egress__allow": ["internet", "router"]}),
    ("egress.allow[0]", {"egress__allow": ["router 53/tcp"]}),
    ("egress.allow[0]", {"egress__allow": ["router 1-100/udp"]}),
    ("egress.allow[0]", {"egress__allow": ["10.0.0.5"]}),
    ("egress.allow[0]", {"egress__allow": ["10.0.0.5 5432/udp"]}),
    ("egress.allow[0]", {"egress__allow": ["10.0.0.0/8 5432/tcp"]}),
    ("egress.allow[0]", {"egress__allow": ["0.0.0.0/0"]}),
    ("priority", {"priority": 51}),
    ("guard.mode", {"guard__mode": "off"}),
    ("guard.min-share", {"guard__min_share": 1}),
    # more than an unprivileged process
    ("run.user", {"run__user": "root"}),
    ("run.user", {"run__user": "nobody"}),
    ("run.capabilities", {"run__capabilities": ["net-admin"]}),
    ("run.root", {"run__root": "/srv"}),
    ("run.root", {"run__root": "/srv/acme/"}),
    ("run.root", {"run__root": "/srv/acme2"}),
    ("director", {"director": "flower"}),
    # what keeps others waiting
    ("run.start-timeout", {"run__start_timeout": "10m"}),
    ("run.stop-timeout", {"run__stop_timeout": "2h"}),
    ("run.stop-timeout", {"instances": 3, "run__stop_timeout": "21s", "limits__cpu": 0.1}),
    ("run.drain", {"run__drain": "0"}),
    ("run.drain", {"run__drain": "2h"}),
    ("run.restart-delay", {"run__restart_delay": "100ms"}),
    ("run.restart-max-delay", {"run__restart_max_delay": "2s"}),
    ("probe.interval", {"probe": {"type": "tcp", "interval": "1ms"}}),
    ("run.restart-delay", {"run__restart": "always"}),  # which a server makes use of by ending well
    ("probe.restart-after", {"probe": {"type": "tcp", "interval": "1s", "restart-after": 9}}),
    ("steer.names.min-ttl", {"steer__names": {"min-ttl": "1ms"}}),
    ("steer.names.hold", {"steer__names": {"hold": "300d"}}),
    ("steer.udp.idle", {"steer__udp": {"idle": "1d"}}),
    ("steer.names.max-addresses", {"steer__names": {"max-addresses": 65}}),
    # names
    ("name", {"name": "web"}),
    ("name", {"name": "beta-web"}),
    ("name", {"name": "acmeweb"}),
    # quotas
    ("limits.cpu", {"limits__cpu": 2.5}),
    ("limits.cpu", {"limits__cpu": 0.5, "limits__memory": "64M", "instances": 5}),
    ("limits.memory", {"limits__memory": "2G"}),
    ("limits.memory", {"limits__cpu": 0.1, "limits__memory": "300M", "instances": 4}),
    ("limits.processes", {"limits__processes": 101}),
    ("limits.log", {"limits__log": "5M"}),
]


@pytest.mark.parametrize(
    ("field", "changes"), BEYOND, ids=[f"{f}: {list(c.values())[-1]}"[:60] for f, c in BEYOND]
)
def test_what_is_beyond_is_refused(access: Access, field: str, changes: dict[str, Any]) -> None:
    problems = refused(access.admit, WHO, from_mapping(good(**changes)), EMPTY)
    assert set(problems) == {field}, problems
    access.admit(WHO, from_mapping(good()), EMPTY)  # and it is this that was refused


@pytest.mark.parametrize(
    "changes",
    [
        {"instances": 3, "run__stop_timeout": "20s", "limits__cpu": 0.1},
        {"run__restart": "always", "run__restart_delay": "10s"},
        {"probe": {"type": "tcp", "interval": "1s", "restart-after": 10}},
        {"probe": {"type": "tcp", "interval": "10s", "restart-after": 1}},
    ],
)
def test_times_that_leave_others_their_turn_are_allowed(
    access: Access, changes: dict[str, Any]
) -> None:
    access.admit(WHO, from_mapping(good(**changes)), EMPTY)


def test_a_quota_of_cpu_needs_limits(access: Access) -> None:
    spec = good()
    del spec["limits"]["cpu"]
    assert "is missing" in refused(access.admit, WHO, from_mapping(spec), EMPTY)["limits.cpu"]


def test_without_limits_those_of_the_sandbox_count(access: Access) -> None:
    spec = good(limits={"cpu": 0.1})
    problems = refused(access.admit, WHO, from_mapping(spec), EMPTY)
    assert problems == {
        "limits.processes": "128: all in all is more than tenant acme's quota of 100, with every"
        " instance and what still drains"
    }


def test_all_problems_are_told_at_once(access: Access) -> None:
    changes = {field.replace(".", "__").partition("[")[0]: c for field, c in BEYOND}
    everything: dict[str, Any] = {}
    for some in changes.values():
        everything |= some
    everything |= {"limits__cpu": 3, "limits__memory": "2G"}
    everything["probe"] = {"type": "tcp", "interval": "1ms", "restart-after": 9}
    everything["steer__names"] = {"min-ttl": "1ms", "hold": "300d", "max-addresses": 65}
    problems = refused(access.guard.admit, "acme", from_mapping(good(**everything)), EMPTY)
    expected = {field.partition("[")[0] for field, _ in BEYOND}
    assert {field.partition("[")[0] for field in problems} == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"steer__targets": ["203.0.113.0/28"]},
        {"steer__targets": ["acme.example"]},
        {"steer__targets": ["A.B.Acme.Example."]},
        {"name": "acme"},
        {"run__root": "/srv/acme"},
        {"egress__allow": []},
        {"egress__allow": ["10.0.0.5 5432/tcp", "internet", "router 53/udp", "internet 443/tcp"]},
        {"egress__allow": ["192.0.2.7 80/tcp", "192.0.2.0/24"]},
        {"run__capabilities": []},
        {"run__ready": ["/bin/true"]},
        {"probe": {"type": "exec", "command": ["/bin/true"]}},
        {"limits__cpu": 2, "limits__memory": "1G", "limits__processes": 100},
    ],
)
def test_all_that_is_its_own_may_be_used(access: Access, changes: dict[str, Any]) -> None:
    access.admit(WHO, from_mapping(good(**changes)), EMPTY)


# ---- tricks that are refused before a tenant's file is even looked at --------------------------


@pytest.mark.parametrize(
    "target",
    ["0.0.0.0/0", "::/0", "::ffff:198.51.100.1", "::ffff:0:0/96", "203.0.113.7/28", "[::1]",
     "2001:db8:7::1%wlan0", "0x7f.1", "localhost", "аcme.example"],
)  # fmt: skip
def test_no_spec_has_such_targets(target: str) -> None:
    assert "steer.targets[0]" in refused(from_mapping, good(steer__targets=[target]))


# ---- names that resolve to something -----------------------------------------------------------


def test_what_a_name_resolves_to_has_to_be_the_tenants_own(access: Access) -> None:
    spec = from_mapping(good(steer__targets=["www.acme.example"]))
    guard = access.guard
    guard.admit("acme", spec, EMPTY, ("203.0.113.9/32", "2001:db8:7::9/128"))
    problems = refused(guard.admit, "acme", spec, EMPTY, ("203.0.113.9/32", "198.51.100.1/32"))
    assert problems == {
        "steer.targets": "198.51.100.1: is not in a prefix of tenant acme's, though its name leads"
        " there"
    }


def test_unless_the_operator_trusts_who_answers_for_the_domain(tmp_path: Path) -> None:
    text = 'domains = ["acme.example"]\ndomains-anywhere = true\ninterfaces = ["wlan0"]'
    tenant = parse("acme", text, "acme")
    named = from_mapping(good(steer__targets=["www.acme.example"]))
    assert not list(rules.foreign(tenant, ("198.51.100.1/32",), named))
    literal = from_mapping(good(steer__targets=["198.51.100.1", "www.acme.example"]))
    assert list(rules.foreign(tenant, ("198.51.100.1/32",), literal)), "an address is not a name"


@pytest.mark.parametrize("anywhere", [False, True])
@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
     "ff02::1", "::ffff:127.0.0.1", "fe80::1%1"],
)  # fmt: skip
def test_never_a_special_address(anywhere: bool, address: str) -> None:
    tenant = Tenant(
        targets=(IPv4Network("0.0.0.0/0"), IPv6Network("::/0")),
        domains=("acme.example",),
        domains_anywhere=anywhere,
    )
    assert not tenant.allows(address)


def test_an_ipv4_address_in_ipv6_clothes_is_an_ipv4_address() -> None:
    assert not Tenant(targets=(IPv6Network("::/0"),)).allows("::ffff:198.51.100.1")
    assert Tenant(targets=(IPv4Network("198.51.100.0/24"),)).allows("::ffff:198.51.100.1")


# ---- prefix arithmetic -------------------------------------------------------------------------

NETWORKS4 = st.builds(
    lambda bits, length: IPv4Network((bits >> (32 - length) << (32 - length), length)),
    st.integers(0, 2**32 - 1),
    st.integers(8, 32),
)
NETWORKS6 = st.builds(
    lambda bits, length: IPv6Network((bits >> (128 - length) << (128 - length), length)),
    st.integers(2**125, 2**125 + 2**120),
    st.integers(8, 128),
)
NETWORKS: st.SearchStrategy[Network] = st.one_of(NETWORKS4, NETWORKS6)


@given(NETWORKS, NETWORKS, st.randoms())
def test_contains_is_every_address(outer: Network, inner: Network, random: Any) -> None:
    if not contains(outer, inner):
        ends = (inner[0], inner[-1])
        assert outer.version != inner.version or not all(end in outer for end in ends)
        return
    for _ in range(20):
        assert inner[random.randrange(inner.num_addresses)] in outer


@given(st.lists(NETWORKS, max_size=4), NETWORKS)
def test_what_is_admitted_lies_in_what_is_owned(owned: list[Network], wanted: Network) -> None:
    tenant = Tenant(targets=tuple(owned))
    if tenant.owns_prefix(wanted):
        for end in (wanted[0], wanted[-1]):
            assert any(end in network for network in owned)
    if tenant.allows(wanted[0]):
        assert any(wanted[0] in network for network in owned)


@given(st.integers(19, 31), st.data())
def test_slots_are_those_whose_addresses_are_in_the_pool(length: int, data: st.DataObject) -> None:
    from viscum.names import addresses4

    host = IPv4Network("100.127.192.0/19")
    pool = data.draw(st.sampled_from(list(host.subnets(new_prefix=length))[:64]))
    mine = slots(Tenant(name="acme", pool=pool), str(host))
    for slot in {mine[0], mine[-1]}:
        assert all(address in pool for address in addresses4(host, slot))
    assert len(mine) == pool.num_addresses // 2
    assert not any(a in pool for s in (mine[0] - 1, mine[-1] + 1) if 0 <= s < 4096
                   for a in addresses4(host, s))  # fmt: skip


# ---- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('targets = ["0.0.0.0/0"]', "targets[0]"),
        ('targets = ["127.0.0.0/8"]', "targets[0]"),
        ('targets = ["::ffff:1.2.3.4"]', "targets[0]"),
        ('targets = ["203.0.113.1/24"]', "targets[0]"),
        ('targets = ["acme.example"]', "targets[0]"),
        ('domains = ["com"]', "domains[0]"),
        ('domains = ["*.com"]', "domains[0]"),
        ('domains = ["203.0.113.1"]', "domains[0]"),
        ('domains = ["localhost"]', "domains[0]"),
        ("domains-anywhere = true", "domains-anywhere"),
        ('interfaces = ["a/b"]', "interfaces[0]"),
        ('pool = "fd00::/120"', "pool"),
        ('pool = "10.0.0.1"', "pool"),
        ('egress = ["wan"]', "egress[0]"),
        ('firewall = "off"', "firewall"),
        ('target = ["203.0.113.0/28"]', "target"),
        ('name = "other"', "name"),
        ("[quotas]\nserivces = 1", "quotas.serivces"),
        ("[quotas]\ncpu = 0", "quotas.cpu"),
        ('[quotas]\nmemory = "much"', "quotas.memory"),
        ("[quotas]\nflows = 0", "quotas.flows"),
    ],
)
def test_a_wrong_file_names_the_field(text: str, field: str) -> None:
    assert set(refused(parse, "acme", text, "f.toml")) == {f"f.toml: {field}"}


@pytest.mark.parametrize("name", ["", "Acme", "a-b", "a" * 17, "../x", "a.b", "ä"])
def test_a_tenants_name_is_plain(name: str) -> None:
    assert refused(parse, name, "", "f.toml")


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("targets", ["203.0.113.0/24"], ["203.0.113.7"]),
        ("targets", ["2001:db8::1"], ["198.51.100.0/24", "2001:db8::/32"]),
        ("domains", ["acme.example"], ["acme.example"]),
        ("domains", ["cdn.acme.example"], ["acme.example"]),
        ("pool", "100.127.200.0/24", "100.127.200.128/25"),
    ],
)
def test_two_tenants_have_nothing_in_common(tmp_path: Path, key: str, one: Any, other: Any) -> None:
    from viscum.spec.write import toml_of

    directory = tmp_path / "tenants"
    directory.mkdir()
    for name, value in (("aaa", one), ("bbb", other)):
        (directory / f"{name}.toml").write_text(toml_of({key: value}))
    (directory / "ccc.toml").write_text("")
    tenants = Tenants(str(tmp_path))
    usable, wrong = tenants.usable()
    assert set(usable) == {"ccc"}, "the third one has nothing to do with it"
    assert set(wrong) == {"aaa", "bbb"}
    (problem,) = wrong["aaa"]
    assert problem.field.endswith(f"bbb.toml: {key}")
    assert "aaa and bbb both have it" in problem.message
    assert refused(tenants.get, "bbb")
    (directory / "bbb.toml").write_text("")
    assert tenants.get("aaa").name == "aaa", "a changed file is read again"


# ---- quotas ------------------------------------------------------------------------------------


def with_services(*changes: dict[str, Any]) -> World:
    world = EMPTY
    for some in changes:
        spec = rules.imposed(from_mapping(good(**some)))
        world = evolve.create(world, spec, ("203.0.113.7/32",), ())
        record = replace(world.services[spec.name], tenant="acme")
        world = world.with_record(evolve.live(record, None))
    return world


def test_what_is_kept_for_the_next_boot_counts(access: Access) -> None:
    """Else services could be saved and removed without end."""
    directory = Path(access.guard.config_dir) / "services"
    directory.mkdir()
    for name in ("acme-a", "acme-b", "beta-a", "acmeother", "web"):
        (directory / f"{name}.toml").touch()
    (directory / ".acme-c.toml").touch()
    (directory / "acme-d.toml.new").touch()
    world = with_services({"name": "acme-b", "limits__cpu": 0.1})
    two, three = good(name="acme-web", limits__cpu=0.1), good(name="acme-more", limits__cpu=0.1)
    access.admit(WHO, from_mapping(two), world)  # the third
    full = with_services({"name": "acme-b", "limits__cpu": 0.1}, two)
    access.guard.within(world, full)
    assert list(refused(access.admit, WHO, from_mapping(three), full)) == ["name"]
    more = with_services({"name": "acme-b", "limits__cpu": 0.1}, two, three)
    assert list(refused(access.guard.within, full, more)) == ["name"]
    access.admit(WHO, from_mapping(good(name="acme-a", limits__cpu=0.1)), full)  # counted already
    access.guard.within(full, EMPTY)
    access.guard.within(EMPTY, world)  # at boot
    (directory / "acme-a.toml").unlink()
    access.admit(WHO, from_mapping(three), full)


def test_a_tenant_is_not_removed_while_a_service_of_it_is_made(tmp_path: Path) -> None:
    need_root()
    config = tmp_path / "etc"
    (config / "tenants").mkdir(parents=True)
    (config / "tenants" / "acme.toml").write_text(ACME)
    waits = threading.Event()
    one = Host(str(tmp_path / "state"), config_dir=str(config))
    other = Host(str(tmp_path / "state"), config_dir=str(config), progress=lambda line: waits.set())
    found: list[str] = []

    def remove() -> None:
        try:
            tenants.remove(other, Tenants(str(config)), Tokens(str(config)), "acme")
        except tenants.Kept as kept:
            found.append(kept.message)

    with one.changing("run acme-web"):  # it was admitted, and is about to be there
        thread = threading.Thread(target=remove)
        thread.start()
        assert waits.wait(10), "for the lock"
        made = with_services({})
        one.store.save(World(replace(made.host, boot=boot_id()), made.services))
    thread.join(10)
    assert found == ["tenant acme has services: acme-web"]
    assert Tenants(str(config)).names() == {"acme"}
    one.store.save(EMPTY)
    remove()
    assert (len(found), Tenants(str(config)).names()) == (1, frozenset())
    gone = refused(one.guard.admit, "acme", from_mapping(good()), EMPTY)  # as `begin` does then
    assert "no such tenant" in gone["TENANT"]


def test_quotas_count_all_services_of_the_tenant(access: Access) -> None:
    world = with_services({"name": "acme-a", "limits__cpu": 1.0}, {"name": "acme-b"})
    assert quota.used(world, "acme").cpu == 1.5
    access.admit(WHO, from_mapping(good()), world)
    problems = refused(access.admit, WHO, from_mapping(good(limits__cpu=0.6)), world)
    assert problems == {
        "limits.cpu": "2.1: all in all is more than tenant acme's quota of 2, with every instance"
        " and what still drains"
    }


def test_one_service_too_many(access: Access) -> None:
    world = with_services(*({"name": f"acme-{n}", "limits__cpu": 0.1} for n in range(3)))
    spec = good(limits__cpu=0.1)
    problems = refused(access.admit, WHO, from_mapping(spec), world)
    assert problems == {"name": "4: all in all is more than tenant acme's quota of 3"}
    again = from_mapping(good(name="acme-1", limits__cpu=0.2))
    access.admit(WHO, again, world)  # one that is there already


def test_generations_side_by_side_count_both(access: Access) -> None:
    world = with_services({"limits__cpu": 1.5})
    in_place = from_mapping(good(limits__cpu=2.0))
    access.admit(WHO, in_place, world)  # no new processes
    beside = from_mapping(good(limits__cpu=1.5, command=["nginx", "-v"]))
    assert set(refused(access.admit, WHO, beside, world)) == {"limits.cpu"}
    after = from_mapping(good(limits__cpu=2.0, command=["nginx", "-v"], upgrade="replace"))
    access.admit(WHO, after, world)  # the old ones have ended by then


def test_who_is_over_the_quota_may_still_go_down(access: Access) -> None:
    world = with_services({"name": "acme-a", "limits__cpu": 1.5}, {"limits__cpu": 1.5})
    access.admit(WHO, from_mapping(good(limits__cpu=1.0)), world)
    assert set(refused(access.admit, WHO, from_mapping(good(limits__cpu=1.6)), world)) == {
        "limits.cpu"
    }


# ---- the last door -----------------------------------------------------------------------------


def test_nothing_is_committed_that_is_beyond(access: Access) -> None:
    guard: Guard = access.guard
    world = with_services({"limits__cpu": 1.0})
    record = world.services["acme-web"]
    guard.within(EMPTY, world)

    def becomes(changed: Record) -> World:
        return world.with_record(changed)

    stolen = becomes(replace(record, addresses=("203.0.113.7/32", "198.51.100.1/32")))
    assert set(refused(guard.within, world, stolen)) == {"steer.targets"}
    guard.within(stolen, world)  # back is always possible
    guard.within(stolen, stolen.with_record(replace(stolen.services["acme-web"], enabled=False)))
    twice = evolve.add_generation(world, record, record.spec, ())
    guard.within(world, twice)
    thrice = evolve.add_generation(twice, twice.services["acme-web"], record.spec, ())
    assert set(refused(guard.within, twice, thrice)) == {"limits.cpu"}
    given = becomes(replace(record, tenant="beta"))
    assert "acme-web is acme's" in refused(guard.within, world, given)["tenant"]


def test_a_tenant_without_a_file_keeps_what_it_has_and_gets_no_more(tmp_path: Path) -> None:
    guard = Guard(str(tmp_path))
    world = with_services({})
    record = world.services["acme-web"]
    guard.within(world, world.with_record(replace(record, enabled=False)))
    twice = evolve.add_generation(world, record, record.spec, ())
    assert set(refused(guard.within, world, twice)) == {"TENANT"}


def test_pools_bar_their_slots_to_everybody_else(tmp_path: Path) -> None:
    directory = tmp_path / "tenants"
    directory.mkdir()
    (directory / "acme.toml").write_text('pool = "100.127.192.16/28"')
    (directory / "beta.toml").write_text("")
    (directory / "else.toml").write_text('pool = "10.0.0.0/28"')
    guard = Guard(str(tmp_path))
    pool = "100.127.192.0/19"
    assert guard.barred("", pool) == guard.barred("beta", pool) == set(range(8, 16))
    assert guard.barred("acme", pool) == set(range(4096)) - set(range(8, 16))
    assert (
        "is not inside this host's pool" in refused(guard.barred, "else", pool)["else.toml: pool"]
    )


# ---- who ---------------------------------------------------------------------------------------


def test_what_is_anothers_can_not_be_taken(access: Access) -> None:
    """Nor is it told that there is such a service."""
    world = with_services({})
    record = world.services["acme-web"]
    theirs = world.without("acme-web").with_record(replace(record, name="beta-x", tenant="beta"))
    spec = from_mapping(good(name="beta-x"))
    for there in (theirs, world):
        assert refused(access.admit, WHO, spec, there) == {
            "name": "beta-x: is not a name of tenant acme's"
        }
    operators = world.with_record(replace(record, tenant=""))
    assert refused(access.admit, WHO, from_mapping(good()), operators) == {
        "name": "acme-web: is not to be had"
    }


def test_a_tenants_service_stays_within_whoever_changes_it(access: Access) -> None:
    """The operator widens the tenant's file; by mistake it is not widened."""
    world = with_services({})
    spec = from_mapping(good(steer__targets=["198.51.100.1"]))
    assert set(refused(access.admit, ROOT, spec, world)) == {"steer.targets[0]"}
    assert access.admit(ROOT, from_mapping(good()), world).run.sandbox == "strict"


def test_a_viewer_changes_nothing(access: Access) -> None:
    with pytest.raises(Denied):
        access.admit(replace(WHO, role="viewer"), from_mapping(good()), EMPTY)


@pytest.mark.parametrize(
    ("tenant", "owner", "seen"),
    [
        (None, "", True),
        (None, "acme", True),
        ("acme", "acme", True),
        ("acme", "beta", False),
        ("acme", "", False),
        ("", "", False),
    ],
)
def test_who_sees_what(access: Access, tenant: str | None, owner: str, seen: bool) -> None:
    assert access.sees(replace(WHO, tenant=tenant), owner) is seen


def test_the_socket_knows_root_and_the_group(tmp_path: Path) -> None:
    import grp

    group = grp.getgrgid(0)
    access = Access(str(tmp_path), group.gr_name)
    root, member = access.by_socket(0, []), access.by_socket(1000, [5, group.gr_gid])
    assert root is not None
    assert (root.role, root.tenant) == ("admin", None)
    assert member is not None
    assert (member.role, member.tenant) == ("operator", None)
    assert access.by_socket(1000, [5]) is None
    assert Access(str(tmp_path), "no-such-group").by_socket(1000, [group.gr_gid]) is None


def test_the_document_names_every_key_and_bound() -> None:
    from viscum.tenancy.doc import document

    text = (Path(__file__).parents[2] / "docs" / "tenants.md").read_text()
    assert document() in text, "python -m viscum.tenancy.doc, between the marks in docs/tenants.md"
    for path in rules.TIMES:
        assert f"`{path}`" in text or f"`{path.rpartition('.')[2]}`" in text, path
