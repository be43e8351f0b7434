"""A service on two client interfaces, and on one of them no longer."""

from __future__ import annotations

import pytest

from e2e import echo
from support import wait_until
from viscum.lab import CLOUD4, Lab

BESIDE = "10.77.0.2"  # the client's address behind wlan1


@pytest.fixture
def box(lab: Lab) -> Lab:
    """The access point has a second interface, wlan1; the cloud runs the server."""
    for role, *lines in (
        ("ap", f"ip link add wlan1 type veth peer name wlan9 netns {lab.ue}",
         "ip addr add 10.77.0.1/24 dev wlan1", "ip link set wlan1 up"),
        ("ue", f"ip addr add {BESIDE}/24 dev wlan9", "ip link set wlan9 up",
         "ip route add default via 10.77.0.1 table 77", f"ip rule add from {BESIDE} table 77"),
    ):  # fmt: skip
        for line in lines:
            lab.run(role, line.split(), check=True)
    echo.start(lab, "cloud", "cloud")
    return lab


@pytest.mark.req("N8", "N9")
@pytest.mark.parametrize("firewall", ["bypass", "honour"])
def test_an_interface_that_is_given_up_keeps_its_flows(box: Lab, firewall: str) -> None:
    echo.run(box, "--on", "wlan1", "--firewall", firewall)
    with (
        echo.hold(box, CLOUD4) as kept,
        echo.hold(box, CLOUD4, source=BESIDE) as held,
    ):
        assert kept.name == held.name == "edge"
        echo.run(box, "--replace", "--firewall", firewall)
        assert echo.who(box, CLOUD4, source=BESIDE) == "cloud"
        assert echo.who(box, CLOUD4) == "edge"
        assert held.alive()
        echo.viscum(box, "tidy")
        assert held.alive(), "as long as there are some"
        assert kept.alive()
        held.close()
        wait_until(lambda: echo.status(box)["flows"] == 1, "the flow's end")
        echo.viscum(box, "tidy")
        assert "wlan1" not in box.run("ap", ["ip", "rule"], check=True).stdout
        assert echo.who(box, CLOUD4, source=BESIDE) == "cloud"
        assert kept.alive()
