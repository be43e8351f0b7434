"""Clients that never retry notice none of 20 switches between the cloud and four kinds of edge."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from conftest import Figure
from e2e.load import Answer, Load
from support import need_program, wait_until
from viscum.lab import CLOUD4, CLOUD6, Lab

CYCLES = 5  # of four transitions
EACH = 105  # answers awaited after every transition: 20 × 105 > 2,000
LONG = 3  # transfers begun after every transition: 20 × 3 > 50
SIZE = 2_000_000  # bytes of each, at 1 MB/s: they live through the next transitions

CONF = """
daemon off; error_log stderr; pid /tmp/{name}.pid; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_timeout 0; default_type text/plain;
  client_body_temp_path {temp}/b; proxy_temp_path {temp}/p; fastcgi_temp_path {temp}/f;
  uwsgi_temp_path {temp}/u; scgi_temp_path {temp}/s;
  server {{
    listen 80; listen [::]:80;
    add_header X-From "{name}:$pid";
    location / {{ return 200 "hello"; }}
    location = /big {{ root {files}; limit_rate 1m; }}
  }}
}}
"""


@pytest.fixture
def files(files: Path) -> Path:
    """/big, beside the servers' configurations."""
    (files / "big").write_bytes(os.urandom(SIZE))
    return files


def nginx(name: str, files: Path, temp: Path | str = "/tmp") -> tuple[str, ...]:
    conf = files / f"{name}.conf"
    conf.write_text(CONF.format(name=name, temp=temp, files=files))
    return ("nginx", "-c", str(conf))


@pytest.mark.slow
@pytest.mark.req("N5", "N8", "N9")
def test_no_client_notices(lab: Lab, files: Path, figure: Figure) -> None:
    need_program("nginx")
    (files / "t").mkdir()
    lab.popen("cloud", nginx("cloud", files, files / "t"))
    wait_until(lambda: ":80" in lab.run("cloud", ["ss", "-Htln"]).stdout, "the cloud's nginx")
    digest = hashlib.sha256((files / "big").read_bytes()).hexdigest()
    states: list[tuple[int, str]] = []  # since when who answers

    def run(generation: int) -> None:
        viscum(
            "run", "--replace", "--name", "web", "--on", "wlan0", "--target", CLOUD4,
            "--target", CLOUD6, "--port", "80/tcp", "--", *nginx(f"edge{generation}", files),
        )  # fmt: skip

    def viscum(*words: str) -> None:
        done = lab.viscum(*words)
        assert done.returncode == 0, done.stderr
        assert "reset" not in done.stdout, "no flow may have to be ended"

    def expect(load: Load, name: str, unlike: str = "") -> str:
        """Every request begun from now on is answered by `name`, by another process than
        `unlike`; returns who it was."""
        moment = time.monotonic_ns()
        for number in range(LONG):
            load.fetch((CLOUD4, CLOUD6)[number % 2])
        load.wait(lambda a: a.kind == "short" and a.begun > moment, EACH)
        answers = [a for a in load.answers if a.begun > moment]
        wrong = [a for a in answers if a.error or a.origin.partition(":")[0] != name]
        assert not wrong, f"after {len(states)} transitions {name} should answer, but {wrong[:3]}"
        origins = {a.origin for a in answers}
        assert len(origins) == 1
        assert unlike not in origins
        states.append((moment, name))
        assert {":" in a.target for a in answers} == {True, False}, "IPv4 and IPv6"
        return origins.pop()

    # Few ports: nearly every connection takes those of one that a server has in TIME_WAIT.
    ports = "net.ipv4.ip_local_port_range=40000 40499"
    lab.run("ue", ["sysctl", "-qw", ports], check=True)
    run(0)
    began = time.monotonic()
    with Load(lab, [CLOUD4, CLOUD6], short=4, hash=digest, pause=0.005) as load:
        edge = expect(load, "edge0")
        for cycle in range(1, CYCLES + 1):
            viscum("disable", "web")
            expect(load, "cloud")
            viscum("enable", "web")
            expect(load, f"edge{cycle - 1}")
            run(cycle)
            edge = expect(load, f"edge{cycle}")
            viscum("restart", "web")
            expect(load, f"edge{cycle}", unlike=edge)

    took = time.monotonic() - began
    assert load.errors() == {}
    short = [a for a in load.answers if a.kind == "short"]
    long = [a for a in load.answers if a.kind == "long"]
    assert len(states) == 4 * CYCLES + 1
    assert len(short) >= 2000
    assert len(long) >= 50
    for transfer in long:  # each ends where it began, whatever happened meanwhile
        name = [name for since, name in states if since < transfer.begun][-1]
        assert transfer.origin.partition(":")[0] == name
    through = sum(any(t.begun < since < t.ended for since, _ in states) for t in long)
    assert through >= 20, "transfers live through transitions"
    figure("transitions", 4 * CYCLES, f"in {took:.0f} s")
    figure("short requests", len(short), f"({_from(short, 'edge')} answered by the edge)")
    figure("long transfers", len(long), f"({_from(long, 'edge')} by the edge)")
    figure("long transfers that lived through a transition", through, "")
    figure("errors by errno", str(load.errors() or 0), "")


def _from(answers: list[Answer], where: str) -> int:
    return sum(a.origin.startswith(where) for a in answers)
