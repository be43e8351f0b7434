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


def client(target: str, way: str, link: float, port: int) -> list[str]:
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


def measure(stage: Stage, argv: list[str]) -> float:
    return result(stage.lab.run("ue", argv).stdout)


def cloud(stage: Stage) -> None:
    """The real servers. One with several addresses has to be told which is its own."""
    for target in FAMILIES.values():
        for port in PORTS:
            stage.server("cloud", ["iperf3", "-s", "-B", target, "-p", str(port)])
    await_listening(stage.lab, "cloud", *PORTS)


def each(link: float) -> Iterable[tuple[str, str, list[str]]]:
    """Family, way, and a client's command: each to a port of its own. A server makes its socket
    anew after a test, some time after its client has ended, and a client that comes before then is
    reset."""
    ways = [(family, way) for family in FAMILIES for way in WAYS]
    for (family, way), port in zip(ways, PORTS, strict=True):
        yield family, way, client(FAMILIES[family], way, link, port)


def play(stage: Stage, figures: Figures) -> None:
    """Radio, WAN, and the radio again by the same command, each way of each family."""
    cloud(stage)
    stage.apply()
    crossed = 0.0
    for family, way, argv in each(RADIO):
        before = stage.wan_bytes()
        got = measure(stage, argv)
        sent = got / 8 * (SECONDS + OMIT)
        crossed = max(crossed, (stage.wan_bytes() - before) / sent)
        figures.add(
            f"{family} {way}: edge / radio", got / (RADIO * payload(family, way)), "of the radio",
            command=" ".join(argv),
        )  # fmt: skip
    # What is under way when the server aborts its connection (as iperf3 does) is nobody's any more,
    # and goes where it was addressed to: some ten packets.
    figures.add(
        "WAN bytes of a test at the edge / bytes it has sent, at most", crossed, "",
    )  # fmt: skip
    stage.viscum("disable", "speedtest")
    for family, way, argv in each(WAN):
        got = measure(stage, argv)
        figures.add(
            f"{family} {way}: disabled / WAN", got / (WAN * payload(family, way)), "of the WAN",
            command=" ".join(argv),
        )  # fmt: skip
    stage.viscum("enable", "speedtest")
    got = measure(stage, client(CLOUD4, "TCP up", RADIO, PORTS[0]))
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
