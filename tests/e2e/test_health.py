"""A controller asks servers how they are; what is ill or not ready takes no new flows."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Figure
from e2e import echo, moody
from e2e.daemon import running
from e2e.net import apply
from viscum.lab import CLOUD4, CLOUD6, Lab
from viscum.spec import toml_value

SPEC = """
name = "web"
command = {command}
instances = {instances}
[steer]
interfaces = ["wlan0"]
targets = ["{target4}", "{target6}"]
ports = ["7000/tcp"]
when-down = "{when_down}"
[run]
restart-delay = "100ms"
stop-timeout = "300ms"
{run}
{more}
"""
PROBE = """
[probe]
type = "http"
port = 8080
interval = "150ms"
timeout = "300ms"
failures = 2
"""


@pytest.fixture
def box(lab: Lab) -> Lab:
    """A lab whose cloud runs the server."""
    echo.start(lab, "cloud", "cloud")
    return lab


@pytest.fixture
def mood(files: Path) -> Path:
    """What the server's mood is read from."""
    path = files / "mood"
    path.write_text("well")
    return path


def serve(
    lab: Lab,
    mood: Path,
    more: str = PROBE,
    *,
    run: str = "",
    instances: int = 1,
    when_down: str = "cloud",
    command: tuple[str, ...] = (),
) -> None:
    given = toml_value(list(command or moody.command(str(mood))))
    apply(
        lab,
        SPEC.format(
            command=given,
            target4=CLOUD4,
            target6=CLOUD6,
            run=run,
            more=more,
            instances=instances,
            when_down=when_down,
        ),
    )


def held(lab: Lab) -> float:
    return float(echo.status(lab)["held"]["health"])


def server(lab: Lab, index: int = 0) -> int:
    return int(echo.status(lab)["generations"][0]["instances"][index]["pid"])


@pytest.mark.req("C3")
@pytest.mark.parametrize("target", [CLOUD4, CLOUD6])
def test_an_unhealthy_server_takes_no_new_flows_and_keeps_its_own(
    box: Lab, mood: Path, target: str, figure: Figure
) -> None:
    with running(box) as daemon:
        serve(box, mood)
        with echo.hold(box, target) as client:
            assert client.name == "edge"
            mood.write_text("hang")
            told = daemon.wait("service.unhealthy", "web")
            assert (
                "accepted a connection, but did not answer within 300ms, 2 times in a row; "
                "new flows go to the cloud" in told["message"]
            )
            assert echo.who(box, target) == "cloud"
            assert "it is unhealthy" in echo.viscum(box, "status", "web").stdout
            assert client.alive(), "an open connection goes on"
            assert echo.status(box)["flows"] == 1, "a probe is no client's flow"
            mood.write_text("well")
            back = daemon.wait("service.healthy", "web")
            assert echo.who(box, target) == "edge"
            assert client.alive()
        assert held(box) == 100
    figure("back after", back["data"]["unhealthy_for"], "s")
