"""The figures of docs/performance.md, measured here and now (`make bench-quick`, as root).

Everything happens in a lab without rates and delay, so that what is measured is the access point.
"""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

from viscum.kernel import bpf
from viscum.kernel.director import abi, attach, explain
from viscum.kernel.syscalls import in_netns
from viscum.lab import AP_LAN4, CLOUD4, Lab, ue4
from viscum.lab.processes import NETNS_DIR, processes_in
from viscum.names import HostNames

T = TypeVar("T")
ROUNDS = 7
REPEAT = 200_000
PODMAN = ["podman", "--runtime", "runc", "--cgroup-manager=cgroupfs"]
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]  # no CAP_SYS_RESOURCE
HTTPD = ["busybox", "httpd", "-f", "-p", "80", "-h"]
ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], 7))
while True:
    sock = server.accept()[0]
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := sock.recv(64): sock.sendall(data)
"""


def inside(namespace: str, function: Callable[[], T]) -> T:
    with (NETNS_DIR / namespace).open() as handle:
        return in_netns(handle.fileno(), function)


def show(name: str, value: float | str, unit: str = "") -> None:
    words = f"{value:,.3g}" if isinstance(value, float) and value < 1000 else f"{value}"
    print(f"  {name:<52} {words:>10} {unit}", flush=True)


def first_answer(address: str, port: int, word: bytes, stop: threading.Event) -> float:
    """Asks over and over; the time (time.monotonic) when the answer held the word."""
    while not stop.is_set():
        try:
            with socket.create_connection((address, port), timeout=1) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if word in b"".join(iter(lambda: sock.recv(4096), b"")):
                    return time.monotonic()
        except OSError:
            time.sleep(0.001)
    raise TimeoutError(f"no answer from {address}:{port}")


def timed(start: Callable[[], Any], namespace: str, address: str, port: int) -> float:
    """Seconds from the start of a command to the first answer of what it starts."""
    stop = threading.Event()
    answers: list[float] = []

    def ask() -> None:
        answers.append(first_answer(address, port, b"edge", stop))

    asking = threading.Thread(target=inside, args=(namespace, ask))
    asking.start()
    began = time.monotonic()
    try:
        start()
        asking.join(20)
    finally:
        stop.set()
        asking.join()
    return answers[0] - began


def cold_start(lab: Lab, www: Path) -> None:
    print("cold start of a busybox httpd to its first answer, in turn, medians")
    root = www.parent / "root"
    for name in ("bin", "www", "tmp", "proc", "dev", "sys", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin" / "busybox")
    shutil.copy(www / "index.html", root / "www")
    ours: list[float] = []
    theirs: list[float] = []
    podman = shutil.which("podman") and shutil.which("runc")
    for _ in range(ROUNDS):
        ours.append(timed(lambda: run(lab, www), lab.ue, CLOUD4, 80))
        must(lab.viscum("rm", "web", "--now"))
        if podman:
            options = ["--rm", "-d", "--name", "viscum-bench", "-p", "18080:80", "--rootfs"]
            words = [*PODMAN, "run", *LIMITS, *options, str(root), "/bin/busybox", *HTTPD[1:]]
            command = [*words, "/www"]
            # in the access point's namespace as ours is, asked by the same client
            start = partial(must_run, lab, command)
            theirs.append(timed(start, lab.ue, AP_LAN4, 18080))
            must_run(lab, [*PODMAN, "rm", "-f", "-t", "0", "viscum-bench"])
    show("viscum run", statistics.median(ours) * 1000, f"ms {spread(ours)}")
    if theirs:
        show("podman run -p", statistics.median(theirs) * 1000, f"ms {spread(theirs)}")
        ratio = statistics.median(ours) / statistics.median(theirs)
        show("ratio (aim: at most 0.25)", ratio)
    else:
        show("podman run -p", "–", "(apt-get install podman runc)")


def must_run(lab: Lab, argv: list[str]) -> None:
    must(lab.run("ap", argv))


def spread(seconds: list[float]) -> str:
    return f"({min(seconds) * 1000:.0f} … {max(seconds) * 1000:.0f})"


def must(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        sys.exit(f"{' '.join(map(str, done.args))}: {done.stderr}")


def run(lab: Lab, www: Path) -> None:
    words = ["--name", "web", "--on", "wlan0", "--target", CLOUD4, "--port", "80/tcp"]
    must(lab.viscum("run", *words, "--", *HTTPD, str(www)))


def pids() -> set[int]:
    return {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()}


def resident(lab: Lab, www: Path) -> None:
    print("what stays behind a command")
    before = pids()
    run(lab, www)
    ours = f"{HostNames(str(lab.state_dir)).prefix}.web.*"
    service = [p for n in NETNS_DIR.glob(ours) for p in processes_in(n)]
    new = {p for p in pids() - before if started_by(p, lab)}
    show("processes of the service", str(len(service)))
    show("processes beyond it", str(len(new - set(service))))
    times = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        must(lab.viscum("ls"))
        times.append(time.monotonic() - began)
    show("viscum ls (aim: at most 150)", statistics.median(times) * 1000, "ms")


def started_by(pid: int, lab: Lab) -> bool:
    """Whether it comes from a viscum command of this lab: what those start inherits this."""
    try:
        return f"VISCUM_STATE_DIR={lab.state_dir}".encode() in Path(
            f"/proc/{pid}/environ"
        ).read_bytes().split(b"\0")
    except OSError:
        return False


def per_packet(lab: Lab) -> None:
    udp = ["--name", "udp", "--on", "wlan0", "--target", CLOUD4, "--port", "53/udp"]
    server = "import socket; s=socket.socket(2,2); s.bind(('0.0.0.0',53))"
    must(lab.viscum("run", *udp, "--", sys.executable, "-c", f"{server}\nwhile 1: s.recv(999)"))
    print(f"ns per packet (BPF_PROG_TEST_RUN, {REPEAT:,} times, least of 5)")
    client, target = IPv4Address(ue4()), IPv4Address(CLOUD4)
    connection = inside(lab.ue, lambda: socket.create_connection((CLOUD4, 80)))
    port = connection.getsockname()[1]
    ack = frozenset({"ack"})
    packets = {
        "miss": explain.Packet("tcp", client, IPv4Address("192.0.2.1"), 4000, 80, ack),
        "established": explain.Packet("tcp", client, target, port, 80, ack),
        "SYN": explain.Packet("tcp", client, target, 4001, 80, frozenset({"syn"})),
        "UDP": explain.Packet("udp", client, target, 4002, 53, payload=bytes(64)),
    }
    link = json.loads(lab.run("ap", ["ip", "-j", "link", "show", "wlan0"]).stdout)[0]
    frames = {name: packet.frame(link["address"]) for name, packet in packets.items()}

    def measure() -> None:
        (there,) = (a for a in attach.find() if a.ifindex == link["ifindex"])
        program = bpf.program_by_id(there.prog_id)
        maps = {m.name: m for m in map(bpf.map_by_id, program.map_ids())}
        known = maps["targets"].get(abi.address(target))
        assert known is not None
        have = 1
        for count in (1, 1000, 100_000):
            for n in range(have, count):
                maps["targets"].add(abi.address(IPv4Address(0x0B000000 + n)), known)
            have = count
            for name, frame in frames.items():
                runs = [
                    program.test_run(frame, ifindex=link["ifindex"], repeat=REPEAT)[1]
                    for _ in range(5)
                ]
                show(f"{name}, {count:,} target{'s' * (count > 1)}", str(min(runs)), "ns")

    inside(lab.ap, measure)
    connection.close()


def round_trips(lab: Lab, address: str, seconds: float = 2.0) -> float:
    def measure() -> float:
        with socket.create_connection((address, 7), timeout=5) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            count, began = 0, time.monotonic()
            while time.monotonic() - began < seconds:
                sock.sendall(bytes(64))
                sock.recv(64)
                count += 1
            return (time.monotonic() - began) / count

    return inside(lab.ue, measure)


def throughput(lab: Lab, address: str) -> float:
    words = lab.run("ue", ["iperf3", "-J", "-t", "3", "-c", address]).stdout
    return float(json.loads(words)["end"]["sum_received"]["bits_per_second"])


def whole_path(lab: Lab) -> None:
    print("64 bytes there and back, and throughput, client to …")

    def both(name: str, address: str) -> None:
        show(f"{name}: round trip", round_trips(lab, address) * 1e6, "µs")
        show(f"{name}: throughput", throughput(lab, address) / 1e9, "Gbit/s")

    for role, address in (("cloud", CLOUD4), ("ap", AP_LAN4)):
        lab.popen(role, [sys.executable, "-c", ECHO, address])
        lab.popen(role, ["iperf3", "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        inside(lab.ue, lambda a=address: await_port(a, 7, 5201))  # type: ignore[misc]
    both("the cloud (no delay)", CLOUD4)
    both("a process on the access point (the limit)", AP_LAN4)
    for name, port, command in (
        ("echo", "7/tcp", [sys.executable, "-c", ECHO, "0.0.0.0"]),
        ("iperf", "5201/tcp", ["iperf3", "-s"]),
    ):
        words = ["--name", name, "--on", "wlan0", "--target", CLOUD4, "--port", port]
        must(lab.viscum("run", *words, "--", *command))
    both("the edge", CLOUD4)


def await_port(address: str, *ports: int) -> None:
    for port in ports:
        while True:
            try:
                socket.create_connection((address, port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.01)


def main() -> None:
    # not below /tmp: a service has one of its own
    with tempfile.TemporaryDirectory(prefix="viscum-bench-", dir="/var/tmp") as directory:
        www = Path(directory, "www")
        www.mkdir()
        Path(directory).chmod(0o755)
        (www / "index.html").write_text("edge\n")
        with Lab("viscum-bench", wan_rtt=0, wan_rate=0, radio_rate=0) as lab:
            cold_start(lab, www)
            resident(lab, www)
            per_packet(lab)
            must(lab.viscum("rm", "--all", "--now"))
            whole_path(lab)


if __name__ == "__main__":
    main()
