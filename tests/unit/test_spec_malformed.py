"""Every way to get a spec wrong: one row, one problem, at the exact place, with the fix."""

from __future__ import annotations

import pytest

from viscum.errors import InputError, Problem
from viscum.spec import from_mapping, from_toml, to_mapping
from viscum.spec.read import BadSpec

pytestmark = pytest.mark.req("N4", "N15")

BASE = {
    "name": '"web"',
    "command": '["/usr/sbin/nginx", "-g", "daemon off;"]',
    "steer.interfaces": '["wlan0"]',
    "steer.targets": '["203.0.113.7"]',
    "steer.ports": '["443/tcp"]',
}


def toml(changes: dict[str, str | None]) -> str:
    """BASE with keys (dotted paths) set to TOML literals, or removed (None)."""
    tables: dict[str, list[str]] = {"": []}
    for path, literal in (BASE | changes).items():
        table, _, key = path.rpartition(".")
        if literal is not None:
            tables.setdefault(table, []).append(f"{key} = {literal}")
    parts = [f"[{table}]\n" * bool(table) + "\n".join(lines) for table, lines in tables.items()]
    return "\n".join(parts) + "\n"


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        from_toml(text)
    assert caught.value.exit_code == 2
    return caught.value.problems


def test_base_is_right() -> None:
    assert from_toml(toml({})).name == "web"


ROWS = [
    # key, literal, where the problem is, what the fix says
    ("name", None, "name", 'add name = "plates"'),
    ("name", '""', "name", "1 to 40"),
    ("name", '"Web"', "name", "a-z"),
    ("name", '"-web"', "name", "beginning with"),
    ("name", '"web\\n"', "name", "a-z"),
    ("name", '"../etc"', "name", "a-z"),
    ("name", '"a/b"', "name", "a-z"),
    ("name", '"ünder"', "name", "a-z"),
    ("name", '"' + "a" * 41 + '"', "name", "1 to 40"),
    ("name", "7", "name", 'write "7"'),
    ("name", "true", "name", 'write "true"'),
    ("command", None, "command", "add command = ["),
    ("command", "[]", "command", "at least 1"),
    ("command", "\"nginx -g 'daemon off;'\"", "command", '["nginx", "-g", "daemon off;"]'),
    ("command", '["./server"]', "command[0]", "absolute path"),
    ("command", '["bin/server"]', "command[0]", "absolute path"),
    ("command", '["/srv/"]', "command[0]", "name the program"),
    ("command", '[""]', "command[0]", "name the program"),
    ("command", '["/bin/x", "a\\u0000b"]', "command[1]", "remove it"),
    ("command", '["/bin/x", 80]', "command[1]", 'write "80"'),
    ("command", '["/bin/x", ["y"]]', "command[1]", "quotes"),
    ("instances", "0", "instances", "use 1 or more"),
    ("instances", "9", "instances", "use 8 or less"),
    ("instances", "true", "instances", "whole number"),
    ("instances", "1.5", "instances", "whole number"),
    ("instances", '"2"', "instances", "write 2"),
    ("director", '"eBPF!"', "director", "a-z"),
    ("upgrade", '"rolling"', "upgrade", '"beside" or "replace"'),
    ("upgrade", "1", "upgrade", '"beside" or "replace"'),
    ("comand", '["x"]', "comand", "did you mean command?"),
    ("port", '"443/tcp"', "port", "write ports in [steer]"),
    ("targets", "[]", "targets", "write targets in [steer]"),
    ("steer.user", '"x"', "steer.user", "write user in [run]"),
    ("steer.instances", "2", "steer.instances", "at the top, before any [table]"),
    ("steer.share_by", '"flow"', "steer.share_by", "write share-by"),
    ("steer.tragets", "[]", "steer.tragets", "did you mean targets"),
    ("steer.zzz", "1", "steer.zzz", "known here: interfaces"),
    ('steer."a b"', "1", 'steer."a b"', "known here"),
    ("steer.interfaces", None, "steer.interfaces", "add interfaces = ["),
    ("steer.interfaces", "[]", "steer.interfaces", "at least 1"),
    ("steer.interfaces", '"wlan0"', "steer.interfaces", '["wlan0"]'),
    ("steer.interfaces", '["wlan0", "wlan0"]', "steer.interfaces[1]", "remove one"),
    ("steer.interfaces", '["abcdefghijklmnop"]', "steer.interfaces[0]", "ip link"),
    ("steer.interfaces", '["éééééééé"]', "steer.interfaces[0]", "ip link"),
    ("steer.interfaces", '["a/b"]', "steer.interfaces[0]", "ip link"),
    ("steer.interfaces", '["eth0:1"]', "steer.interfaces[0]", "ip link"),
    ("steer.interfaces", '["wlan 0"]', "steer.interfaces[0]", "interface name"),
    ("steer.interfaces", '[".."]', "steer.interfaces[0]", "ip link"),
    ("steer.interfaces", '["-o"]', "steer.interfaces[0]", "ip link"),
    ("steer.interfaces", '[""]', "steer.interfaces[0]", "wlan0"),
    (
        "steer.interfaces",
        '["a", "b", "c", "d", "e", "f", "g", "h", "i"]',
        "steer.interfaces",
        "at most 8",
    ),
    ("steer.targets", None, "steer.targets", "add targets = ["),
    ("steer.targets", "[]", "steer.targets", "at least 1"),
    ("steer.targets", '["127.0.0.1"]', "steer.targets[0]", "public address"),
    ("steer.targets", '["::1"]', "steer.targets[0]", "public address"),
    ("steer.targets", '["localhost"]', "steer.targets[0]", "public name"),
    ("steer.targets", '["0.0.0.0"]', "steer.targets[0]", "public address"),
    ("steer.targets", '["0.0.0.0/0"]', "steer.targets[0]", "public address"),
    ("steer.targets", '["::"]', "steer.targets[0]", "public address"),
    ("steer.targets", '["224.0.0.1"]', "steer.targets[0]", "public address"),
    ("steer.targets", '["ff02::1"]', "steer.targets[0]", "public address"),
    ("steer.targets", '["169.254.169.254"]', "steer.targets[0]", "public address"),
    ("steer.targets", '["fe80::1"]', "steer.targets[0]", "public address"),
    ("steer.targets", '["fe80::1%eth0"]', "steer.targets[0]", "write fe80::1 without"),
    ("steer.targets", '["255.255.255.255"]', "steer.targets[0]", "public address"),
    ("steer.targets", '["203.0.113.7/24"]', "steer.targets[0]", "write 203.0.113.0/24"),
    ("steer.targets", '["::ffff:203.0.113.7"]', "steer.targets[0]", "write 203.0.113.7"),
    ("steer.targets", '["203.0.113.256"]', "steer.targets[0]", "for example"),
    ("steer.targets", '["203.0.113"]', "steer.targets[0]", "for example"),
    ("steer.targets", '["203.0.113.0/33"]', "steer.targets[0]", "for example"),
    ("steer.targets", '["203.0.113.0/-1"]', "steer.targets[0]", "for example"),
    ("steer.targets", '["https://a.example/x"]', "steer.targets[0]", "only the name: a.example"),
    ("steer.targets", '["a.example:443"]', "steer.targets[0]", "steer.ports"),
    ("steer.targets", '["münchen.example"]', "steer.targets[0]", "xn--mnchen-3ya.example"),
    ("steer.targets", '["a..example"]', "steer.targets[0]", "cloud.example.com"),
    ("steer.targets", '["-a.example"]', "steer.targets[0]", "cloud.example.com"),
    ("steer.targets", '["a_b.example"]', "steer.targets[0]", "cloud.example.com"),
    ("steer.targets", '["' + "a" * 64 + '.example"]', "steer.targets[0]", "cloud.example.com"),
    ("steer.targets", '["' + "a." * 130 + 'example"]', "steer.targets[0]", "cloud.example.com"),
    ("steer.targets", '["a.example", "A.example."]', "steer.targets[1]", "remove one"),
    ("steer.targets", '["203.0.113.7", "203.0.113.7/32"]', "steer.targets[1]", "remove one"),
    ("steer.targets", '["203.0.113.7", "203.0.113.0/24"]', "steer.targets[1]", "smaller"),
    ("steer.targets", '["2001:db8::/32", "2001:db8::7"]', "steer.targets[1]", "smaller"),
    ("steer.ports", "443", "steer.ports", "write it in [ ]"),
    ("steer.ports", "[443]", "steer.ports[0]", 'write "443/tcp" or "443/udp"'),
    ("steer.ports", '["443"]', "steer.ports[0]", 'write "443/tcp" or "443/udp"'),
    ("steer.ports", '["80/tcp", "443/sctp"]', "steer.ports[1]", '"443/tcp"'),
    ("steer.ports", '["https/tcp"]', "steer.ports[0]", '"443/tcp"'),
    ("steer.ports", '["0/tcp"]', "steer.ports[0]", '"443/tcp"'),
    ("steer.ports", '["65536/tcp"]', "steer.ports[0]", '"443/tcp"'),
    ("steer.ports", '["8010-8000/tcp"]', "steer.ports[0]", '"8000-8010/tcp"'),
    ("steer.ports", '["1-2-3/tcp"]', "steer.ports[0]", '"443/tcp"'),
    ("steer.ports", '["٤٤٣/tcp"]', "steer.ports[0]", '"443/tcp"'),
    ("steer.ports", '["443/tcp", "tcp/443"]', "steer.ports[1]", "remove one"),
    ("steer.ports", '["8000-8010/tcp", "8005/tcp"]', "steer.ports[1]", "each port once"),
    ("steer.clients", '["10.1.2.3/16"]', "steer.clients[0]", "write 10.1.0.0/16, or 10.1.2.3"),
    ("steer.clients", '["phones"]', "steer.clients[0]", "10.1.0.0/16"),
    ("steer.share", "101", "steer.share", "use 100 or less"),
    ("steer.share", "-1", "steer.share", "use 0 or more"),
    ("steer.share", '"50%"', "steer.share", "write 50"),
    ("steer.share-by", '"user"', "steer.share-by", '"client" or "flow"'),
    ("steer.when-down", '"reject"', "steer.when-down", '"cloud" or "drop"'),
    ("steer.firewall", '"honor"', "steer.firewall", '"bypass" or "honour"'),
    ("steer.ping", "true", "steer.ping", '"cloud" or "edge"'),
    ("steer.udp", '"60s"', "steer.udp", "write [steer.udp]"),
    ("steer.udp.idle", '"0"', "steer.udp.idle", "raise it"),
    ("steer.udp.idle", '"1 minute"', "steer.udp.idle", '"10s"'),
    ("steer.udp.open", '"quic"', "steer.udp.open", '"quic-initial"'),
    ("steer.udp.arm", "-5", "steer.udp.arm", '"10s"'),
    ("run.user", '"a:b:c"', "run.user", "www-data"),
    ("run.user", "1000", "run.user", 'write "1000"'),
    ("run.user", '"4294967295"', "run.user", "below 4294967295"),
    ("run.user", '"-root"', "run.user", "getent"),
    ("run.environment", '["A=1"]', "run.environment", "write [run.environment]"),
    ("run.environment.A", "1", "run.environment.A", 'write "1"'),
    ("run.environment.A", '"x\\u0000y"', "run.environment.A", "remove it"),
    ('run.environment."A=B"', '"x"', 'run.environment."A=B"', "without '='"),
    ('run.environment.""', '"x"', 'run.environment.""', "RUST_LOG"),
    ("run.working-directory", '"var/lib"', "run.working-directory", "from / on"),
    ("run.working-directory", '"/a/../b"', "run.working-directory", "the path it leads to"),
    ("run.start-timeout", "0", "run.start-timeout", "raise it"),
    ("run.restart-delay", '"1ms"', "run.restart-delay", "100ms"),
    ("run.restart-max-delay", '"99ms"', "run.restart-max-delay", "100ms"),
    ("run.start-timeout", "inf", "run.start-timeout", '"10s"'),
    ("run.start-timeout", "nan", "run.start-timeout", '"10s"'),
    ("run.stop-timeout", '"0.0001s"', "run.stop-timeout", '"500ms"'),
    ("run.drain", '"400d"', "run.drain", '"10s"'),
    ("run.drain", '"1m1h"', "run.drain", '"1h30m"'),
    ("run.drain", "[]", "run.drain", '"10s"'),
    ("run.root", '"srv"', "run.root", "from / on"),
    ("run.root", '"/"', "run.root", "leave the key out"),
    ("run.capabilities", '["net-bind"]', "run.capabilities[0]", "did you mean net-bind-service"),
    ("run.capabilities", '["all"]', "run.capabilities[0]", "see man capabilities"),
    ("limits.cpu", "0", "limits.cpu", "use 0.01 or more"),
    ("limits.cpu", "nan", "limits.cpu", "write a number"),
    ("limits.cpu", '"0.5"', "limits.cpu", "a number"),
    ("limits.memory", '"256MB"', "limits.memory", '"256M"'),
    ("limits.memory", '"1K"', "limits.memory", "use 1M or more"),
    ("limits.memory", "1.5", "limits.memory", '"256M"'),
    ("limits.processes", "0", "limits.processes", "use 1 or more"),
    ("limits.log", '"0"', "limits.log", "use 4K or more"),
    ("egress.allow", '"internet"', "egress.allow", '["internet"]'),
    ("egress.allow", '["intranet"]', "egress.allow[0]", "did you mean internet"),
    ("egress.allow", '["10.0.0.5:53"]', "egress.allow[0]", "10.1.0.0/16"),
    ("egress.allow", '["10.0.0.5 53"]', "egress.allow[0]", 'write "53/tcp" or "53/udp"'),
    ("egress.allow", '["10.0.0.1/8"]', "egress.allow[0]", "write 10.0.0.0/8"),
    ("egress.allow", '[""]', "egress.allow[0]", '"internet"'),
]


@pytest.mark.parametrize(
    ("key", "literal", "field", "fix"), ROWS, ids=[f"{row[0]}={row[1]}"[:60] for row in ROWS]
)
def test_one_mistake(key: str, literal: str | None, field: str, fix: str) -> None:
    text = toml({key: literal})
    (problem,) = problems_of(text)
    assert problem.field == field
    assert fix in problem.fix
    assert problem.message


def test_replace_cannot_drain_for_ever() -> None:
    (problem,) = problems_of(toml({"upgrade": '"replace"', "run.drain": '"0"'}))
    assert problem.field == "run.drain"
    assert '"60s"' in problem.fix


def test_every_overlap_is_reported_where_it_comes_later() -> None:
    ports = (
        '["8001/tcp", "8000-8010/tcp", "8005-8006/tcp", "8010-8020/tcp", "8005/udp", "8001/tcp"]'
    )
    assert {(p.field, p.value) for p in problems_of(toml({"steer.ports": ports}))} == {
        ("steer.ports[1]", "8000-8010/tcp"),
        ("steer.ports[2]", "8005-8006/tcp"),
        ("steer.ports[3]", "8010-8020/tcp"),
        ("steer.ports[5]", "8001/tcp"),
    }


def test_all_problems_at_once() -> None:
    """Also the checks across fields run on what could be read."""
    text = toml(
        {
            "nmae": '"x"',
            "instances": "0",
            "steer.targets": '["nope:443", "203.0.113.7", "203.0.113.0/24"]',
            "steer.ports": '["443", "80/tcp", "70-90/tcp"]',
            "steer.share": '"half"',
            "run.user": "0",
            "limits.memory": '"much"',
        }
    )
    assert {problem.field for problem in problems_of(text)} == {
        "nmae",
        "instances",
        "steer.targets[0]",
        "steer.targets[2]",
        "steer.ports[0]",
        "steer.ports[2]",
        "steer.share",
        "run.user",
        "limits.memory",
    }


def test_missing_tables() -> None:
    assert [p.field for p in problems_of("")] == ["name", "command", "steer"]
    assert "[steer] with interfaces and targets" in problems_of("")[2].fix


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('name = "web"\nports = [443/tcp]\n', "web.toml: line 2, column 13"),
        ("name = ", "web.toml: "),
        ("a = [", "web.toml: the end"),
        ('name = "a"\nname = "b"\n', "web.toml: line 2"),
        ("a = " + "[" * 5000, "web.toml"),
        ("a = " + "9" * 5000, "web.toml"),
    ],
)
def test_syntax_error_says_where(text: str, where: str) -> None:
    with pytest.raises(InputError) as caught:
        from_toml(text, source="web.toml")
    (problem,) = caught.value.problems
    assert problem.field.startswith(where)
    assert problem.fix


def test_source_and_flags_name_the_field_in_the_callers_words() -> None:
    with pytest.raises(InputError) as caught:
        from_toml(toml({"steer.ports": '["443"]'}), source="web.toml")
    assert caught.value.problems[0].field == "web.toml: steer.ports[0]"

    given = {
        "name": "web",
        "command": ["x"],
        "steer": {"interfaces": ["a"], "targets": ["203.0.113.7"], "ports": ["443"]},
    }
    with pytest.raises(InputError) as caught:
        from_mapping(given, flags={"steer.ports": "--port"})
    (problem,) = caught.value.problems
    assert (problem.field, problem.value) == ("--port", "443")


def test_message_shows_field_value_and_fix_without_control_characters() -> None:
    (problem,) = problems_of(toml({"name": '"\\u001b[31mweb"'}))
    assert "\x1b" not in str(problem)
    assert "a-z" in str(problem)
    (problem,) = problems_of(toml({'"\\u001b[2J"': "1"}))
    assert "\x1b" not in str(problem)


def test_what_can_be_read_of_it_is_a_spec() -> None:
    """The box is asked about the rest as well, to tell all problems at once."""
    with pytest.raises(BadSpec) as caught:
        from_toml(toml({}) + '[run]\nenvironment = {"A=B" = "x", C = [], GOOD = "y"}\n')
    assert len(caught.value.problems) == 2
    partial = caught.value.partial
    assert partial.run.environment == {"GOOD": "y"}
    assert from_mapping(to_mapping(partial)) == partial
