"""Specs: canonical form, comparison, overlap, files. Malformed ones: test_spec_malformed.py."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spec_strategies import MAPPINGS, NESTED, SPECS
from viscum.errors import InputError, Problem
from viscum.spec import (
    Bytes,
    Claim,
    Limits,
    Port,
    Run,
    Seconds,
    Spec,
    Steer,
    check,
    check_against,
    diff,
    from_mapping,
    from_toml,
    limits_in_force,
    needs_new_generation,
    overlaps,
    specs_from_paths,
    to_mapping,
    to_toml,
)
from viscum.spec.files import MAX_FILE

pytestmark = pytest.mark.req("N4")

WEB = """\
name = "web"
command = ["nginx"]

[steer]
interfaces = ["wlan0"]
targets = ["203.0.113.7"]
"""


def web(**changes: Any) -> Spec:
    """WEB with fields of its tables changed: steer_share=50, run_user="x", command=(…)."""
    spec = from_toml(WEB)
    for key, value in changes.items():
        table, _, field = key.partition("_")
        if table in ("steer", "run", "limits", "egress"):
            inner = msgspec.structs.replace(getattr(spec, table), **{field: value})
            spec = msgspec.structs.replace(spec, **{table: inner})
        else:
            spec = msgspec.structs.replace(spec, **{key: value})
    return spec


# ---- one canonical form ----------------------------------------------------------------------


@given(SPECS)
def test_what_is_written_is_read_back(spec: Spec) -> None:
    assert check(spec) == ()
    text = to_toml(spec)
    assert from_toml(text) == spec
    assert to_toml(from_toml(text)) == text
    assert from_mapping(to_mapping(spec, defaults=True)) == spec
    assert from_mapping(msgspec.json.decode(msgspec.json.encode(to_mapping(spec)))) == spec


def test_only_what_is_not_the_default_is_written_in_the_order_of_the_types() -> None:
    assert to_toml(from_toml(WEB)) == WEB
    spec = web(
        run_environment={"B": "2", "A": "1"}, steer_share=50, steer_ports=(Port("tcp", 80, 80),)
    )
    assert to_toml(spec) == (
        WEB + 'ports = ["80/tcp"]\nshare = 50\n\n[run.environment]\nA = "1"\nB = "2"\n'
    )


def test_other_spellings_become_the_canonical_one() -> None:
    text = WEB.replace('"203.0.113.7"', '"Cloud.Example.com.", "203.0.113.7/32"') + (
        'ports = ["tcp/443"]\nudp = { idle = 120 }\n[limits]\nmemory = "0.5GiB"\n'
        '[run]\ncapabilities = ["CAP_NET_RAW"]\ndrain = "90s"\n'
    )
    assert to_mapping(from_toml(text)) == {
        "name": "web",
        "command": ["nginx"],
        "steer": {
            "interfaces": ["wlan0"],
            "targets": ["cloud.example.com", "203.0.113.7"],
            "ports": ["443/tcp"],
            "udp": {"idle": "2m"},
        },
        "run": {"drain": "90s", "capabilities": ["net-raw"]},
        "limits": {"memory": "512M"},
    }


def test_no_capabilities_is_not_the_default_set() -> None:
    spec = from_toml(WEB + "[run]\ncapabilities = []\n")
    assert spec.run.capabilities == ()
    assert from_toml(WEB).run.capabilities is None
    assert from_toml(to_toml(spec)) == spec


@pytest.mark.req("N15")
def test_a_spec_built_in_python_is_checked_as_one_that_is_read() -> None:
    steer = Steer(interfaces=("wlan0",), targets=("127.0.0.1", "203.0.113.7"))
    spec = Spec(
        name="Web", command=("./x",), steer=steer, run=Run(drain=Seconds(-1)), limits=Limits(cpu=0)
    )
    assert [problem.field for problem in check(spec)] == [
        "name",
        "steer.targets[0]",
        "run.drain",
        "limits.cpu",
        "command[0]",
    ]


# ---- whatever is given, InputError or a spec ---------------------------------------------------


def settle(read: Callable[[Any], Spec], given_: object) -> None:
    """Reads, and reads what it wrote; anything but InputError comes through."""
    problems: tuple[Problem, ...] = ()
    try:
        spec = read(given_)
    except InputError as error:
        problems = error.problems or (Problem("", "", ""),)
    else:
        assert from_toml(to_toml(spec)) == spec
    assert all(p.field and p.message and p.fix and str(p) for p in problems)


@pytest.mark.req("N15")
@given(st.text())
@example("\ufeff" + WEB)
@example("a=0x" + "f" * 6000)
@example("a.b." * 2000 + "c=1")
def test_any_text(text: str) -> None:
    settle(from_toml, text)


@pytest.mark.req("N15")
@given(st.text(max_size=20), st.integers(0, len(WEB)), st.integers(0, 30))
def test_a_spec_with_something_else_in_the_middle(text: str, at: int, length: int) -> None:
    settle(from_toml, WEB[:at] + text + WEB[at + length :])


@pytest.mark.req("N15")
@given(NESTED)
@example({1: 2})
@example({"name": 10**5000, "command": [10**5000], "steer": {"ports": [10**5000]}})
@example({"run": {"drain": 10**400, "environment": {1: 2, None: "x"}}, "limits": {"cpu": 10**400}})
@example({"command": ["\udcff"], "\udcff": 1})
def test_any_data(data: object) -> None:
    settle(from_mapping, data)


@pytest.mark.req("N15")
@given(MAPPINGS)
def test_the_right_keys_with_any_values(data: dict[str, Any]) -> None:
    """Reaches every parser; a spec that is accepted is one that can be written and read again."""
    settle(from_mapping, data)


# ---- what differs ----------------------------------------------------------------------------


@given(SPECS, SPECS)
def test_a_diff_is_empty_only_between_equals(a: Spec, b: Spec) -> None:
    assert diff(a, a) == []
    assert (diff(a, b) == []) == (a == b)
    forth = {(change.path, change.old, change.new) for change in diff(a, b)}
    assert forth == {(change.path, change.new, change.old) for change in diff(b, a)}
    assert not needs_new_generation(a, a)


@pytest.mark.req("N8")
@pytest.mark.parametrize(
    ("changes", "path", "anew"),
    [
        ({"command": ("nginx", "-v")}, "command", True),
        ({"instances": 2}, "instances", True),
        ({"run_user": "www-data"}, "run.user", True),
        ({"run_environment": {"A": "1"}}, "run.environment.A", True),
        ({"run_working_directory": "/srv"}, "run.working-directory", True),
        ({"run_root": "/srv"}, "run.root", True),
        ({"run_capabilities": ()}, "run.capabilities", True),
        ({"director": "ebpf"}, "director", False),
        ({"upgrade": "replace"}, "upgrade", False),
        ({"run_drain": Seconds(5)}, "run.drain", False),
        ({"run_start_timeout": Seconds(5)}, "run.start-timeout", False),
        ({"run_stop_timeout": Seconds(5)}, "run.stop-timeout", False),
        ({"limits_cpu": 0.5}, "limits.cpu", False),
        ({"limits_memory": 1 << 30}, "limits.memory", False),
        ({"steer_targets": ("203.0.113.8",)}, "steer.targets", False),
        ({"steer_share": 50}, "steer.share", False),
        ({"egress_allow": ()}, "egress.allow", False),
    ],
)
def test_what_a_change_needs(changes: dict[str, Any], path: str, anew: bool) -> None:
    old, new = web(), web(**changes)
    assert [change.path for change in diff(old, new)] == [path]
    assert needs_new_generation(old, new) is anew
    assert needs_new_generation(new, old) is anew


def test_a_diff_shows_both_values_as_toml() -> None:
    old, new = web(), web(steer_share=50, run_environment={"A": "1"})
    assert [str(change) for change in diff(old, new)] == [
        "steer.share: 100 -> 50",
        'run.environment.A: (none) -> "1"',
    ]
    assert [(c.path, c.new) for c in diff(None, old)] == [
        ("name", '"web"'),
        ("command", '["nginx"]'),
        ("steer.interfaces", '["wlan0"]'),
        ("steer.targets", '["203.0.113.7"]'),
    ]
    assert all(change.new == "" for change in diff(old, None))


# ---- two services ----------------------------------------------------------------------------


def claim(name: str, networks: str, ports: str = "") -> Claim:
    return Claim(
        name,
        tuple(ip_network(net) for net in networks.split()),
        tuple(Port.parse(port) for port in ports.split()),
    )


@pytest.mark.req("N15")
@pytest.mark.parametrize(
    ("a", "b", "common"),
    [
        (("203.0.113.7", "443/tcp"), ("203.0.113.7", "443/tcp"), "203.0.113.7 443/tcp"),
        (("203.0.113.7", "443/tcp"), ("203.0.113.7", "443/udp"), None),
        (("203.0.113.7", "443/tcp"), ("203.0.113.7", "80/tcp 444/tcp"), None),
        (("203.0.113.7", "443/tcp"), ("203.0.113.8", "443/tcp"), None),
        (("203.0.113.7", ""), ("203.0.113.7", "53/udp"), "203.0.113.7 53/udp"),
        (("203.0.113.7", ""), ("203.0.113.7", ""), "203.0.113.7 1-65535/tcp"),
        (("203.0.113.0/24", "80/tcp"), ("203.0.113.7", "80-90/tcp"), "203.0.113.7 80/tcp"),
        (("203.0.113.7", "80/tcp"), ("198.51.100.1 203.0.0.0/16", "80/tcp"), "203.0.113.7 80/tcp"),
        (("2001:db8::/32", "80/tcp"), ("0.0.0.0/1", "80/tcp"), None),
        (("::203.0.113.7", "80/tcp"), ("203.0.113.7", "80/tcp"), None),
        (("", ""), ("203.0.113.7", ""), None),
    ],
)
def test_overlap(a: tuple[str, str], b: tuple[str, str], common: str | None) -> None:
    for one, other in ((a, b), (b, a)):
        found = overlaps(claim("a", *one), claim("b", *other))
        assert (found and str(found)) == common


NETWORK_SETS = st.lists(
    st.builds(
        lambda a, n: ip_network((0xCB007100 + a, n), strict=False),
        st.integers(0, 255),
        st.integers(24, 32),
    ),
    max_size=6,
)


@pytest.mark.req("N15")
@given(NETWORK_SETS, NETWORK_SETS)
def test_overlap_is_what_comparing_every_pair_says(a: list[Any], b: list[Any]) -> None:
    found = overlaps(Claim("a", tuple(a)), Claim("b", tuple(b)))
    assert (found is not None) == any(x.overlaps(y) for x in a for y in b)
    if found:
        assert any(found.network.overlaps(x) for x in a)
        assert any(found.network.overlaps(y) for y in b)


@pytest.mark.req("N15")
def test_an_overlap_names_both_services() -> None:
    mine = claim("web", "203.0.113.7", "443/tcp")
    others = [claim("mail", "203.0.113.7", "25/tcp"), claim("old", "203.0.113.0/24", "")]
    (problem,) = check_against(mine, others)
    assert "web" in problem.message
    assert "old" in problem.message
    assert (problem.field, problem.value) == ("steer.targets", "203.0.113.7")
    assert check_against(mine, [mine]) == ()  # itself, being upgraded


@pytest.mark.req("C6", "N15")
def test_a_sandbox_leaves_no_choice_of_user_and_capabilities() -> None:
    def problems(**changes: Any) -> list[str]:
        return [p.field for p in check(web(**changes))]

    strict = {"run_sandbox": "strict"}
    assert problems(**strict) == problems(run_capabilities=(), **strict) == []
    assert problems(run_user="nobody", **strict) == ["run.user"]
    assert problems(run_capabilities=("kill",), **strict) == ["run.capabilities"]
    assert problems(run_user="nobody", run_capabilities=("kill",)) == []


@pytest.mark.req("C6")
def test_a_sandbox_has_limits_though_none_are_given() -> None:
    strict = web(run_sandbox="strict")
    own = Limits(memory=Bytes(2**30), processes=7, cpu=2.0)
    assert limits_in_force(web()) == Limits()
    assert limits_in_force(strict) == Limits(memory=Bytes(128 << 20), processes=128)
    assert limits_in_force(msgspec.structs.replace(strict, limits=own)) == own


# ---- files -----------------------------------------------------------------------------------


def named(name: str) -> str:
    return WEB.replace('"web"', f'"{name}"')


def test_files_and_directories(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    conf.mkdir()
    for name in ("b", "a"):
        (conf / f"{name}.toml").write_text(named(name))
    (conf / "notes.txt").write_text("not a spec")
    (conf / ".hidden.toml").write_text("not a spec")
    single = tmp_path / "single.conf"
    single.write_bytes(b"\xef\xbb\xbf" + named("single").encode())
    found = specs_from_paths([single, conf, conf / "a.toml"])  # a.toml twice: once is enough
    assert [(path.name, spec.name) for path, spec in found] == [
        ("single.conf", "single"),
        ("a.toml", "a"),
        ("b.toml", "b"),
    ]


@pytest.mark.req("N15")
def test_the_problems_of_all_files_at_once(tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{n}.toml" for n in ("one", "two", "three"))
    one.write_text(named("web"))
    two.write_text(named("web"))
    three.write_text(named("Web"))
    empty = tmp_path / "empty"
    empty.mkdir()
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"a = 1\nb = '\xe9'\n")
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (MAX_FILE + 1))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    missing = tmp_path / "missing.toml"
    paths: list[str | Path] = [one, two, three, empty, latin, large, fifo, missing, "a\0b"]
    with pytest.raises(InputError) as caught:
        specs_from_paths(paths)
    problems = caught.value.problems
    assert [problem.field for problem in problems] == [
        f"{two}: name",
        f"{three}: name",
        str(empty),
        f"{latin}: line 2",
        str(large),
        str(fifo),
        str(missing),
        "a\0b",
    ]
    assert str(one) in problems[0].message
    assert all(problem.fix for problem in problems)


def test_the_example_of_the_documentation_is_a_spec() -> None:
    from viscum.spec.doc import EXAMPLE

    assert from_toml(EXAMPLE).name == "plates"
    assert tomllib.loads(to_toml(from_toml(EXAMPLE)))["run"]["user"] == "plates"
