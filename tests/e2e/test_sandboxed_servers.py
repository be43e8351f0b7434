"""Real, unmodified servers in a strict sandbox (C6): each serves a client, as it would without."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.net import DGRAM, ok, run, sock
from e2e.servers import body
from support import need_program, wait_until
from viscum.kernel import process
from viscum.kernel.cgroup import Group
from viscum.lab import CLOUD4, CLOUD6, Lab
from viscum.names import HostNames

pytestmark = pytest.mark.req("C6")

TARGETS = (CLOUD4, CLOUD6)


@pytest.fixture(scope="module")
def lab(lab_factory: Callable[..., Lab]) -> Iterator[Lab]:
    made = lab_factory()
    yield made
    made.down()


@pytest.fixture
def place() -> Iterator[Path]:
    """For servers' files; not below /var/tmp, which is a sandboxed service's own."""
    directory = Path("/srv") / f"vt-{os.getpid()}"
    directory.mkdir()
    (directory / "index.html").write_text("from the sandbox")
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def serve(lab: Lab) -> Iterator[Callable[..., None]]:
    """serve(port, command…): as a sandboxed service, until the end of the test."""

    def start(port: str, *command: str, options: tuple[str, ...] = ()) -> None:
        ports = [word for p in port.split() for word in ("--port", p)]
        run(lab, "svc", TARGETS, *ports, "--sandbox", "strict", *options, "--", *command)
        names = HostNames(str(lab.state_dir))
        pids = Group(names.cgroup("svc", 1, 0)).pids()
        assert process.main_pid(Group(names.cgroup("svc", 1, 0))) in pids
        for pid in pids:
            status = Path(f"/proc/{pid}/status").read_text()
            assert "\nSeccomp:\t2\n" in status
            assert "\nCapEff:\t0000000000000000\n" in status

    yield start
    ok(lab.viscum("rm", "--now", "svc"))


def answers(lab: Lab, expected: str) -> None:
    assert [body(lab, target) for target in TARGETS] == [expected] * 2


@pytest.mark.parametrize("sendfile", ["on", "off"])
def test_nginx(lab: Lab, serve: Callable[..., None], place: Path, sendfile: str) -> None:
    """As packaged, with a `user`: a master that is not root can't change to it, says so and goes
    on as what it is. Only its log has to go to standard error (/var/log is not there)."""
    need_program("nginx", "curl")
    conf = place / "nginx.conf"
    conf.write_text(f"""
user www-data; worker_processes 2; pid /run/nginx.pid; daemon off; error_log stderr;
events {{ worker_connections 768; multi_accept on; }}
http {{
  sendfile {sendfile}; tcp_nopush on; access_log off; gzip on;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p;
  fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server {{ listen 80 reuseport; listen [::]:80 reuseport; root {place}; }}
}}
""")
    serve("80/tcp", "nginx", "-c", str(conf))
    answers(lab, "from the sandbox")
    assert "makes sense only if the master process runs" in ok(lab.viscum("logs", "svc"))


PYTHON = """
import functools, http.server, socket, socketserver, sys
socketserver.ThreadingTCPServer.address_family = socket.AF_INET6
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
socketserver.ThreadingTCPServer(("::", 80), handler).serve_forever()
"""


def test_python(lab: Lab, serve: Callable[..., None], place: Path) -> None:
    """What `python -m http.server` is, but for its asking DNS for its own name first, which takes
    ten seconds where there is none."""
    serve("80/tcp", "/usr/bin/python3", "-c", PYTHON, str(place))
    answers(lab, "from the sandbox")


def test_busybox(lab: Lab, serve: Callable[..., None], place: Path) -> None:
    need_program("busybox")
    serve("80/tcp", "busybox", "httpd", "-f", "-p", "80", "-h", str(place))
    answers(lab, "from the sandbox")


NODE = """
const { Worker, isMainThread } = require('worker_threads');
const http = require('http'), fs = require('fs'), os = require('os'), dns = require('dns');
let n = 0;
for (let i = 0; i < 1e6; i++) n = (n * 31 + i) % 65521;   // enough for the compiler to begin
new Worker('1', { eval: true });
fs.writeFileSync('/tmp/page', 'from the sandbox');
http.createServer((q, a) => {
  dns.lookup('svc', e => fs.readFile('/tmp/page', (f, page) =>
    a.end(e || f ? String(e || f) : page + (os.networkInterfaces().eth0 ? '' : ' no eth0'))));
}).listen(80);
"""


def test_node(lab: Lab, serve: Callable[..., None], place: Path) -> None:
    """A compiler at run time, threads, names, files, and the list of interfaces (by netlink)."""
    need_program("node")
    (place / "server.js").write_text(NODE)
    serve("80/tcp", "node", str(place / "server.js"), options=("--memory", "256M"))
    answers(lab, "from the sandbox")


def test_iperf3(lab: Lab, serve: Callable[..., None]) -> None:
    need_program("iperf3")
    serve("5201/tcp 5201/udp", "iperf3", "-s")
    done = lab.run("ue", ["iperf3", "--json", "-c", CLOUD4, "-n", "20M"])
    report = json.loads(done.stdout)
    assert "error" not in report, report["error"]
    assert report["end"]["sum_received"]["bytes"] > 10e6  # what is in flight is not counted


def test_dnsmasq(lab: Lab, serve: Callable[..., None]) -> None:
    """It listens on port 53 without a capability."""
    need_program("dnsmasq")
    serve(
        "53/udp 53/tcp", "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts",
        "--conf-file=/dev/null", "--pid-file", "--address=/edge.test/192.0.2.9",
    )  # fmt: skip
    question = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\4edge\4test\0\0\1\0\1"

    def answer() -> bytes:
        with sock(lab, "ue", CLOUD4, DGRAM, timeout=2) as client:
            client.connect((CLOUD4, 53))
            try:
                client.send(question)
                return client.recv(512)
            except OSError:
                return b""

    # UDP flows that are unknown at first are taken for older ones, of the cloud.
    said = wait_until(answer, "the end of arming", 20)
    assert said.endswith(bytes((192, 0, 2, 9)))
