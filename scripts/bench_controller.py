"""What the controller costs at rest, and what it bears: `make bench-controller`.

At rest: a controller with its API and 100 services that run, nobody asking. RSS and PSS, and the
share of one processor over a minute.

Under load: 200 clients of the API that poll, each once a second on a connection of its own, while
50 others change a service each, one change after the other, for `--seconds`. Every answer is
counted by its status; the controller's memory, descriptors and threads, and the machine's
namespaces and BPF maps, are compared before and after.

All in a lab of its own; the requests stay on a Unix socket.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import linear_regression
from typing import Any

from viscum.lab import Lab

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
WARM = 60.0  # seconds of the load that are left out of the slope
BORNE = {200, 201, 202, 204, 304, 409, 412, 429}


def spec(number: int) -> dict[str, Any]:
    return {
        "command": ["busybox", "httpd", "-f", "-p", "80", "-h", "/srv"],
        "steer": {
            "interfaces": ["wlan0"],
            "targets": [f"198.51.100.{number + 1}"],
            "ports": ["80/tcp"],
        },
        "limits": {"log": "64K"},
    }


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


class Client:
    """One connection to the API, made again when it is closed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(
        self, method: str, what: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        for attempt in (1, 2):
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_unix_connection(self.path)
            data = b"" if body is None else json.dumps(body).encode()
            head = {"host": "localhost", "content-length": str(len(data))} | (headers or {})
            if data:
                head["content-type"] = "application/json"
            lines = "".join(f"{k}: {v}\r\n" for k, v in head.items())
            try:
                self.writer.write(f"{method} {what} HTTP/1.1\r\n{lines}\r\n".encode() + data)
                return await self._answer()
            except (ConnectionError, asyncio.IncompleteReadError):
                self.writer = None
                if attempt == 2:
                    raise
        raise AssertionError

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    async def _answer(self) -> Answer:
        assert self.reader is not None
        status = int((await self.reader.readuntil(b"\r\n")).split()[1])
        headers = {}
        while (line := (await self.reader.readuntil(b"\r\n")).strip()) != b"":
            key, _, value = line.decode().partition(":")
            headers[key.lower()] = value.strip()
        body = b""
        if status not in (204, 304):
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            self.writer = None
        return Answer(status, headers, body)


# ---- the controller from outside -----------------------------------------------------------------


class Process:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def memory(self) -> tuple[float, float]:
        """(RSS, PSS) in MB."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        found = {line.split(":")[0]: line.split() for line in text.splitlines()[1:]}
        return int(found["Rss"][1]) / 1024, int(found["Pss"][1]) / 1024

    def cpu(self) -> float:
        """Seconds used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def counts(self) -> dict[str, int]:
        return {
            "descriptors": len(os.listdir(f"/proc/{self.pid}/fd")),
            "threads": len(os.listdir(f"/proc/{self.pid}/task")),
            "namespaces": len(os.listdir("/run/netns")),
            "BPF maps": len(json.loads(_output("bpftool", "-j", "map"))),
            "BPF programs": len(json.loads(_output("bpftool", "-j", "prog"))),
        }


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


# ---- the parts of the bench ----------------------------------------------------------------------


async def make(path: str, services: int) -> None:
    client = Client(path)
    begun = time.monotonic()
    for number in range(services):
        answer = await client.ask("PUT", f"/v1/services/s{number}", spec(number))
        assert answer.status == 201, answer.body
        if sys.stderr.isatty():
            print(f"\r{number + 1} services", end="", file=sys.stderr)
    client.close()
    print(f"\r{services} services made by the API in {time.monotonic() - begun:.0f} s")


async def rest(process: Process, seconds: float) -> None:
    await asyncio.sleep(10)  # what was begun ends
    before, begun = process.cpu(), time.monotonic()
    await asyncio.sleep(seconds)
    busy = (process.cpu() - before) / (time.monotonic() - begun)
    rss, pss = process.memory()
    print(f"at rest: RSS {rss:.1f} MB, PSS {pss:.1f} MB, {100 * busy:.2f} % of one processor")


async def poll(path: str, number: int, services: int, end: float, seen: Counter[str]) -> None:
    """Once a second: the list, one service, the host, or the metrics."""
    client, chance = Client(path), random.Random(number)
    await asyncio.sleep(chance.random())
    while time.monotonic() < end:
        what = chance.choice(
            ("/v1/services?limit=50", f"/v1/services/s{chance.randrange(services)}", "/v1/host")
        )
        begun = time.monotonic()
        answer = await client.ask("GET", what)
        seen[f"GET {answer.status}"] += 1
        TIMES.append(time.monotonic() - begun)
        await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - begun)))
    client.close()


TIMES: list[float] = []


async def change(path: str, number: int, end: float, seen: Counter[str]) -> None:
    """One change of its service after the other, some with an ETag that is no longer right."""
    client, chance = Client(path), random.Random(1000 + number)
    name, tag = f"/v1/services/s{number}", ""
    while time.monotonic() < end:
        kind = chance.choice(("put", "put", "stale", "disable", "enable", "upgrade"))
        headers: dict[str, str] = {}
        if kind in ("disable", "enable"):
            answer = await client.ask("POST", f"{name}/{kind}", {})
        else:
            wanted = spec(number)
            wanted["steer"]["share"] = chance.randrange(1, 101)
            if kind == "upgrade":
                wanted["run"] = {"environment": {"ROUND": str(chance.randrange(1000))}}
            if kind == "stale":
                headers = {"if-match": '"stale"'}
            elif tag:
                headers = {"if-match": tag}
            answer = await client.ask("PUT", name, wanted, headers)
        tag = answer.headers.get("etag", "")
        seen[f"change {answer.status}"] += 1
        if answer.status not in BORNE:
            print(f"{kind} of s{number}: {answer.status} {answer.body[:300]!r}")
        if answer.status == 429:
            await asyncio.sleep(float(answer.headers.get("retry-after", "1")) * chance.random())
    client.close()


async def sample(process: Process, end: float, points: list[tuple[float, float]]) -> None:
    begun = time.monotonic()
    while time.monotonic() < end:
        await asyncio.sleep(2)
        points.append((time.monotonic() - begun, process.memory()[0]))


async def load(path: str, process: Process, services: int, seconds: float) -> bool:
    before, cpu, begun = process.counts(), process.cpu(), time.monotonic()
    seen: Counter[str] = Counter()
    points: list[tuple[float, float]] = []
    end = begun + seconds
    await asyncio.gather(
        *(poll(path, n, services, end, seen) for n in range(200)),
        *(change(path, n, end, seen) for n in range(min(50, services))),
        sample(process, end, points),
    )
    busy = (process.cpu() - cpu) / (time.monotonic() - begun)
    await asyncio.sleep(70)  # flows of upgrades drain, what is due is done
    after = process.counts()
    late = [(x, y) for x, y in points if x >= min(WARM, seconds / 2)]
    slope = linear_regression([x for x, _ in late], [y for _, y in late]).slope * 60
    TIMES.sort()
    print(f"answers in {seconds:.0f} s: {dict(sorted(seen.items()))}")
    median_ms, late_ms = (1000 * TIMES[len(TIMES) * n // 100] for n in (50, 99))
    print(f"a poll took {median_ms:.0f} ms (99 %: {late_ms:.0f} ms)")
    print(
        f"RSS {points[0][1]:.1f} MB at first, {points[-1][1]:.1f} MB at last, slope {slope:+.2f} MB"
        f" a minute after warm-up; {100 * busy:.0f} % of one processor"
    )
    print(f"before {before}")
    print(f"after  {after}")
    wrong = {k: n for k, n in seen.items() if int(k.split()[1]) not in BORNE}
    left = {k: (before[k], after[k]) for k in after if k != "threads" and after[k] > before[k] + 2}
    if wrong or left:
        print(f"WRONG: {wrong or ''} {left or ''}")
    return not (wrong or left)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--rest", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--seconds", type=float, default=300.0, help="of load; 0: none")
    given = parser.parse_args()
    with Lab("viscum-bench", wan_rtt=0, wan_rate=0, radio_rate=0) as lab:
        log = Path("/var/tmp/viscum-bench-controller.log")
        with log.open("wb") as file:
            daemon = lab.popen(
                "ap", [str(Path(sys.executable).with_name("viscumd"))], stderr=file,
                env=lab.environment("ap") | {"VISCUM_CONFIG_DIR": str(lab.directory / "etc")},
            )  # fmt: skip
        path = lab.state_dir / "api.sock"
        while not path.exists():
            assert daemon.poll() is None, log.read_text()
            time.sleep(0.05)
        process = Process(daemon.pid)
        print(f"without services: RSS {process.memory()[0]:.1f} MB")
        asyncio.run(make(str(path), given.services))
        asyncio.run(rest(process, given.rest))
        good = True
        if given.seconds:
            good = asyncio.run(load(str(path), process, given.services, given.seconds))
        faults = [line for line in log.read_text().splitlines() if "controller.error" in line]
        for line in faults[:5]:
            print(f"WRONG: {line[:400]}")
        daemon.terminate()
        daemon.wait(30)
    log.unlink()
    sys.exit(0 if good and not faults else 1)


if __name__ == "__main__":
    main()
