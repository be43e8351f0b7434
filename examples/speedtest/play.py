"""U2: an unmodified iperf3 at the edge measures the radio; without the director, the very same
command measures the way to the cloud.

    make example-speedtest
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from typing import Any

from kit import RADIO, WAN, Figures, Stage, await_listening, run, stage
from viscum.lab import CLOUD4, CLOUD6

PORTS = range(5201, 5209)
SECONDS, OMIT = 4, 2  # measured, after so many in which TCP finds its speed
DATAGRAM = 1400
FAMILIES = {"IPv4": CLOUD4, "IPv6": CLOUD6}
UDP = ("-u", "-l", str(DATAGRAM))
WAYS: dict[str, tuple[str, ...]] = {
    "TCP up": (),
    "TCP down": ("-R",),
    "UDP up": UDP,
    "UDP down": (*UDP, "-R"),
}
CLIENTS = 4


def payload(family: str, way: str) -> float:
    """Of the bits of a frame on a link, those that a speed test counts: an Ethernet header of 14
    bytes, IP's, and TCP's of 32 (with its timestamps) or UDP's."""
    ip = 20 if family == "IPv4" else 40
    if way.startswith("TCP"):
        return (1500 - ip - 32) / 1514
    return DATAGRAM / (DATAGRAM + 8 + ip + 14)


def client(target: str, way: str, link: float, port: int = PORTS[0]) -> list[str]:
    """Its command. UDP is sent at twice the link's rate: what arrives is the result."""
    rate = ("-b", f"{2 * link:.0f}") if way.startswith("UDP") else ()
    times = ("-t", str(SECONDS), "-O", str(OMIT), "-p", str(port))
    return ["iperf3", "-J", "-c", target, *WAYS[way], *rate, *times]


def result(text: str) -> float:
    """bit/s that arrived. AssertionError with iperf3's own words."""
    done: dict[str, Any] = json.loads(text)
    assert "error" not in done, done["error"]
    end: dict[str, Any] = done["end"]
    if "sum_received" in end:
        return float(end["sum_received"]["bits_per_second"])
    lost = float(end["sum"]["lost_percent"])
    return float(end["sum"]["bits_per_second"]) * (1 - lost / 100)


def measure(stage: Stage, target: str, way: str, link: float) -> float:
    return result(stage.lab.run("ue", client(target, way, link)).stdout)


def cloud(stage: Stage) -> None:
    """The real servers. One with several addresses has to be told which is its own."""
    for target in FAMILIES.values():
        for port in PORTS:
            stage.server("cloud", ["iperf3", "-s", "-B", target, "-p", str(port)])
    await_listening(stage.lab, "cloud", *PORTS)


def each() -> Iterable[tuple[str, str, str]]:
    for family, target in FAMILIES.items():
        for way in WAYS:
            yield family, target, way


def play(stage: Stage, figures: Figures) -> None:
    """Radio, WAN, and the radio again by the same command, each way of each family."""
    cloud(stage)
    stage.apply()
    crossed = 0.0
    for family, target, way in each():
        before = stage.wan_bytes()
        got = measure(stage, target, way, RADIO)
        sent = got / 8 * (SECONDS + OMIT)
        crossed = max(crossed, (stage.wan_bytes() - before) / sent)
        command = " ".join(client(target, way, RADIO))
        figures.add(
            f"{family} {way}: edge / radio", got / (RADIO * payload(family, way)), "of the radio",
            command=command,
        )  # fmt: skip
    # What is under way when the server aborts its connection (as iperf3 does) is nobody's any more,
    # and goes where it was addressed to: some ten packets.
    figures.add(
        "WAN bytes of a test at the edge / bytes it has sent, at most", crossed, "",
    )  # fmt: skip
    stage.viscum("disable", "speedtest")
    for family, target, way in each():
        got = measure(stage, target, way, WAN)
        figures.add(
            f"{family} {way}: disabled / WAN", got / (WAN * payload(family, way)), "of the WAN",
            command=" ".join(client(target, way, WAN)),
        )  # fmt: skip
    stage.viscum("enable", "speedtest")
    got = measure(stage, CLOUD4, "TCP up", RADIO)
    share = got / (RADIO * payload("IPv4", "TCP up"))
    figures.add("IPv4 TCP up: enabled again / radio", share, "of the radio")


def crowd(stage: Stage, figures: Figures) -> None:
    """Several clients at once share one radio: together they measure it."""
    running = []
    for number in range(1, CLIENTS + 1):
        role = "ue" if number == 1 else f"ue{number}"
        argv = client(CLOUD4, "TCP down", RADIO, PORTS[number - 1])
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
        running.append(stage.lab.popen(role, argv, **options))
    got = [result(child.communicate()[0]) for child in running]
    whole = RADIO * payload("IPv4", "TCP down")
    figures.add(f"{CLIENTS} clients at once, together / radio", sum(got) / whole, "of the radio")
    figures.add("… the slowest of them, of a fair part", min(got) * CLIENTS / whole, "parts")


def main() -> None:
    figures = Figures("speedtest")
    with stage("speedtest") as scene:
        play(scene, figures)
    with stage("speedtest", clients=CLIENTS) as scene:
        cloud(scene)
        scene.apply()
        crowd(scene, figures)
    print(f"\nkept in {figures.save()}")


if __name__ == "__main__":
    run(main)
