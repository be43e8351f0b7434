"""ns per packet of the eBPF director: BPF_PROG_TEST_RUN over live sockets, 1 to 100,000 targets.

`python tests/bench/pktcost.py [--json] [--repeat N] [--rounds N]`; as root. The figures are
those of the kernel's own clock around the program, the harness (about 33 ns) included: the least
and the median of several rounds.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from kernel.topo import OTHER4, TARGET4, TARGET6, UE4, UE6, Topo, accepted, received
from viscum import names
from viscum.kernel import bpf
from viscum.kernel.director import abi, attach
from viscum.kernel.director.ebpf import opened
from viscum.kernel.director.explain import Packet

TARGETS = (1, 1_000, 100_000)
Measure = Callable[[bpf.Program, bytes, int], tuple[int, int]]


def packets(topo: Topo) -> Iterator[tuple[str, str, bytes]]:
    """(what, program, frame), with the sockets and flows that make each what it is called."""
    edge, edge6 = topo.listen("s1", "0.0.0.0"), topo.listen("s1", "::")
    server = topo.udp("s1", TARGET4, 443)
    tcp, tcp6 = topo.connect(TARGET4), topo.connect(TARGET6)
    for sock in (edge, edge6):
        accepted({"edge": sock})
    udp = topo.udp_client(TARGET4)
    udp.send(b"x")
    _, _, client = received({"edge": server})

    def packet(proto: str, src: str, sport: int, dst: str, dport: int, *flags: str) -> bytes:
        made = Packet(
            proto, ip_address(src), ip_address(dst), sport, dport, frozenset(flags),
            payload=bytes(64) if proto == "udp" else b"",
        )  # fmt: skip
        mac = topo.wlan_mac if src in (UE4, UE6) else topo.mac("ap", names.link(1))
        return made.frame(mac)

    port, port6 = tcp.getsockname()[1], tcp6.getsockname()[1]
    yield "miss", "viscum_in", packet("tcp", UE4, 1000, OTHER4, 80, "ack")
    yield "miss v6", "viscum_in", packet("tcp", UE6, 1000, "2001:db8:c::99", 80, "ack")
    yield "established", "viscum_in", packet("tcp", UE4, port, TARGET4, 80, "ack")
    yield "established v6", "viscum_in", packet("tcp", UE6, port6, TARGET6, 80, "ack")
    yield "SYN", "viscum_in", packet("tcp", UE4, 1000, TARGET4, 80, "syn")
    yield "no socket", "viscum_in", packet("tcp", UE4, 1000, TARGET4, 81, "ack")
    yield "UDP of the edge", "viscum_in", packet("udp", client[0], client[1], TARGET4, 443)
    yield "UDP of the cloud", "viscum_in", packet("udp", UE4, 1000, TARGET4, 444)
    yield "reply", "viscum_out", packet("tcp", TARGET4, 80, UE4, port, "ack")
    yield "UDP reply", "viscum_out", packet("udp", TARGET4, 443, client[0], client[1])


def fill(topo: Topo, targets: int) -> None:
    def write() -> None:
        maps = opened(attach.find()).maps
        group = maps["targets"].get(abi.address(IPv4Address(TARGET4)))
        assert group is not None
        first = IPv4Address("100.64.0.0")
        maps["targets"].update((abi.address(first + n), group) for n in range(targets - 1))

    topo.inside("ap", write)


def measure(topo: Topo, repeat: int, rounds: int) -> list[dict[str, int | str]]:
    rows: list[dict[str, int | str]] = []
    kinds = list(packets(topo))
    links = {"viscum_in": topo.wlan, "viscum_out": names.number(1)}
    for targets in TARGETS:
        fill(topo, targets)
        for what, name, frame in kinds:

            def run(name: str = name, frame: bytes = frame) -> list[int]:
                program = opened(attach.find()).programs[name]
                run = program.test_run
                return [run(frame, ifindex=links[name], repeat=repeat)[1] for _ in range(rounds)]

            times = topo.inside("ap", run)
            rows.append(
                {"packet": what, "targets": targets, "least": min(times),
                 "median": int(statistics.median(times))}
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeat", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    socket.setdefaulttimeout(5)
    with Topo() as topo:
        topo.add_service(1)
        topo.steer(topo.service())
        rows = measure(topo, options.repeat, options.rounds)
    if options.json:
        print(json.dumps(rows))  # noqa: T201
        return
    heads = (f"{n:>10,} target{'s' * (n > 1)}" for n in TARGETS)
    print(f"{'ns/packet, least (median)':26}" + "".join(f"{h:>18}" for h in heads))  # noqa: T201
    for what in dict.fromkeys(row["packet"] for row in rows):
        cells = [f"{r['least']} ({r['median']})" for r in rows if r["packet"] == what]
        print(f"{what:26}" + "".join(f"{cell:>18}" for cell in cells))  # noqa: T201


if __name__ == "__main__":
    main()
