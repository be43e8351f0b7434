"""What a service may reach (N11): its own origin, the Internet, and nothing else but by leave."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.net import (
    PORT,
    apply,
    ask,
    connect,
    ok,
    peer_command,
    run,
    start_peer,
    who,
    who_udp,
)
from e2e.servers import body, cloud_web
from support import need_program, wait_until
from viscum.lab import CLOUD4, CLOUD6, Lab
from viscum.lab.plan import AP_LAN4, AP_LAN6, AP_WAN4, AP_WAN6, CLOUDS4, CLOUDS6, ue4, ue6

DIAL = str(Path(__file__).with_name("dial.py"))
TARGETS = (CLOUD4, CLOUD6)
BOTH = pytest.mark.parametrize("version", [4, 6], ids=["v4", "v6"])
NOT_REACHED = ("TIMEDOUT", "ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EACCES")


def of(version: int, pair: tuple[str, str]) -> str:
    return pair[version == 6]


def dials(lab: Lab, *asked: tuple[str, str], source: str = "-", sport: int = 0, port: int = PORT,
          service: str = "svc") -> list[str]:  # fmt: skip
    """For each (protocol, address): the first word of what the service is answered, a peer's name
    or an error."""
    words = [f"{proto},{source},{sport},{address},{port}" for proto, address in asked]
    done = lab.viscum("exec", service, "--", sys.executable, "-I", "-S", DIAL, *words)
    return [line.split()[0] for line in ok(done).splitlines()]


def dial(lab: Lab, address: str, proto: str = "tcp", **options: Any) -> str:
    return dials(lab, (proto, address), **options)[0]


def edge(lab: Lab, *options: str, targets: tuple[str, ...] = TARGETS, name: str = "svc") -> str:
    return run(lab, name, targets, "--port", f"{PORT}/tcp", "--port", f"{PORT}/udp", *options,
               "--", *peer_command(name))  # fmt: skip


@pytest.fixture
def world(lab: Lab) -> Lab:
    """A peer in the cloud, on the client and on the router, each on the same port."""
    for role in ("cloud", "ue", "ap"):
        start_peer(lab, role, role)
    return lab


@pytest.mark.req("N11")
def test_the_origin_and_the_internet_and_nothing_else(world: Lab) -> None:
    edge(world)
    places = {
        "the origin at its own address": TARGETS,
        "the Internet": (CLOUDS4[1], CLOUDS6[1]),
        "a client": (ue4(), ue6()),
        "the router in the LAN": (AP_LAN4, AP_LAN6),
        "the router in the WAN": (AP_WAN4, AP_WAN6),
    }
    assert [who(world, target) for target in TARGETS] == ["svc", "svc"]
    assert reached(world, places) == {"the origin at its own address", "the Internet"}


Places = dict[str, tuple[str, str]]


def reached(lab: Lab, places: Places, **options: Any) -> set[str]:
    """Of places with an IPv4 and an IPv6 address each: those reached by both protocols and both
    versions. None may be reached by some only."""
    asked = {
        name: [(proto, address) for proto in ("tcp", "udp") for address in pair]
        for name, pair in places.items()
    }
    answers = iter(dials(lab, *(a for each in asked.values() for a in each), **options))
    found = set()
    for name, each in asked.items():
        said = [next(answers) for _ in each]
        shut = [word in NOT_REACHED for word in said]
        assert all(shut) or not any(shut), f"{name}: {dict(zip(each, said, strict=True))}"
        if not any(shut):
            found.add(name)
    return found


@pytest.mark.req("N11")
@BOTH
@pytest.mark.parametrize("firewall", ["bypass", "honour"])
def test_the_targets_address_is_no_way_to_clients(world: Lab, version: int, firewall: str) -> None:
    """While a client is being served: from any port of it, and from the very port that is steered
    (which nothing listens on, so that it can be bound)."""
    run(world, "svc", TARGETS, "--port", f"{PORT}/tcp", "--port", "53/udp", "--port", "53/tcp",
        "--port", f"{PORT}/udp", "--firewall", firewall, "--", *peer_command("svc"))  # fmt: skip
    target, client = of(version, TARGETS), of(version, (ue4(), ue6()))
    wait_until(lambda: who_udp(world, target) == "svc", "the edge's UDP", 20)
    with connect(world, target) as tcp:
        assert ask(tcp)[0] == "svc"
        for sport in (0, 53):
            said = dials(world, ("tcp", client), ("udp", client), source=target, sport=sport)
            assert [word for word in said if word not in NOT_REACHED] == []
        assert ask(tcp)[0] == "svc"


@pytest.mark.req("N11")
@BOTH
def test_other_services_are_out_of_reach(world: Lab, version: int) -> None:
    edge(world)
    edge(world, targets=(CLOUDS4[2], CLOUDS6[2]), name="other")
    target = of(version, (CLOUDS4[2], CLOUDS6[2]))
    assert who(world, target) == "other"
    address = own_address(world, "other", version)
    said = dials(world, ("tcp", target), ("tcp", address), ("udp", address))
    assert said[0] == "cloud"  # the other's origin, not the other
    assert [word for word in said[1:] if word not in NOT_REACHED] == []


def own_address(lab: Lab, service: str, version: int) -> str:
    words = ["ip", f"-{version}", "-j", "addr", "show", "dev", "eth0", "scope", "global"]
    (link,) = json.loads(ok(lab.viscum("exec", service, "--", *words)))
    return str(link["addr_info"][0]["local"])


@pytest.mark.req("N11")
@BOTH
def test_spoofed_sources_do_not_leave(world: Lab, version: int) -> None:
    """As a server with net-admin could: any address on its own lo."""
    edge(world)
    source = of(version, ("203.0.113.99", "2001:db8:99::99"))
    length = of(version, ("32", "128"))
    ok(world.viscum("exec", "svc", "--", "ip", "addr", "add", f"{source}/{length}", "dev", "lo"))
    # there is a way back, so that only the egress rules stand in between
    back = ["ip", "route", "add", f"{source}/{length}", "via"]
    ok(world.run("cloud", [*back, of(version, (AP_WAN4, AP_WAN6))]))
    ok(world.run("ap", [*back, own_address(world, "svc", version)]))
    cloud = of(version, (CLOUDS4[1], CLOUDS6[1]))
    said = dials(world, ("tcp", cloud), ("udp", cloud), source=source)
    assert [word for word in said if word not in NOT_REACHED] == []
    assert dial(world, cloud) == "cloud"


@pytest.mark.req("N11")
@BOTH
def test_a_lan_address_that_comes_later_is_out_of_reach(world: Lab, version: int) -> None:
    edge(world)
    router, client = (
        of(version, ("10.66.0.1/24", "2001:db8:66::1/64")),
        of(version, ("10.66.0.2/24", "2001:db8:66::2/64")),
    )
    ok(world.run("ap", ["ip", "addr", "add", router, "dev", "wlan0"]))
    nodad = ["nodad"] if version == 6 else []
    ok(world.run("ue", ["ip", "addr", "add", client, "dev", "eth0", *nodad]))
    address = client.partition("/")[0]
    world.popen("ue", peer_command("late", PORT + 1, (address,)))
    wait_until(lambda: who(world, address, "ap", PORT + 1) == "late", "the client's peer")
    said = dials(world, ("tcp", address), ("udp", address), port=PORT + 1)
    assert [word for word in said if word not in NOT_REACHED] == []


# ---- allow -------------------------------------------------------------------------------------

PLACES: Places = {
    "internet": (CLOUDS4[1], CLOUDS6[1]),
    "origin": TARGETS,
    "lan": (ue4(), ue6()),
    "router": (AP_LAN4, AP_LAN6),
    "router's WAN": (AP_WAN4, AP_WAN6),
}
ROUTER = {"router", "router's WAN"}


@pytest.mark.req("N11")
def test_allow(world: Lab) -> None:
    """Every rule lets through what it says and nothing else; changed in place."""
    one, port = PLACES["internet"], f"{PORT}/%s"
    cases: list[tuple[list[str], set[str]]] = [
        (["lan"], {"lan"}),
        (["router"], ROUTER),
        (["internet", "lan"], {"internet", "origin", "lan"}),
        (list(one), {"internet"}),
        ([f"{a} {port % p}" for a in one for p in ("tcp", "udp")], {"internet"}),
        ([f"{a} {PORT + 1}/{p}" for a in one for p in ("tcp", "udp")], set()),
        ([f"internet {port % p}" for p in ("tcp", "udp")], {"internet", "origin"}),
        ([f"lan {PORT + 1}/tcp", f"router {PORT + 1}/udp"], set()),
        ([f"{to} {port % p}" for to in ("router", "lan") for p in ("tcp", "udp")],
         {"lan", *ROUTER}),
        (["198.18.0.0/24", "2001:db8:c::/64"], {"internet", "origin"}),
        (["10.1.0.0/24", "2001:db8:1::/64"], {"lan"}),
        ([], set()),
    ]  # fmt: skip
    for allow, places in cases:
        apply(
            world,
            f"""
name = "svc"
command = {json.dumps(peer_command("svc"))}
[steer]
interfaces = ["wlan0"]
targets = {json.dumps(TARGETS)}
ports = ["{PORT}/tcp"]
[egress]
allow = {json.dumps(allow)}
""",
        )
        assert (allow, reached(world, PLACES)) == (allow, places)
        assert [who(world, target) for target in TARGETS] == ["svc", "svc"]


@pytest.mark.req("N11")
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_port_is_of_one_protocol(world: Lab, proto: str) -> None:
    edge(world, "--allow", f"internet {PORT}/{proto}")
    said = dials(world, *(("tcp", t) for t in TARGETS), *(("udp", t) for t in TARGETS))
    assert [word == "cloud" for word in said] == [proto == "tcp"] * 2 + [proto == "udp"] * 2


@pytest.mark.req("N11")
@BOTH
def test_networks_behind_the_lan_are_lan(world: Lab, version: int) -> None:
    """A network that the router reaches by an inner router is not the Internet."""
    inner = of(version, ("10.2.0.0/24", "2001:db8:2::/64"))
    address = of(version, ("10.2.0.2/32", "2001:db8:2::2/128"))
    ok(world.run("ap", ["ip", "route", "add", inner, "via", of(version, (ue4(), ue6()))]))
    ok(world.run("ue", ["ip", "addr", "add", address, "dev", "lo"]))
    address = address.split("/")[0]
    world.popen("ue", peer_command("inner", PORT + 1, (address,)))
    wait_until(lambda: who(world, address, "ap", PORT + 1) == "inner", "the inner peer")
    edge(world)
    assert dial(world, address, port=PORT + 1) in NOT_REACHED


# ---- the operator's own policy -----------------------------------------------------------------


def printed_commands(text: str) -> list[list[str]]:
    """What `run` and `doctor` tell the operator to type."""
    return [
        shlex.split(command) for command in re.findall(r"nft (?:insert|add) rule[^;(\n]*", text)
    ]


@pytest.mark.req("N11", "N18")
@pytest.mark.parametrize("lab", [{"firewall": "strict"}], indirect=True)
@pytest.mark.parametrize("says", ["run", "doctor"])
def test_a_forward_policy_of_drop(world: Lab, says: str) -> None:
    """Nothing is changed silently; exactly the printed commands make egress work."""
    before = world.run("ap", ["nft", "list", "table", "inet", "router"]).stdout
    noted = edge(world)
    text = noted if says == "run" else world.viscum("doctor").stdout
    assert "inet router forward" in text
    assert world.run("ap", ["nft", "list", "table", "inet", "router"]).stdout == before
    assert [who(world, target) for target in TARGETS] == ["svc", "svc"]
    assert reached(world, PLACES) == set()
    commands = printed_commands(text)
    assert commands
    for command in commands:
        ok(world.run("ap", command))
    assert reached(world, PLACES) == {"internet", "origin"}
    # done: no longer a remark
    assert not printed_commands(world.viscum("doctor").stdout)


# ---- a caching proxy ---------------------------------------------------------------------------


@pytest.fixture
def directory() -> Iterator[Path]:
    """For servers' files: /tmp and /run are private to services."""
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/var/tmp") as path:
        yield Path(path)


@pytest.mark.req("N11")
@BOTH
def test_a_caching_proxy_of_its_own_origin(lab: Lab, version: int, directory: Path) -> None:
    """nginx fetches from the address it stands in for, and answers from its cache when the
    origin is gone: no loop."""
    need_program("nginx", "curl")
    cloud_web(lab)
    target = of(version, TARGETS)
    url = f"[{target}]" if version == 6 else target
    conf = directory / "proxy.conf"
    conf.write_text(f"""
daemon off; error_log stderr; pid /tmp/nginx.pid; worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off; keepalive_timeout 0;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p;
  fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  proxy_cache_path /tmp/cache keys_zone=c:1m;
  server {{
    listen 80; listen [::]:80;
    location / {{
      proxy_pass http://{url}; proxy_cache c; proxy_cache_valid 200 1h;
      add_header X-Cache $upstream_cache_status always;
    }}
  }}
}}
""")
    run(lab, "svc", TARGETS, "--port", "80/tcp", "--", "nginx", "-c", str(conf))

    def fetch() -> str:
        words = ["curl", "-sSi", "--noproxy", "*", "-m", "5", f"http://{url}/"]
        return ok(lab.run("ue", words))

    first, second = fetch(), fetch()
    assert "X-Cache: MISS" in first
    assert "X-Cache: HIT" in second
    assert first.endswith("cloud")
    assert second.endswith("cloud")
    ok(lab.viscum("disable", "svc"))
    assert "X-Cache" not in fetch()
    assert body(lab, target) == "cloud"
