"""Whose flows go to the edge: share, clients, when-down, and steering that grows."""

from __future__ import annotations

import json
import os
import signal
import socket
import time

import pytest

from conftest import Figure
from e2e import echo
from support import wait_until
from viscum.lab import CLOUD4, CLOUD6, Lab, ue4, ue6

CLIENTS = 200


@pytest.fixture
def box(lab: Lab) -> Lab:
    echo.start(lab, "cloud", "cloud")
    return lab


def more_clients(lab: Lab) -> list[str]:
    """Addresses the client gets beside its own, of both families."""
    four = [f"10.1.0.{n}" for n in range(20, 20 + CLIENTS)]
    six = [f"2001:db8:1::1:{n:x}" for n in range(CLIENTS)]
    lines = [f"addr add {a}/24 dev eth0" for a in four]
    lines += [f"addr add {a}/64 dev eth0 nodad" for a in six]
    lab.run("ue", ["ip", "-batch", "-"], input="\n".join(lines), check=True)
    return four + six


def at_edge(lab: Lab, clients: list[str]) -> set[str]:
    return {c for c in clients if echo.who(lab, CLOUD6 if ":" in c else CLOUD4, source=c) == "edge"}


@pytest.mark.req("N5")
def test_a_share_of_the_clients_and_always_the_same(box: Lab, figure: Figure) -> None:
    clients = more_clients(box)
    echo.run(box, "--share", "30")
    first = at_edge(box, clients)
    share = len(first) / len(clients)
    figure("clients at the edge with share = 30", f"{share:.1%} of {len(clients)}", "")
    assert 0.18 < share < 0.42, "five standard deviations"
    assert at_edge(box, clients) == first, "a client stays where it is"
    echo.run(box, "--replace", "--share", "60")
    more = at_edge(box, clients)
    assert 0.47 < len(more) / len(clients) < 0.73
    assert first < more, "who was at the edge stays there when the share grows"
    echo.run(box, "--replace", "--share", "0")
    assert at_edge(box, clients) == set()
    echo.run(box, "--replace", "--share", "100")
    assert at_edge(box, clients) == set(clients)


@pytest.mark.req("N5")
def test_only_clients_of_the_prefix(box: Lab) -> None:
    box.run("ue", ["ip", "addr", "add", "10.1.0.99/24", "dev", "eth0"], check=True)
    box.run("ue", ["ip", "addr", "add", "2001:db8:1::99/64", "dev", "eth0", "nodad"], check=True)
    echo.run(box, "--client", "10.1.0.96/28", "--client", "2001:db8:1::90/124")
    assert echo.who(box, CLOUD4, source="10.1.0.99") == "edge"
    assert echo.who(box, CLOUD4, source=ue4()) == "cloud"
    assert echo.who(box, CLOUD6, source="2001:db8:1::99") == "edge"
    assert echo.who(box, CLOUD6, source=ue6()) == "cloud"
    with echo.hold(box, CLOUD4, source="10.1.0.99") as held:
        echo.run(box, "--replace", "--client", f"{ue4()}/32")
        assert held.alive(), "an established flow goes on"
        assert echo.who(box, CLOUD4, source="10.1.0.99") == "cloud"
        assert echo.who(box, CLOUD4, source=ue4()) == "edge"


@pytest.mark.req("N10")
def test_when_down_is_drop_no_client_reaches_the_cloud(box: Lab) -> None:
    echo.run(box, "--when-down", "drop")
    (instance,) = echo.status(box)["generations"][0]["instances"]
    os.kill(instance["pid"], signal.SIGKILL)
    wait_until(lambda: echo.status(box)["state"] == "dead", "the end of the server")

    def knock() -> socket.socket:
        made = socket.socket(socket.AF_INET)
        made.setblocking(False)
        made.connect_ex((CLOUD4, echo.PORT))
        return made

    knocking = echo.within(box, "ue", knock)
    wait_until(lambda: _dropped(box) >= 2, "the SYN and its repetition are dropped")
    seen = box.run("cloud", ["ss", "-Htan", "sport", "=", f":{echo.PORT}"]).stdout
    assert [line for line in seen.splitlines() if "LISTEN" not in line] == []

    echo.viscum(box, "start", "web")
    knocking.setblocking(True)
    with echo.Held(knocking) as held:
        assert held.name == "edge", "the next repetition reaches the server that is back"


def _dropped(lab: Lab) -> int:
    return sum(n for reason, n in echo.status(lab)["decisions"].items() if "drop" in reason.lower())


@pytest.mark.req("N6", "N8")
def test_steering_that_grows_takes_no_udp_flow_from_the_cloud(box: Lab) -> None:
    """A UDP port added in place: who talks to the cloud there goes on talking to the cloud."""
    udp = echo.command("cloud", "--udp", "7002", "--ports", "7003")
    box.popen("cloud", udp)
    server = echo.command("edge", "--udp", "7002")
    echo.run(box, server=server)
    old = echo.within(box, "ue", lambda: echo.Datagrams(CLOUD4, 7002))
    wait_until(lambda: old.ask() == "cloud", "the cloud's UDP server")
    echo.run(box, "--replace", "--port", f"{echo.PORT}/tcp", "--port", "7002/udp", server=server)
    for _ in range(5):
        assert old.ask() == "cloud"
    began = time.monotonic()
    wait_until(
        lambda: echo.within(box, "ue", lambda: echo.Datagrams(CLOUD4, 7002).ask()) == "edge",
        "new flows go to the edge",
    )
    assert old.ask() == "cloud"
    assert time.monotonic() - began < 10
    assert json.loads(echo.viscum(box, "status", "web", "--json").stdout)["drift"] == []
