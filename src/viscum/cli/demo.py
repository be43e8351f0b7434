"""demo: real servers moved onto an access point under their clients' feet, in the lab."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click

from viscum.cli.output import note, say, table
from viscum.errors import ViscumError
from viscum.lab import CLOUD4, Lab
from viscum.rights import need_root

PHASE = 2.0  # seconds a state is watched
SPEED = 3  # seconds of one speed test
PREFIX = "viscum-demo"

CONF = """
daemon off; error_log stderr; pid {run}/nginx.pid; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off; default_type text/plain;
  client_body_temp_path {run}/b; proxy_temp_path {run}/p; fastcgi_temp_path {run}/f;
  uwsgi_temp_path {run}/u; scgi_temp_path {run}/s;
  server {{ listen 80; return 200 "{answer}"; }}
}}
"""


@dataclass
class Watch:
    """What the client that never stops asking has seen."""

    seen: list[dict[str, Any]] = field(default_factory=list)

    def follow(self, process: subprocess.Popen[Any]) -> None:
        for line in process.stdout or ():
            self.seen.append(json.loads(line))

    def since(self, begun: float) -> list[dict[str, Any]]:
        return [one for one in self.seen if one["at"] >= begun]


@click.command()
@click.option("--keep", is_flag=True, help="Leave the lab up afterwards.")
def demo(keep: bool) -> None:
    """Watch nginx and iperf3 move to the edge, be upgraded, killed, disabled and removed, while
    real clients keep talking to "the cloud" (60 ms away) and none of them notices.

    \b
    Example:
      viscum demo
    """
    need_root()
    for program in ("nginx", "iperf3", "ip", "tc", "nft"):
        if shutil.which(program) is None:
            raise ViscumError(f"{program} is not installed", hint="make setup")
    directory = Path(tempfile.mkdtemp(prefix="viscum-demo-", dir="/var/tmp"))
    lab = Lab(PREFIX)
    try:
        note("building a lab: a client, an access point, and a cloud 60 ms away")
        lab.up()
        errors = play(lab, directory)
    finally:
        if not keep:
            lab.down()
        shutil.rmtree(directory, ignore_errors=True)
    if errors:
        raise ViscumError(f"{errors} requests failed", hint="viscum demo --keep, then look around")


def play(lab: Lab, directory: Path) -> int:
    """The whole play; returns how many requests failed."""
    say(
        "\n   client 10.1.0.2 ──300 Mbit/s── wlan0 [access point] ──50 Mbit/s, 60 ms── cloud "
        f"{CLOUD4}\n"
    )
    lab.popen("cloud", ["nginx", "-c", conf(directory, "cloud", str(directory))])
    lab.popen("cloud", ["iperf3", "-s"], stdout=subprocess.DEVNULL)
    for name in ("edge, version 1", "edge, version 2"):
        conf(directory, name, "/tmp")
    _listening(lab, "80", "5201")
    watch = Watch()
    prober = lab.popen(
        "ue",
        [sys.executable, "-m", "viscum.lab.prober", CLOUD4, "80"],
        stdout=subprocess.PIPE,
        text=True,
    )
    threading.Thread(target=watch.follow, args=(prober,), daemon=True).start()

    web = ["run", "--name", "web", "--on", "wlan0", "--target", CLOUD4, "--port", "80/tcp"]
    first, second = (
        ["--", "nginx", "-c", str(directory / f"edge, version {n}.conf")] for n in (1, 2)
    )
    rows: list[tuple[str, ...]] = []

    def act(what: str, *argv: str) -> None:
        if argv:
            say(f"\n{click.style(what, bold=True)}\n# viscum {' '.join(argv)}")
            viscum(lab, *argv)
        else:
            say(f"\n{click.style(what, bold=True)}")
        rows.append((what, *_seen(watch)))

    act("the client asks the cloud")
    act("nginx is put on the access point", *web, *first)
    act("it is upgraded beside the old one", *web, "--replace", *second)
    dead = _kill(lab)
    act("its processes were killed with SIGKILL: the next SYN goes to the cloud")
    act("it is started again", "start", "web")
    act("steering is switched off", "disable", "web")
    act("and on again", "enable", "web")
    speeds = _speeds(lab)
    act("nginx is taken away", "rm", "web")
    prober.kill()
    failed = [one for one in watch.seen if "error" in one]
    # What was open on the server when it was killed can't be saved by anybody.
    cut = [one for one in failed if dead - 1 < one["at"] <= dead]
    errors = sorted({one["error"] for one in failed if one not in cut})
    say("")
    table(("WHAT HAPPENED", "ANSWERS FROM", "REQUESTS", "MEDIAN"), rows)
    say("")
    table(("SPEED TEST (iperf3)", "RESULT"), speeds)
    say(
        f"\n{len(watch.seen) - len(failed)} requests were answered, {len(failed) - len(cut)} failed"
        f" {', '.join(errors)}"
    )
    if cut:
        say(f"({len(cut)} more was open on the server in the moment it was killed)")
    return len(failed) - len(cut)


def conf(directory: Path, answer: str, run: str) -> str:
    path = directory / f"{answer}.conf"
    path.write_text(CONF.format(answer=answer, run=run))
    os.chmod(directory, 0o755)
    return str(path)


def viscum(lab: Lab, *argv: str) -> None:
    done = lab.viscum(*argv)
    for line in (done.stdout + done.stderr).splitlines():
        say(f"  {line}")
    if done.returncode:
        raise ViscumError(f"viscum {argv[0]} failed with exit status {done.returncode}")


def _seen(watch: Watch) -> tuple[str, str, str]:
    begun = time.monotonic()
    time.sleep(PHASE)
    seen = watch.since(begun)
    answers = sorted({str(one.get("answer") or one.get("error")) for one in seen})
    typical = f"{median(one['ms'] for one in seen):.1f} ms" if seen else "-"
    say(f"  {len(seen)} requests, answered by: {', '.join(answers)}, typically in {typical}")
    return ", ".join(answers), str(len(seen)), typical


def _kill(lab: Lab) -> float:
    """SIGKILL for exactly the processes of the service; returns when the last was dead."""
    done = json.loads(lab.viscum("status", "web", "--json").stdout)
    pids = [i["pid"] for g in done["generations"] for i in g["instances"] if i["pid"]]
    for pid in pids:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        handles = [os.pidfd_open(int(one)) for one in (pid, *children)]
        for handle in handles:  # the master first, lest it start others in their place
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in handles:
            select.select([handle], [], [])
            os.close(handle)
    return time.monotonic()


def _speeds(lab: Lab) -> list[tuple[str, str]]:
    say(f"\n{click.style('a speed test: the very same command each time', bold=True)}")
    test = ["iperf3", "-c", CLOUD4, "-J", "-R", "-t", str(SPEED)]
    say(f"client# {' '.join(test)}")
    rows = [("to the cloud", _speed(lab, test))]
    argv = ["run", "--name", "speed", "--on", "wlan0", "--target", CLOUD4, "--port", "5201/tcp",
            "--", "iperf3", "-s"]  # fmt: skip
    say(f"# viscum {' '.join(argv)}")
    viscum(lab, *argv)
    rows.append(("with iperf3 on the access point", _speed(lab, test)))
    say("# viscum rm speed")
    viscum(lab, "rm", "speed")
    rows.append(("after rm", _speed(lab, test)))
    return rows


def _speed(lab: Lab, test: list[str]) -> str:
    done = json.loads(lab.run("ue", test).stdout)
    if "error" in done:
        raise ViscumError(f"iperf3: {done['error']}")
    result = f"{done['end']['sum_received']['bits_per_second'] / 1e6:.0f} Mbit/s"
    say(f"  {result}")
    return result


def _listening(lab: Lab, *ports: str) -> None:
    end = time.monotonic() + 10
    while True:
        found = lab.run("cloud", ["ss", "-Htln"]).stdout
        if all(f":{port} " in found for port in ports):
            return
        if time.monotonic() > end:
            raise ViscumError("the cloud's servers did not start")
        time.sleep(0.05)
