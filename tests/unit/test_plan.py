"""Plans: what is there before what needs it, nothing of others, and nothing left to do after."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import spec_strategies  # noqa: F401  (no deadline on a busy machine)
from viscum import egress, evolve, names, ops
from viscum.apply import OpFailed, apply, apply_all
from viscum.kernel.cgroup import rounded
from viscum.model import Group, HostLink, Inner, Observed
from viscum.plan import inner, instances, plan, steering
from viscum.spec import Limits, Port, Spec, Steer
from viscum.store import HostRecord, World

HOST = names.HostNames("/run/viscum")
LOGS = Path("/run/viscum/logs")
EMPTY = World(HostRecord("boot", names.POOLS4[0], names.POOL6), {})


def spec(name: str, firewall: str = "bypass", processes: int | None = None, count: int = 1) -> Spec:
    steer = Steer(
        interfaces=("wlan0",),
        targets=("198.18.0.10",),
        ports=(Port("tcp", 80, 80),),
        firewall=firewall,  # type: ignore[arg-type]
    )
    return Spec(
        name=name,
        command=("httpd",),
        instances=count,
        steer=steer,
        limits=Limits(processes=processes),
    )


def world(*specs: Spec) -> World:
    made = EMPTY
    for n, one in enumerate(specs):
        made = evolve.create(
            made, one, (f"198.18.0.{10 + n}/32", f"2001:db8:c::{10 + n:x}/128"), ()
        )
    return made


def link(name: str, index: int, *addresses: str, **more: object) -> HostLink:
    known = {"kind": "veth", "mtu": 1500, "up": True, "alias": "", "nsid": None}
    own = tuple(ip_address(a) for a in addresses)
    return HostLink(index, name, **{**known, **more}, addresses=own)  # type: ignore[arg-type]


ROUTER = Observed(
    links={
        "wlan0": link("wlan0", 2, "10.1.0.1", networks=(ip_network("10.1.0.0/24"),)),
        "wan0": link("wan0", 3, "198.51.100.2", has_default=True),
        "vs9": link("vs9", 77, alias="viscum-0a1b2c:web.1.0"),  # another host's, or a person's
        "vswitch": link("vswitch", 78),
    },
    namespaces={},
    inner={},
    groups={},
    rules=frozenset(),
    routes=frozenset(),
    networks=(ip_network("10.1.0.0/24"),),
    nft=None,
)


class Kernel:
    """What the Ops of a plan make of an observed world, and the rules of their order."""

    def __init__(self, seen: Observed) -> None:
        self.links = dict(seen.links)
        self.namespaces = dict(seen.namespaces)
        self.inner = dict(seen.inner)
        self.groups = dict(seen.groups)
        self.rules, self.routes, self.nft = set(seen.rules), set(seen.routes), seen.nft
        self.text = ""
        self.networks = seen.networks

    def observed(self) -> Observed:
        return Observed(
            links=self.links,
            namespaces=self.namespaces,
            inner=self.inner,
            groups=self.groups,
            rules=frozenset(self.rules),
            routes=frozenset(self.routes),
            networks=self.networks,
            nft=self.nft,
        )

    def apply(self, op: ops.Op) -> None:
        match op:
            case ops.CreateNamespace(name):
                assert name not in self.inner
                self.namespaces[name], self.inner[name] = None, Inner()
            case ops.NameNamespace(name):
                assert name not in self.inner
                self.namespaces[name], self.inner[name] = names.number(op.slot), Inner()
            case ops.ConnectLink():
                assert op.netns in self.inner
                own = [a.partition("/")[0] for a in op.addresses]
                name, number = names.link(op.slot), names.number(op.slot)
                self.links[name] = link(name, number, *own, alias=op.alias, nsid=number, mtu=op.mtu)
                self.namespaces[op.netns] = number
            case ops.SetMtu():
                self.links[op.link] = replace(self.links[op.link], mtu=op.mtu)
            case ops.ConfigureNamespace():
                assert self.namespaces[op.netns] is not None
                self.inner[op.netns] = op.want
            case ops.ChangeRule():
                assert op.verb == "del" or any(r.table == op.rule.table for r in self.routes)
                (self.rules.add if op.verb == "add" else self.rules.remove)(op.rule)
            case ops.ChangeRoute():
                assert op.verb == "del" or op.route.oif in self.links
                (self.routes.add if op.verb == "add" else self.routes.remove)(op.route)
            case ops.Nft(text):
                self.nft, self.text = egress.digest(text), text
            case ops.StartProcess():
                assert self.inner[op.netns].addresses
                nsid = self.namespaces[op.netns]
                assert nsid is not None
                used = names.link(nsid & ~names.MARK_MASK)
                assert f'iifname "{used}" jump {used}\n' in self.text, "no rules for its packets"
                limits = rounded(op.limits.cpu, op.limits.memory, op.limits.processes)
                self.groups[f"{op.service}/{op.label}"] = Group(True, *limits)
            case ops.SetLimits():
                limits = rounded(op.limits.cpu, op.limits.memory, op.limits.processes)
                self.groups[op.cgroup.removeprefix("viscum/")] = Group(True, *limits)
            case ops.StopProcess():
                key = op.cgroup.removeprefix("viscum").removeprefix("/")
                assert not any(k.startswith(f"{key}/") for k in self.groups), "those below too"
                name, _, label = key.partition("/")
                alias = f"viscum:{name}.{label}"
                for there in [n for n, entry in self.links.items() if entry.alias == alias]:
                    runs = self.groups[key].populated
                    assert not runs or f'iifname "{there}" ' in self.text, "runs without rules"
                del self.groups[key]
            case ops.DeleteLink():
                assert self.links[op.link].alias.startswith("viscum:"), "somebody else's"
                del self.links[op.link]
            case ops.DeleteNamespace(name):
                assert not any(name.endswith(k.replace("/", ".")) for k in self.groups)
                del self.namespaces[name]
                self.inner.pop(name, None)
            case _:
                raise AssertionError(op)


def made(wanted: World, seen: Observed = ROUTER, text: str = "") -> Kernel:
    """The kernel after the plan from `seen` to `wanted`, every service started."""
    kernel = Kernel(seen)
    kernel.text = text
    for op in plan(wanted, seen, HOST, LOGS, (), frozenset(wanted.services)):
        kernel.apply(op)
    return kernel


SPECS = st.builds(
    spec,
    name=st.just(""),
    firewall=st.sampled_from(["bypass", "honour"]),
    processes=st.sampled_from([None, 10, 20]),
    count=st.integers(1, 3),
)
WORLDS = st.lists(SPECS, max_size=3).map(
    lambda found: world(*(replace(s, name=f"s{n}") for n, s in enumerate(found)))
)


@pytest.mark.req("N16")
@given(WORLDS)
def test_one_plan_makes_it_so_and_a_second_has_nothing_to_do(wanted: World) -> None:
    kernel = made(wanted)
    assert plan(wanted, kernel.observed(), HOST, LOGS, (), frozenset(wanted.services)) == ()
    for i in instances(wanted, HOST):
        assert kernel.inner[i.netns] == inner(i, kernel.observed())
        assert kernel.groups[i.group].populated


@pytest.mark.req("N16", "N11")
@given(WORLDS, WORLDS, st.integers(0, 40))
def test_from_any_killed_plan_the_next_leads_to_any_other_world(
    first: World, second: World, killed_after: int
) -> None:
    kernel = Kernel(ROUTER)
    for op in plan(first, ROUTER, HOST, LOGS, (), frozenset(first.services))[:killed_after]:
        kernel.apply(op)
    after = made(second, kernel.observed(), kernel.text)
    assert plan(second, after.observed(), HOST, LOGS, (), frozenset(second.services)) == ()


@pytest.mark.req("N16", "N18")
@given(WORLDS)
def test_back_to_nothing_leaves_what_was_there(wanted: World) -> None:
    kernel = made(wanted)
    after = made(EMPTY, kernel.observed(), kernel.text)
    assert after.observed() == ROUTER


@pytest.mark.req("N11")
def test_no_process_starts_before_its_rules_although_others_leave() -> None:
    """The link is there already, by a killed command, and another service's group is to go."""
    both = world(spec("one"), spec("two"))
    kernel = made(both)
    dead = replace(kernel.observed(), nft=None, groups={"two/1.0": kernel.groups["two/1.0"]})
    steps = plan(both.without("two"), dead, HOST, LOGS, (), frozenset({"one"}))
    kinds = [type(op).__name__ for op in steps]
    assert kinds.index("Nft") < kinds.index("StartProcess")


@pytest.mark.req("N16")
def test_a_name_without_its_namespace_is_completed() -> None:
    wanted = world(spec("web"))
    half = replace(ROUTER, namespaces={"viscum.web.1.0": None})
    steps = plan(wanted, half, HOST, LOGS, (), frozenset({"web"}))
    assert steps[0] == ops.CreateNamespace("viscum.web.1.0")
    assert plan(EMPTY, half, HOST, LOGS, ()) == (ops.DeleteNamespace("viscum.web.1.0"),)


@pytest.mark.req("N16")
@given(WORLDS)
def test_names_taken_away_from_servers_that_run_are_given_back(wanted: World) -> None:
    unnamed = replace(made(wanted).observed(), inner={}, namespaces={})
    kernel = made(wanted, unnamed)
    assert plan(wanted, kernel.observed(), HOST, LOGS, (), frozenset(wanted.services)) == ()


@pytest.mark.req("N16")
@pytest.mark.parametrize("firewall", ["bypass", "honour"])
def test_what_is_about_to_go_is_not_mended(firewall: str) -> None:
    wanted = world(spec("web", firewall))
    taken = replace(ROUTER, nft=made(wanted).nft)  # by hand, all but our table
    removing = evolve.removing(wanted.services["web"], 9.0)
    assert plan(wanted.with_record(removing), taken, HOST, LOGS, ()) == ()
    runs = replace(taken, groups={"web/1.0": Group(True)})
    (step,) = plan(wanted.with_record(removing), runs, HOST, LOGS, ())
    assert step == ops.NameNamespace("viscum.web.1.0", "viscum/web/1.0", 0)


@pytest.mark.req("N2", "N9")
def test_a_limit_in_time_turns_on_nothing_that_takes_no_new_flows() -> None:
    """After `until_ns` the director inverts `enabled`: also of what was to be off for good."""
    until = 10**15
    wanted = world(spec("web"))
    record = replace(wanted.services["web"], until_ns=until)
    narrow = evolve.change_spec(wanted, record, record.spec, record.addresses[:1], None)
    entries = [
        (s.enabled, s.until_ns)
        for one in (narrow.services["web"], evolve.stopping(record, None))
        for s in steering(wanted.with_record(one), ROUTER)
    ]
    assert entries == [(True, until), (False, 0), (False, 0)]
    assert not steering(wanted.with_record(evolve.removing(record, None)), ROUTER)[0].until_ns


@pytest.mark.req("N16")
@pytest.mark.parametrize("left", ["", "web", "other"])
def test_a_group_without_children_goes_unless_it_is_needed(left: str) -> None:
    """A command was killed between two mkdirs; stopping one of them stops what is below, too."""
    half = replace(ROUTER, groups={left: Group(False)})
    groups = made(world(spec("web")), half).groups
    assert [name for name, group in groups.items() if group.populated] == ["web/1.0"]
    (step,) = plan(EMPTY, half, HOST, LOGS, ())
    assert step == ops.StopProcess(f"viscum/{left}".rstrip("/"), 2.0)


@pytest.mark.req("N9")
def test_only_a_command_that_names_a_service_starts_its_dead_process() -> None:
    wanted = world(spec("web"))
    kernel = made(wanted)
    dead = replace(kernel.observed(), groups={"web/1.0": Group(False)})
    assert plan(wanted, dead, HOST, LOGS, ()) == ()
    (step,) = plan(wanted, dead, HOST, LOGS, (), frozenset({"web"}))
    assert isinstance(step, ops.StartProcess)


class Mistaken:
    """A step in which we made a mistake."""

    def describe(self) -> str:
        return "count the sheep"

    def shell(self) -> tuple[str, ...]:
        return ("false",)

    def apply(self) -> None:
        raise KeyError("sheep")


@pytest.mark.req("N16")
def test_whatever_fails_in_a_step_is_taken_back() -> None:
    """What rolls back catches OpFailed alone."""
    with pytest.raises(OpFailed, match=r"count the sheep: KeyError\('sheep'\)"):
        apply([Mistaken()])
    (failed,) = apply_all([Mistaken()])
    assert failed.op.describe() == "count the sheep"
