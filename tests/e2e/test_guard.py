"""Services give way to the router, and to their own limits, before anybody suffers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.burner import content
from conftest import Figure
from e2e import daemon, echo
from e2e.api import client
from e2e.daemon import Daemon
from e2e.net import apply, connect
from support import need_kernel, wait_until
from viscum.kernel import cgroupfs
from viscum.lab import CLOUD4, Lab
from viscum.lab.plan import CLOUDS4
from viscum.spec import toml_value

pytestmark = pytest.mark.req("C2")

BENCH = Path(__file__).parents[1] / "bench"
COST = 20  # ms of processor time that a request of the edge takes

SPEC = """
name = "{name}"
command = {command}
priority = {priority}
[steer]
interfaces = ["wlan0"]
targets = ["{target}"]
ports = ["7000/tcp"]
share-by = "flow"
[limits]
{limits}
[guard]
{guard}
"""


# The box's own signals are off: what else runs on the machine of the tests is not their subject.
QUIET = """
[guard]
cpu = 0
cpu-pressure = 0
memory-pressure = 0
memory-available = 0
memory-floor = 0
time-squeezes = 0
drops = 0
"""


@contextmanager
def running(lab: Lab, settings: str = QUIET) -> Iterator[Daemon]:
    Daemon(lab).configure(settings)
    with daemon.running(lab) as begun:
        yield begun


def server(name: str, cost: float) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", str(BENCH / "burner.py"), name, str(echo.PORT), str(cost))


def serve(
    lab: Lab, name: str = "web", *, target: str = CLOUD4, cost: float = COST, priority: int = 50,
    limits: str = "", guard: str = "",
) -> None:  # fmt: skip
    command = toml_value(list(server(name, cost)))
    apply(
        lab,
        SPEC.format(name=name, command=command, target=target, priority=priority, limits=limits,
                    guard=guard),
    )  # fmt: skip


@pytest.fixture
def cloud(lab: Lab) -> Lab:
    """A lab whose cloud answers at no cost."""
    lab.popen("cloud", server("cloud", 0))
    wait_until(lambda: "LISTEN" in lab.run("cloud", ["ss", "-Htln"]).stdout, "the cloud listens")
    return lab


class Flood:
    """Requests at a rate from the client, until told to end."""

    def __init__(self, lab: Lab, rate: float, target: str) -> None:
        words = [target, str(echo.PORT), str(rate), "600"]
        self.path = lab.directory / f"flood-{target}"
        self.out = self.path.open("w")
        self.child = lab.popen(
            "ue", [sys.executable, "-I", "-S", str(BENCH / "openloop.py"), *words], stdout=self.out
        )

    def end(self) -> None:
        self.child.kill()
        self.child.wait()
        self.out.close()

    def answers(self) -> Counter[str]:
        return Counter(line.split()[2] for line in self.path.read_text().splitlines() if line)


@contextmanager
def flood(lab: Lab, rate: float, target: str = CLOUD4) -> Iterator[Flood]:
    begun = Flood(lab, rate, target)
    try:
        yield begun
    finally:
        begun.end()


def share(lab: Lab, name: str = "web") -> float:
    """What the kernel lets it have now."""
    held: float = echo.status(lab, name)["held"]["load"]
    return held


class Download:
    """A transfer that takes its time: begun before the overload, ended after it."""

    SIZE = 8 << 20

    def __init__(self, lab: Lab) -> None:
        self.connection = connect(lab, CLOUD4)
        self.connection.sendall(f"GET /content/{self.SIZE}/7 HTTP/1.1\r\n\r\n".encode())
        self.stream = self.connection.makefile("rb")
        self.head = b"".join(iter(self.stream.readline, b"\r\n")).decode()

    def finish(self) -> None:
        for block in content(self.SIZE, 7):
            assert self.stream.read(len(block)) == block
        self.stream.close()
        self.connection.close()


def test_a_service_at_its_limit_gives_way_cuts_nothing_and_comes_back(
    cloud: Lab, figure: Figure
) -> None:
    need_kernel("a cpu controller", "cpu" in cgroupfs.hierarchies().available())
    lab = cloud
    serve(lab, limits="cpu = 0.05", guard="min-share = 40")
    serve(lab, "other", target=CLOUDS4[1])
    with running(lab) as viscumd:
        kept = Download(lab)
        assert "X-From: web" in kept.head
        with flood(lab, 15) as offered:  # 15 × 20 ms = 0.3 processors, six times its limit
            told = viscumd.wait("guard.gives-way", "web", timeout=30)
            assert told["data"]["cause"] == "throttled"
            wait_until(lambda: share(lab) < 60, "it is lowered", 30)
            wait_until(lambda: "cloud" in offered.answers(), "the others go to the cloud")
            seen = client(viscumd).get("/v1/services/web").json["load"]
            assert seen["cause"] == "throttled"
            assert 39 < seen["share"] < 60
        assert share(lab, "other") == 100, "it is nobody else's affair"
        viscumd.wait("guard.resumed", "web", timeout=60)
        assert share(lab) == 100
        kept.finish()
        told = client(viscumd).get("/v1/services/web/history").json["items"]
        shares = [change["share"] for change in told]
        assert (shares[0], shares[-1]) == (100, 100)
        lowest = shares.index(min(shares))
        assert shares[:lowest] == sorted(shares[:lowest], reverse=True), "down,"
        assert shares[lowest:] == sorted(shares[lowest:]), "and up again"
        assert client(viscumd).get("/v1/services/other/history").json == {"items": []}
        figure("answers", ", ".join(f"{n} by {who}" for who, n in offered.answers().items()), "")


def test_a_controller_that_comes_goes_on_from_the_share_it_finds(cloud: Lab) -> None:
    lab = cloud
    serve(lab, guard="cpu = 0.05")
    with running(lab) as viscumd, flood(lab, 20):
        viscumd.wait("guard.gives-way", "web", timeout=30)
        wait_until(lambda: share(lab) < 60, "it is lowered", 30)
        viscumd.kill()
        low = share(lab)
        assert low < 60, "the share outlives the controller"
        viscumd.start()
        wait_until(lambda: share(lab) < low, "the next one goes on from there", 30)
        steps = viscumd.events("guard.gives-way", "web")
        assert len(steps) == 1, "and does not begin anew"


@pytest.mark.parametrize("without", ["mode", "drop"])
def test_a_service_without_a_guard_is_let_go(cloud: Lab, without: str) -> None:
    """A spec that takes it out of the guard's hands takes effect at once."""
    lab = cloud
    serve(lab, guard="cpu = 0.05")
    with running(lab) as viscumd:
        with flood(lab, 20):
            viscumd.wait("guard.gives-way", "web", timeout=30)
            if without == "mode":
                serve(lab, guard='cpu = 0.05\nmode = "off"')
            else:
                text = SPEC.replace("[limits]", 'when-down = "drop"\n[limits]')
                command = toml_value(list(server("web", COST)))
                apply(lab, text.format(name="web", command=command, target=CLOUD4, priority=50,
                                       limits="", guard="cpu = 0.05"))  # fmt: skip
            wait_until(lambda: share(lab) == 100, "it is let go", 20)
            before = len(viscumd.events("guard.gives-way"))
            assert offered_to_edge(lab)
        assert len(viscumd.events("guard.gives-way")) == before


def offered_to_edge(lab: Lab) -> bool:
    with connect(lab, CLOUD4) as connection:
        connection.sendall(b"GET /content/10/1 HTTP/1.0\r\n\r\n")
        return b"X-From: web" in connection.recv(1000)


SHORT = QUIET.replace("cpu = 0\n", "cpu = 1\n")  # of processors, whatever is done about it


def test_the_lowest_priority_gives_way_first_and_comes_back_last(cloud: Lab) -> None:
    lab = cloud
    serve(lab, "high", priority=80, guard="min-share = 70")
    serve(lab, "low", target=CLOUDS4[1], priority=20, guard="min-share = 80")
    with running(lab, SHORT) as viscumd:
        with flood(lab, 8), flood(lab, 8, CLOUDS4[1]):
            viscumd.wait("guard.gives-way", "high", timeout=40)
            assert share(lab, "low") == pytest.approx(80), "only when the lower one is at its least"
            wait_until(lambda: round(share(lab, "high")) == 70, "the router comes first", 40)
            assert share(lab, "low") == pytest.approx(80)
        told = viscumd.events("guard.gives-way")
        order = [e["service"] for e in told]
        assert order == sorted(order, reverse=True), "all of the lower one's before the higher's"
        assert told[0]["data"]["cause"] == "cpu"
        assert viscumd.stop() == 0
        viscumd.configure(QUIET)
        viscumd.start()
        viscumd.wait("guard.resumed", "low", timeout=60)
        assert [e["service"] for e in viscumd.events("guard.resumed")] == ["high", "low"]


def test_services_that_use_nothing_are_not_blamed(cloud: Lab) -> None:
    lab = cloud
    serve(lab)
    with running(lab, QUIET.replace("memory-floor = 0", "memory-floor = 100")) as viscumd:
        told = viscumd.wait("guard.not-theirs", timeout=20)
        assert told["data"]["cause"] == "memory-available"
        assert share(lab) == 100
        box = client(viscumd).get("/v1/host/load").json
        assert box["cause"] == "memory-available"
        assert [s["name"] for s in box["signals"]] == ["memory-available"], "the only one looked at"
        assert 0 < box["signals"][0]["value"] < 100
