"""What the load guard is worth: a service that is offered three times what the box can do, and the
traffic of others through the same router, with and without the guard, in turn.

    make bench-guard                     # about six minutes; needs two processors, and quiet ones
    make bench-guard ARGS="--pairs 1"    # a look

The first processor is the box: it forwards, runs the service and the controller, and the guard
looks at it alone. The others are the world: clients, clouds, what measures. Forwarding runs in a
kernel thread (threaded NAPI, as on OpenWrt), which competes with the service for the processor;
with --softirq it runs in interrupts, which no process can hold up. A chain of rules that match
nothing makes a packet cost about 10 µs, as it does on a small router.

Prints the table for docs/guard.md; writes guard-runs.csv, guard-share.csv and guard-share.svg to
docs/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from viscum.kernel import director, load
from viscum.kernel.syscalls import in_netns
from viscum.lab import CLOUD4, Lab
from viscum.lab.plan import CLOUDS4
from viscum.lab.processes import NETNS_DIR

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "tests" / "bench"
BOX = 0
COST = 20  # ms of processor time a request of the service takes
WORKERS = 4
OFFERED = 3 * 1000 // COST  # requests a second: three times what one processor can do
PORT, IPERF, ECHO = 7000, 5301, 7
RULES = 600  # in the box's forward chain
SIZE = 1400  # bytes of a datagram of the others
MOST = 500e6  # bit/s; one processor is to send and to receive them
SETTLE, WINDOW = 15, 12  # seconds: until it is measured, and for how long
PLOT_BEFORE, PLOT_DURING, PLOT_AFTER = 5, 60, 40
SET_POINT = 70
SOURCES = [f"10.1.0.{n}" for n in range(100, 220)]

SPEC = f"""
name = "web"
command = ["taskset", "-c", "{BOX}", "{sys.executable}", "-I", "-S", "{BENCH}/burner.py", "edge",
           "{PORT}", "{COST}", "{WORKERS}"]
[steer]
interfaces = ["wlan0"]
targets = ["{CLOUD4}"]
ports = ["{PORT}/tcp"]
"""
# Pressure (PSI) is that of the whole machine, with those who measure: not looked at.
SETTINGS = f"[guard]\ncpus = [{BOX}]\ncpu = {SET_POINT}\ncpu-pressure = 0\n"


class Result(NamedTuple):
    delivered: float  # Mbit/s of others' traffic
    lost: float  # percent of it
    p50: float  # ms, a round trip of others
    p99: float
    served: float  # requests of the service answered by the edge, a second
    service_p50: float  # ms, by whomever it was answered; given up after 5 s
    service_p99: float
    failed: float  # percent of the requests
    edge: float  # percent of requests that the edge answered


def inside(namespace: str, function: Callable[[], Any]) -> Any:
    with (NETNS_DIR / namespace).open() as handle:
        return in_netns(handle.fileno(), function)


def must(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode:
        sys.exit(f"{' '.join(map(str, done.args))}: {done.stdout}{done.stderr}")
    return done.stdout


# ---- the lab: which processor does what ----------------------------------------------------------


def knob(namespace: str, path: str, text: str) -> bool:
    words = f"echo {text} > /sys/class/net/{path}"
    argv = ["ip", "netns", "exec", namespace, "sh", "-c", words]
    return subprocess.run(argv, capture_output=True).returncode == 0


def napi_threads() -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().startswith("napi/"):
                found.add(int(path.parent.name))
    return found


def place(lab: Lab, softirq: bool) -> set[int]:
    """Forwarding on the box's processor, everything else on the others. The kernel threads that
    forward; none: interrupts do."""
    world = sum(1 << n for n in os.sched_getaffinity(0))
    for namespace in (lab.ue, lab.cloud):
        knob(namespace, "eth0/queues/rx-0/rps_cpus", f"{world:x}")
    before = napi_threads()
    for role in () if softirq else ("ue", "cloud"):  # who may send 64 kB at once needs no NAPI
        must(lab.run(role, ["ethtool", "-K", "eth0", "tso", "off"]))
    for link in () if softirq else ("wlan0", "wan0"):
        must(lab.run("ap", ["ethtool", "-K", link, "gro", "on"]))
        if not knob(lab.ap, f"{link}/threaded", "1"):
            sys.exit("this kernel has no threaded NAPI for veth; try --softirq")
    threads = napi_threads() - before
    for pid in threads:
        os.sched_setaffinity(pid, {BOX})
    for link in ("wlan0", "wan0") if softirq else ():
        if not knob(lab.ap, f"{link}/queues/rx-0/rps_cpus", f"{1 << BOX:x}"):
            sys.exit("this kernel has no RPS: forwarding can't be put on one processor")
    return threads


def prepare(lab: Lab) -> None:
    lines = "\n".join(f"addr add {source}/24 dev eth0" for source in SOURCES)
    must(lab.run("ue", ["ip", "-batch", "-"], input=lines))
    rules = "\n".join(f"ip saddr 203.0.113.{n % 256} counter" for n in range(RULES))
    chain = f"chain slow {{ type filter hook forward priority -10;\n{rules}\n}}"
    must(lab.run("ap", ["nft", "-f", "-"], input=f"table inet slow {{\n{chain}\n}}"))
    python = [sys.executable, "-I", "-S"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    lab.popen("cloud", [*python, f"{BENCH}/burner.py", "cloud", str(PORT), "0"], **quiet)
    lab.popen("cloud", [*python, f"{BENCH}/latency.py", "answer", CLOUDS4[2], str(ECHO)], **quiet)
    for port in (IPERF, IPERF + 1):
        lab.popen("cloud", ["iperf3", "-s", "-B", CLOUDS4[1], "-p", str(port)], **quiet)
    (lab.directory / "web.toml").write_text(SPEC)
    deadline = time.monotonic() + 10
    while lab.run("cloud", ["ss", "-Hltn"]).stdout.count("LISTEN") < 3:
        if time.monotonic() > deadline:
            sys.exit("the cloud does not listen")
        time.sleep(0.05)


@contextlib.contextmanager
def controller(lab: Lab, guarded: bool) -> Iterator[None]:
    """viscumd on the box's processor; without the guard it does all the rest."""
    config = lab.directory / "etc"
    config.mkdir(exist_ok=True)
    (config / "controller.toml").write_text(SETTINGS if guarded else '[guard]\nmode = "off"\n')
    program = str(Path(sys.executable).with_name("viscumd"))
    child = lab.popen(
        "ap",
        ["taskset", "-c", str(BOX), program],
        env=lab.environment("ap") | {"VISCUM_CONFIG_DIR": str(config)},
        stderr=(lab.directory / "viscumd.log").open("ab"),
    )
    try:
        yield
    finally:
        child.terminate()
        child.wait(30)


# ---- traffic -------------------------------------------------------------------------------------


class Others:
    """The unrelated traffic: datagrams at a rate, and round trips."""

    def __init__(self, lab: Lab, rate: float) -> None:
        self.lab, self.rate = lab, rate

    def send(self, seconds: float, port: int = IPERF) -> dict[str, float]:
        words = ["-u", "-b", f"{self.rate:.0f}", "-l", str(SIZE), "-t", f"{seconds:.0f}"]
        done = self.lab.run("ue", ["iperf3", "-J", *words, "-p", str(port), "-c", CLOUDS4[1]])
        found: dict[str, float] = json.loads(done.stdout)["end"].get("sum", {})
        return found

    def ask(self, seconds: float) -> list[float]:
        words = ["ask", CLOUDS4[2], str(ECHO), str(seconds)]
        python = [sys.executable, "-I", "-S", f"{BENCH}/latency.py"]
        return [float(word) for word in must(self.lab.run("ue", [*python, *words])).split()]


def flood(lab: Lab, seconds: float, path: Path) -> subprocess.Popen[Any]:
    words = [CLOUD4, str(PORT), str(OFFERED), str(seconds), *SOURCES]
    argv = [sys.executable, "-I", "-S", f"{BENCH}/openloop.py", *words]
    return lab.popen("ue", argv, stdout=path.open("w"))


def quantile(values: list[float], part: float) -> float:
    known = sorted(math.inf if math.isnan(v) else v for v in values)
    return known[min(len(known) - 1, int(part * len(known)))] if known else math.nan


def one_run(lab: Lab, others: Others, guarded: bool) -> Result:
    """Overload for SETTLE seconds, then WINDOW seconds in which it is measured."""
    must(lab.viscum("apply", str(lab.directory / "web.toml")))
    path = lab.directory / "answers"
    with controller(lab, guarded):
        flooding = flood(lab, SETTLE + WINDOW, path)
        others.send(SETTLE)
        begun = time.time()
        found: list[dict[str, float]] = []
        sending = threading.Thread(target=lambda: found.append(others.send(WINDOW, IPERF + 1)))
        sending.start()
        trips = others.ask(WINDOW - 1)
        sending.join()
        ended = time.time()
        flooding.wait(60)
    must(lab.viscum("rm", "web", "--now"))
    rows = [line.split() for line in path.read_text().splitlines()]
    mine = [row for row in rows if begun <= float(row[0]) < ended]
    took = [float(row[1]) * 1000 for row in mine]
    edge = sum(row[2] == "edge" for row in mine)
    sent = found[0]
    lost = sent.get("lost_percent", 100.0)
    return Result(
        delivered=sent.get("bits_per_second", 0.0) / 1e6 * (1 - lost / 100),
        lost=lost,
        p50=quantile(trips, 0.5),
        p99=quantile(trips, 0.99),
        served=edge / (ended - begun),
        service_p50=quantile(took, 0.5),
        service_p99=quantile(took, 0.99),
        failed=100 * sum(row[2].startswith("[") for row in mine) / max(1, len(mine)),
        edge=100 * edge / max(1, len(mine)),
    )


def busy(seconds: float) -> float:
    old = load.sample("-", (BOX,))
    time.sleep(seconds)
    return load.between(old, load.sample("-", (BOX,))).cpu


def forwarding(threads: set[int]) -> float:
    """Seconds of the box's processor that forwarding has taken so far."""
    if threads:
        spent = (Path(f"/proc/{pid}/schedstat").read_text().split()[0] for pid in threads)
        return sum(map(int, spent)) / 1e9
    lines = Path("/proc/stat").read_text().splitlines()
    columns = next(line.split() for line in lines if line.startswith(f"cpu{BOX} "))
    return int(columns[7]) / load.TICK  # softirq


def calibrate(lab: Lab, part: float, threads: set[int]) -> float:
    """The others' rate in bit/s whose forwarding takes that part of the box's processor."""
    if (idle := busy(2)) > 0.05:
        print(f"note: processor {BOX} is {idle:.0%} busy before anything begins: not a quiet box")
    rate = 200e6
    before, begun = forwarding(threads), time.monotonic()
    sent = Others(lab, rate).send(4).get("bits_per_second", rate)
    cost = (forwarding(threads) - before) / (time.monotonic() - begun)
    rate = min(sent * part / max(cost, 1e-3), MOST)
    packet = cost / (sent / 8 / SIZE) * 1e6
    print(
        f"others' traffic: {rate / 1e6:.0f} Mbit/s of {SIZE} bytes, {packet:.1f} µs a packet, so"
        f" {rate / sent * cost:.0%} of the processor"
    )
    return rate


# ---- share over time -----------------------------------------------------------------------------


class Point(NamedTuple):
    at: float  # seconds since the overload began
    share: float  # percent of new flows
    cpu: float  # percent busy


def watch(lab: Lab, points: list[Point], begun: float, ends: threading.Event) -> None:
    old = load.sample("-", (BOX,))
    while not ends.wait(0.5):
        new = load.sample("-", (BOX,))
        holds = next(iter(director.installed())).holds()
        share = min((h.load for h in holds.values()), default=100.0)
        points.append(Point(time.monotonic() - begun, share, load.between(old, new).cpu * 100))
        old = new


def over_time(lab: Lab, others: Others) -> list[Point]:
    """Before, during and after the overload, with the guard."""
    must(lab.viscum("apply", str(lab.directory / "web.toml")))
    points: list[Point] = []
    ends = threading.Event()
    with controller(lab, True):
        time.sleep(2)
        begun = time.monotonic() + PLOT_BEFORE
        watching = threading.Thread(
            target=inside, args=(lab.ap, lambda: watch(lab, points, begun, ends))
        )
        watching.start()
        whole = PLOT_BEFORE + PLOT_DURING + PLOT_AFTER
        sending = threading.Thread(target=others.send, args=(whole,))
        sending.start()
        time.sleep(PLOT_BEFORE)
        flooding = flood(lab, PLOT_DURING, lab.directory / "answers")
        flooding.wait(PLOT_DURING + 30)
        sending.join()
        ends.set()
        watching.join()
    must(lab.viscum("rm", "web", "--now"))
    return points


def turns(shares: list[float], least: float = 1.0) -> int:
    """Changes of direction."""
    seen, direction, count = shares[0] if shares else 0.0, 0, 0
    for share in shares:
        if abs(share - seen) >= least:
            sign = 1 if share > seen else -1
            count += direction not in (0, sign)
            seen, direction = share, sign
    return count


def svg(points: list[Point]) -> str:
    """By hand: two lines, two axes, light and dark."""
    width, height, left, top = 720, 300, 48, 24
    first, last = points[0].at, points[-1].at

    def x(at: float) -> float:
        return left + (at - first) / (last - first) * (width - left - 16)

    def y(percent: float) -> float:
        return top + (100 - min(100.0, percent)) / 100 * (height - top - 40)

    def line(values: list[tuple[float, float]], name: str) -> str:
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in values)
        return f'<polyline class="{name}" points="{path}"/>'

    steps = [(p.at, p.share) for p in points]
    stairs = [steps[0]]
    for (_, before), (at, share) in pairwise(steps):
        stairs += [(at, before), (at, share)]
    grid = "".join(
        f'<line class="grid" x1="{left}" x2="{width - 16}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v} %</text>'
        for v in (0, 25, 50, 75, 100)
    )
    ticks = "".join(
        f'<text x="{x(t):.1f}" y="{height - 22}" text-anchor="middle">{t} s</text>'
        for t in range(0, int(last) + 1, 10)
    )
    marks = "".join(
        f'<line class="mark" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{top}" y2="{y(0):.1f}"/>'
        for t in (0, PLOT_DURING)
    )
    legend = (
        f'<text class="share" x="{left}" y="14">share of new flows</text>'
        f'<text class="cpu" x="{left + 150}" y="14">processor busy</text>'
        f'<text x="{left + 280}" y="14">set-point {SET_POINT} % dashed; overload between the'
        " vertical lines</text>"
    )
    style = (
        "text{font:12px sans-serif;fill:#555}polyline{fill:none;stroke-width:2}"
        "polyline.share{stroke:#0a66c2}text.share{fill:#0a66c2}"
        "polyline.cpu{stroke:#d9822b;stroke-width:1.2}text.cpu{fill:#d9822b}"
        ".grid{stroke:#ddd}.mark{stroke:#999;stroke-dasharray:2 4}"
        ".set{stroke:#d9822b;stroke-dasharray:6 4}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="share of new flows and load of the processor over time">'
        f'<style>{style}</style><rect width="{width}" height="{height}" fill="#fff"/>'
        f"{grid}{ticks}{marks}{legend}"
        f'<line class="set" x1="{left}" x2="{width - 16}" y1="{y(SET_POINT):.1f}" '
        f'y2="{y(SET_POINT):.1f}"/>'
        f"{line([(p.at, p.cpu) for p in points], 'cpu')}{line(stairs, 'share')}</svg>\n"
    )


# ---- the report ----------------------------------------------------------------------------------

ROWS = {
    "delivered": "others: delivered, Mbit/s",
    "lost": "others: lost, %",
    "p50": "others: round trip p50, ms",
    "p99": "others: round trip p99, ms",
    "served": "service: answered by the edge, a second",
    "service_p50": "service: p50, ms (edge and cloud)",
    "service_p99": "service: p99, ms (edge and cloud; given up after 5 s)",
    "failed": "service: failed, %",
    "edge": "service: answered by the edge, %",
}


def keep(path: Path, alone: Result, without: list[Result], guarded: list[Result]) -> None:
    """Every run, as CSV."""
    runs = {"no service": [alone], "without the guard": without, "with the guard": guarded}
    rows = [",".join(map(str, (name, *run))) for name, some in runs.items() for run in some]
    path.write_text("\n".join([",".join(("run", *Result._fields)), *rows, ""]))


def shown(values: list[float]) -> str:
    middle = statistics.median(values)
    spread = f" ({min(values):.3g} … {max(values):.3g})" if len(values) > 1 else ""
    return f"{middle:.3g}{spread}"


def report(alone: Result, without: list[Result], guarded: list[Result]) -> None:
    print("\n| | no service | without the guard | with it | ratio with/without, pair by pair |")
    print("|---|---|---|---|---|")
    for field, name in ROWS.items():
        a, b = ([getattr(r, field) for r in runs] for runs in (without, guarded))
        ratios = [y / x for x, y in zip(a, b, strict=True) if x and math.isfinite(y / x)]
        ratio = shown(ratios) if ratios else "–"
        lone = "–" if field.startswith(("ser", "fai", "edg")) else f"{getattr(alone, field):.3g}"
        print(f"| {name} | {lone} | {shown(a)} | {shown(b)} | {ratio} |")


def undisturbed(others: Others) -> Result:
    found: list[dict[str, float]] = []
    sending = threading.Thread(target=lambda: found.append(others.send(WINDOW)))
    sending.start()
    trips = others.ask(WINDOW - 1)
    sending.join()
    lost = found[0].get("lost_percent", 100.0)
    rate = found[0].get("bits_per_second", 0.0) / 1e6 * (1 - lost / 100)
    return Result(rate, lost, quantile(trips, 0.5), quantile(trips, 0.99), 0, 0, 0, 0, 0)


def only_one() -> socket.socket:
    """Held till the process ends: who builds a lab takes away the one of the same name that is
    there, and two would share the box's processor."""
    held = socket.socket(socket.AF_UNIX)
    try:
        held.bind("\0viscum-bench-guard")
    except OSError:
        sys.exit("another bench-guard runs; next: wait for its end")
    return held


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    arguments.add_argument("--pairs", type=int, default=3, help="runs of each kind (3)")
    arguments.add_argument("--softirq", action="store_true", help="forward in interrupts")
    arguments.add_argument(
        "--part", type=float, default=0.15, help="of the box, others' traffic (0.15)"
    )
    arguments.add_argument("--rate", type=float, help="Mbit/s of it, instead")
    arguments.add_argument("--out", default=str(ROOT / "docs"), help="where plot and CSV go")
    given = arguments.parse_args()
    processors = os.sched_getaffinity(0)
    if BOX not in processors or len(processors) < 2:
        sys.exit("two processors are needed: one for the box and one for the world")
    os.sched_setaffinity(0, processors - {BOX})
    with only_one(), Lab("viscum-bench-guard", wan_rtt=0, wan_rate=0, radio_rate=0) as lab:
        prepare(lab)
        threads = place(lab, given.softirq)
        how = "kernel threads (threaded NAPI)" if threads else "interrupts (RPS)"
        print(f"forwarding in {how} on processor {BOX}")
        rate = given.rate * 1e6 if given.rate else calibrate(lab, given.part, threads)
        others = Others(lab, rate)
        alone = undisturbed(others)
        without, guarded = [], []
        for pair in range(given.pairs):
            for guard in (False, True) if pair % 2 == 0 else (True, False):
                result = one_run(lab, others, guard)
                (guarded if guard else without).append(result)
                words = ", ".join(f"{k} {v:.3g}" for k, v in result._asdict().items())
                print(f"  {'with' if guard else 'without'} the guard: {words}", flush=True)
        points = over_time(lab, others)
    report(alone, without, guarded)
    settled = [p for p in points if SETTLE <= p.at <= PLOT_DURING]
    print(
        f"\nshare while overloaded, settled: {shown([p.share for p in settled])} %, the processor"
        f" {statistics.mean(p.cpu for p in settled):.0f} % busy (set-point {SET_POINT});"
        f" direction changes after settling: {turns([p.share for p in settled])}, in all"
        f" {turns([p.share for p in points])}"
    )
    out = Path(given.out)
    keep(out / "guard-runs.csv", alone, without, guarded)
    rows = [f"{p.at:.1f},{p.share:.2f},{p.cpu:.1f}" for p in points]
    (out / "guard-share.csv").write_text("\n".join(["seconds,share,cpu", *rows, ""]))
    (out / "guard-share.svg").write_text(svg(points))


if __name__ == "__main__":
    main()
