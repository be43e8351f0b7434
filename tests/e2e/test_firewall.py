"""Behind the operator's firewall (N12): past it by default, through it with `honour`."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.net import (
    PORT,
    TIMEOUT,
    apply,
    ask,
    connect,
    download,
    flow,
    ok,
    peer_command,
    run,
    set_sysctl,
    sock,
    start_peer,
    upload,
    who,
    who_udp,
)
from support import wait_until
from viscum.kernel.process import Process
from viscum.lab import CLOUD4, CLOUD6, Lab
from viscum.lab.plan import AP_WAN4, ue4, ue6

TARGETS = (CLOUD4, CLOUD6)
VISCUM = str(Path(sys.executable).with_name("viscum"))
CLIENTS = dict(zip(TARGETS, (ue4(), ue6()), strict=True))
EACH = pytest.mark.parametrize("target", TARGETS, ids=["v4", "v6"])
MODES = pytest.mark.parametrize("mode", ["bypass", "honour"])


def edge(lab: Lab, mode: str, *options: str, name: str = "edge") -> str:
    ports = ("--port", f"{PORT}/tcp", "--port", f"{PORT}/udp")
    noted = run(lab, "svc", TARGETS, *ports, "--firewall", mode, *options, "--",
                *peer_command(name))  # fmt: skip
    if lab.settings.firewall == "strict" and "--replace" not in options:
        obey(lab, noted)
    return noted


def obey(lab: Lab, noted: str) -> None:
    """Types what `run` says the operator should."""
    for command in re.findall(r"nft (?:insert|add) rule[^;(\n]*", noted):
        ok(lab.run("ap", shlex.split(command)))


def operator(lab: Lab, rule: str, verb: str = "insert") -> None:
    ok(lab.run("ap", shlex.split(f"nft {verb} rule inet router forward {rule}")))


def edge_udp(lab: Lab, target: str) -> None:
    """Until new UDP flows are the edge's (those of before may be the cloud's for a while)."""
    wait_until(lambda: who_udp(lab, target) == "edge", "UDP at the edge", 20)


def kill_server(lab: Lab) -> None:
    """And wait until it is gone."""
    service = json.loads(ok(lab.viscum("status", "svc", "--json")))
    pid = service["generations"][0]["instances"][0]["pid"]
    with Process(pid) as process:
        process.send(signal.SIGKILL)
        assert process.wait(TIMEOUT)


@pytest.fixture(params=["loose", "strict"], ids=["rp-loose", "rp-strict"])
def world(request: pytest.FixtureRequest, lab: Lab) -> Lab:
    """With and without strict reverse-path filtering on every interface of the router."""
    if request.param == "strict":
        for link in ("all", "default", "wlan0", "wan0"):
            set_sysctl(lab, "ap", **{f"net__ipv4__conf__{link}__rp_filter": "1"})
    start_peer(lab)
    return lab


FIREWALLS = pytest.mark.parametrize(
    "lab", [{"firewall": "router"}, {"firewall": "strict"}], indirect=True, ids=["router", "strict"]
)


@pytest.mark.req("N12", "N8", "N10")
@FIREWALLS
@MODES
def test_a_whole_life_behind_it(world: Lab, mode: str) -> None:
    """Both protocols and versions: served, upgraded under open connections, dead, taken away."""
    set_sysctl(world, "ap", net__netfilter__nf_conntrack_tcp_loose="0")
    assert [who(world, t) for t in TARGETS] == ["cloud", "cloud"]
    before = [connect(world, t) for t in TARGETS]
    assert [ask(c)[0] for c in before] == ["cloud", "cloud"]
    edge(world, mode)
    for target in TARGETS:
        assert who(world, target) == "edge"
        with connect(world, target) as conn:
            assert upload(conn, 3 << 20) == "edge"
        with connect(world, target) as conn:
            assert download(conn, 3 << 20) == "edge"
        edge_udp(world, target)
    assert [ask(c)[0] for c in before] == ["cloud", "cloud"]

    opened = [connect(world, t) for t in TARGETS]
    flows = [flow(world, t) for t in TARGETS]
    assert [ask(c)[0] for c in (*opened, *flows)] == ["edge"] * 4
    ok(world.viscum("disable", "svc"))
    assert [who(world, t) for t in TARGETS] == ["cloud", "cloud"]
    assert [ask(c)[0] for c in (*opened, *flows)] == ["edge"] * 4
    ok(world.viscum("enable", "svc"))
    assert [who(world, t) for t in TARGETS] == ["edge", "edge"]

    kill_server(world)
    assert [who(world, t) for t in TARGETS] == ["cloud", "cloud"]
    assert [ask(f)[0] for f in flows] == ["cloud", "cloud"]
    ok(world.viscum("rm", "--now", "svc"))
    assert [ask(c)[0] for c in before] == ["cloud", "cloud"]
    for each in (*before, *opened, *flows):
        each.close()


@pytest.mark.req("N12", "N8")
@FIREWALLS
@MODES
def test_an_upgrade_behind_it(lab: Lab, mode: str) -> None:
    """Open connections stay with the old generation until it ends; new ones go to the new."""
    start_peer(lab)
    edge(lab, mode)
    opened = [connect(lab, t) for t in TARGETS]
    assert [ask(c)[0] for c in opened] == ["edge", "edge"]
    options = ("--firewall", mode, "--replace", "--port", f"{PORT}/tcp", "--port", f"{PORT}/udp")
    words = [w for t in TARGETS for w in ("--target", t)]
    upgrade = lab.popen(
        "ap",
        [VISCUM, "run", "--name", "svc", "--on", "wlan0", *words, *options, "--",
         *peer_command("new")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: who(lab, CLOUD4) == "new", "the new generation")
    assert who(lab, CLOUD6) == "new"
    assert [ask(c)[0] for c in opened] == ["edge", "edge"]
    for conn in opened:
        conn.close()
    _, noted = upgrade.communicate(timeout=60)
    assert upgrade.returncode == 0, noted
    assert [who(lab, t) for t in TARGETS] == ["new", "new"]


# ---- what honour is for ------------------------------------------------------------------------


@pytest.mark.req("N12")
@FIREWALLS
@EACH
def test_a_client_that_the_operator_drops(lab: Lab, target: str) -> None:
    """Not served under `honour`, and the same client is under `bypass`: both as documented."""
    start_peer(lab)
    version = "ip6" if ":" in target else "ip"
    edge(lab, "honour")
    operator(lab, f"{version} saddr {CLIENTS[target]} drop")
    other = next(t for t in TARGETS if t != target)
    with sock(lab, "ue", target, timeout=1.5) as conn:
        with pytest.raises(TimeoutError):
            conn.connect((target, PORT))
    with flow(lab, target, timeout=1.0) as udp, pytest.raises(TimeoutError):
        ask(udp)
    assert who(lab, other) == "edge"

    spec = ok(lab.viscum("export", "svc")).replace('firewall = "honour"', 'firewall = "bypass"')
    apply(lab, spec)
    assert who(lab, target) == "edge"


@pytest.mark.req("N12")
@FIREWALLS
@EACH
def test_honoured_traffic_is_counted(lab: Lab, target: str) -> None:
    """Both directions of it pass the operator's forward chain, to the byte or more."""
    edge(lab, "honour")
    version = "ip6" if ":" in target else "ip"
    operator(lab, f'{version} saddr {target} counter comment "out"')
    operator(lab, f'{version} daddr {target} counter comment "in"')
    size = 1 << 20
    with connect(lab, target) as conn:
        download(conn, size)
        upload(conn, size)
    rules = json.loads(ok(lab.run("ap", ["nft", "-j", "list", "table", "inet", "router"])))
    counted = {
        rule["rule"]["comment"]: next(
            e["counter"]["bytes"] for e in rule["rule"]["expr"] if "counter" in e
        )
        for rule in rules["nftables"]
        if rule.get("rule", {}).get("comment") in ("in", "out")
    }
    assert counted["in"] > size
    assert counted["out"] > size


@pytest.mark.req("N12")
@EACH
def test_an_open_connection_is_cut_off_when_the_operator_says_so(lab: Lab, target: str) -> None:
    edge(lab, "honour")
    version = "ip6" if ":" in target else "ip"
    with connect(lab, target) as conn:
        assert ask(conn)[0] == "edge"
        operator(lab, f"{version} saddr {CLIENTS[target]} drop")
        conn.settimeout(1.0)
        with pytest.raises(TimeoutError):
            ask(conn)


@pytest.mark.req("N12", "N5")
@FIREWALLS
@pytest.mark.parametrize("way", [("bypass", "honour"), ("honour", "bypass")], ids="-to-".join)
def test_open_connections_go_on_when_it_changes(lab: Lab, way: tuple[str, str]) -> None:
    before, after = way
    edge(lab, "honour" if lab.settings.firewall == "strict" else before)
    if lab.settings.firewall == "strict" and before == "bypass":
        apply(lab, ok(lab.viscum("export", "svc")).replace('"honour"', '"bypass"'))
    opened = [connect(lab, t) for t in TARGETS]
    for target in TARGETS:
        edge_udp(lab, target)
    flows = [flow(lab, t) for t in TARGETS]
    assert [ask(c)[0] for c in (*opened, *flows)] == ["edge"] * 4
    exported = ok(lab.viscum("export", "svc"))
    if "firewall" in exported:
        exported = exported.replace(f'"{before}"', f'"{after}"')
    else:
        exported = exported.replace("[steer]", f'[steer]\nfirewall = "{after}"')
    apply(lab, exported)
    assert f'"{after}"' in ok(lab.viscum("export", "svc")) or after == "bypass"
    assert [ask(c)[0] for c in (*opened, *flows)] == ["edge"] * 4
    for each in (*opened, *flows):
        each.close()


@pytest.mark.req("N12", "N6", "N10")
def test_a_flow_that_falls_back_is_masqueraded_like_any_other(lab: Lab) -> None:
    """Under `honour` the router tracks an edge flow, without masquerade; when the server has died
    the same 5-tuple goes to the cloud, which can't answer a client's private address."""
    start_peer(lab)
    edge(lab, "honour")
    edge_udp(lab, CLOUD4)
    with flow(lab, CLOUD4) as udp:
        assert ask(udp) == ["edge", ue4()]
        kill_server(lab)
        assert ask(udp) == ["cloud", AP_WAN4]


# ---- what bypass says --------------------------------------------------------------------------


@pytest.mark.req("N12", "N14")
@FIREWALLS
def test_bypassed_hooks_are_named(lab: Lab) -> None:
    hook = "inet router forward (forward)"
    noted = edge(lab, "bypass")
    assert hook in noted
    assert hook in lab.viscum("doctor").stdout
    packet = f"tcp {ue4()}:40000 > {CLOUD4}:{PORT} syn"
    said = json.loads(ok(lab.viscum("explain", "svc", packet, "--json")))
    assert hook in said["bypassed"]
    assert hook in lab.viscum("explain", "svc", packet).stderr
    ok(lab.viscum("rm", "--now", "svc"))
    noted = edge(lab, "honour")
    assert "do not pass" not in noted
    said = json.loads(ok(lab.viscum("explain", "svc", packet, "--json")))
    assert said["bypassed"] == []
