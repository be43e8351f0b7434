"""SIGKILL of the command anywhere: the same command converges, `rm --all` leaves nothing.

Commands are killed before and after every Op (and every file written or removed), while they wait,
and at 100 random moments. Two access points share the work.
"""

from __future__ import annotations

import json
import os
import queue
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Figure, LabFactory
from e2e import snapshot
from e2e.zygote import SLEEP, Ran, Zygote
from support import need_program, wait_until
from viscum.kernel import netns, syscalls
from viscum.lab import CLOUD4, CLOUD6, Lab

SEED = 20230905
RANDOM_MOMENTS = int(os.environ.get("VISCUM_KILLS", "100"))  # a longer run: 200 and more
ROUNDS = 4
SITES = 2

HTTPD = ["busybox", "httpd", "-f", "-p", "[::]:80"]
SPEC = """name = "web"
command = {command}
upgrade = "{upgrade}"
[steer]
interfaces = ["wlan0"]
targets = {targets}
ports = ["80/tcp"]
[limits]
processes = {processes}
"""


def spec(
    command: list[str] = HTTPD,
    targets: tuple[str, ...] = (CLOUD4, CLOUD6),
    processes: int = 20,
    upgrade: str = "beside",
) -> str:
    listed = json.dumps(list(targets))
    return SPEC.format(
        command=json.dumps(command), targets=listed, processes=processes, upgrade=upgrade
    )


FILES = {
    "first": spec(),
    "upgraded": spec([*HTTPD, "-h", "/var"]),
    "replaced": spec([*HTTPD, "-h", "/var"], upgrade="replace"),
    "in-place": spec(targets=("198.18.0.11", CLOUD6), processes=30),
}
RUN = (
    *("run", "--name", "web", "--on", "wlan0", "--target", CLOUD4, "--target", CLOUD6),
    *("--port", "80/tcp", "--pids-limit", "20", "--", *HTTPD),
)
# What is there before, and the command that is killed; {} is where the spec files are.
CASES: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...]]] = {
    "run": (None, RUN),
    "upgrade": (("apply", "{}/first.toml"), ("apply", "{}/upgraded.toml")),
    "upgrade by replacing": (("apply", "{}/first.toml"), ("apply", "{}/replaced.toml")),
    "change in place": (("apply", "{}/first.toml"), ("apply", "{}/in-place.toml")),
    "disable": (("apply", "{}/first.toml"), ("disable", "--now", "web")),
    "rm": (("apply", "{}/first.toml"), ("rm", "web")),
}


class Site:
    """One access point, on which commands are killed."""

    def __init__(self, lab: Lab, files: Path, attach: str = "auto") -> None:
        self.lab = lab
        self.files = files
        self.zygote = Zygote(lambda argv, **options: lab.popen("ap", argv, **options), attach)
        self.bpf: dict[str, set[int]] = {"prog": set(), "map": set()}
        self.before = snapshot.operator(lab)
        self.nothing = snapshot.traces(lab)

    def __call__(
        self, argv: tuple[str, ...], at: int | str = -1, after: float | None = None
    ) -> Ran:
        words = (word.format(self.files) for word in argv)
        return self.zygote(*words, at=at, after=after)

    def prepare(self, case: str) -> None:
        first = CASES[case][0]
        if first is not None:
            ran = self(first)
            assert ran.status == 0, ran

    def undisturbed(self, case: str) -> tuple[Ran, snapshot.Snapshot]:
        """The points of a command and what it leaves."""
        self.prepare(case)
        ran = self(CASES[case][1])
        assert ran.status == 0, ran
        assert self(("tidy",)).status == 0
        state = self.state()
        assert self.clean() == []
        return ran, state

    def state(self) -> snapshot.Snapshot:
        """Everything of the services, as the tools and `status` see it."""
        for kind, ids in snapshot.bpf_ids(self.lab).items():
            self.bpf[kind] |= ids
        there = self(("status", "web", "--json"))
        shown = [json.loads(there.out)] if there.status == 0 else []
        for service in shown:
            for key in ("decisions", "in_bytes", "out_bytes"):
                del service[key]
            for generation in service["generations"]:
                for instance in generation["instances"]:
                    instance["alive"] = instance.pop("pid") is not None
                    for key in ("cpu", "memory", "link"):
                        del instance[key]
        return snapshot.services(self.lab, shown)

    def differs(self, expected: snapshot.Snapshot) -> list[str]:
        """The kernel makes link-local addresses and their routes in its own time."""
        found: list[str] = []

        def same() -> bool:
            found[:] = snapshot.differences(expected, self.state())
            return not found

        return _settled(same, found)

    def clean(self) -> list[str]:
        """`rm --all`, and what it left."""
        for kind, ids in snapshot.bpf_ids(self.lab).items():
            self.bpf[kind] |= ids
        ran = self(("rm", "--all"))
        if ran.status:
            return [f"rm --all: {ran}"]
        return self.left()

    def left(self) -> list[str]:
        """The kernel takes links and programs away a moment after it was told to."""
        found: list[str] = []

        def gone() -> bool:
            now, alive = snapshot.operator(self.lab), snapshot.bpf_alive(self.bpf)
            found[:] = [
                *snapshot.differences(self.before, now),
                *snapshot.differences(self.nothing, snapshot.traces(self.lab)),
                *(f"BPF {kind} {ids}" for kind, ids in alive.items() if ids),
            ]
            return not found

        return _settled(gone, found)


def _settled(condition: Callable[[], bool], found: list[str]) -> list[str]:
    try:
        wait_until(condition, "nothing that differs", 3.0)
    except AssertionError:
        pass
    return found


@pytest.fixture(scope="module")
def files() -> Iterator[Path]:
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="vt-killed-", dir="/var/tmp"))
    for name, text in FILES.items():
        (directory / name).with_suffix(".toml").write_text(text)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def sites(lab_factory: LabFactory, files: Path) -> Iterator[list[Site]]:
    need_program("busybox", "bpftool")
    made = [Site(lab_factory(), files) for _ in range(SITES)]
    yield made
    for site in made:
        site.zygote.close()
        site.lab.down()


def cycle(
    site: Site, case: str, expected: snapshot.Snapshot, at: int = -1, after: float | None = None
) -> tuple[Ran, list[str]]:
    """Kills the command, gives it again, compares, takes all away; (killed, what is wrong)."""
    site.prepare(case)
    command = CASES[case][1]
    killed = site(command, at, after)
    wrong: list[str] = []
    if killed.status not in (0, -9):
        wrong.append(f"not killed but failed: {killed}")
    again = site(command)
    removed = case == "rm" and again.status == 2 and "no such service" in again.err
    if removed:  # it had got so far that nothing is left of the service; of the directory perhaps
        lines = (line for line in site.left() if not line.startswith("files: "))
        wrong += [f"though rm finds no such service: {line}" for line in lines]
    elif again.status:
        wrong.append(f"again: {again}")
    else:
        site(("tidy",))  # what the next command would do first: forget steering without flows
        wrong += [f"differs: {line}" for line in site.differs(expected)]
    wrong += [f"after rm --all: {line}" for line in site.clean()]
    where = f"{case}, killed {f'after {after * 1000:.1f} ms' if after else f'at point {at}'}"
    where += f" ({killed.points[-1] if killed.points else 'before the first point'})"
    return killed, [f"{where}: {line}" for line in wrong]


def in_parallel(
    sites: list[Site],
    jobs: list[tuple[str, int, float | None]],
    expected: dict[str, snapshot.Snapshot],
) -> tuple[int, list[str]]:
    """(how many commands were really killed, what is wrong)."""
    todo: queue.SimpleQueue[tuple[str, int, float | None]] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    wrong: list[str] = []
    kills: list[int] = []

    def work(site: Site) -> None:
        while len(wrong) < 20:
            try:
                case, at, after = todo.get_nowait()
            except queue.Empty:
                return
            try:
                killed, lines = cycle(site, case, expected[case], at, after)
                kills.append(killed.killed)
                wrong.extend(lines)
            except Exception as error:
                wrong.append(f"{case} at {at} after {after}: {error!r}")
                return

    threads = [threading.Thread(target=work, args=(site,)) for site in sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(kills), wrong


@pytest.mark.req("N16", "N18")
@pytest.mark.parametrize("case", CASES)
def test_killed_before_and_after_every_step(sites: list[Site], case: str, figure: Figure) -> None:
    ran, expected = sites[0].undisturbed(case)
    # Between the end of one step and the beginning of the next nothing changes.
    numbers = [
        n
        for n, point in enumerate(ran.points)
        if point.startswith("after ") or n == 0 or ran.points[n - 1].startswith("before ")
    ]
    assert len(numbers) >= 4
    if case != "rm":
        assert '"drift": []' in expected["ls"]
    jobs: list[tuple[str, int, float | None]] = [(case, n, None) for n in numbers]
    kills, wrong = in_parallel(sites, jobs, {case: expected})
    assert not wrong, "\n".join(wrong)
    assert kills == len(jobs)
    figure("killed", kills, "times")


@pytest.fixture(scope="module")
def known(sites: list[Site]) -> dict[str, tuple[Ran, snapshot.Snapshot]]:
    return {case: sites[0].undisturbed(case) for case in CASES}


@pytest.mark.req("N16", "N18")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_killed_at_random_moments(
    sites: list[Site],
    known: dict[str, tuple[Ran, snapshot.Snapshot]],
    number: int,
    figure: Figure,
) -> None:
    seed = SEED + number
    chance = random.Random(seed)
    cases = [case for case in CASES for _ in range(1 + (case in ("run", "upgrade", "rm")))]
    jobs: list[tuple[str, int, float | None]] = []
    for _ in range(RANDOM_MOMENTS // ROUNDS):
        case = chance.choice(cases)
        jobs.append((case, -1, chance.random() * known[case][0].seconds))
    kills, wrong = in_parallel(sites, jobs, {case: state for case, (_, state) in known.items()})
    assert not wrong, "\n".join(wrong)
    # The others had ended by then: when their length was measured the machine was busier.
    assert kills >= len(jobs) // 4
    figure("killed", kills, f"of {len(jobs)} times, seed {seed}")


@pytest.mark.req("N16")
def test_killed_while_the_server_is_not_listening_yet(sites: list[Site]) -> None:
    site = sites[0]
    late = ("sh", "-c", "sleep 0.5; exec busybox httpd -f -p [::]:80")
    command = (*RUN[: RUN.index("--")], "--", *late)
    killed = site(command, SLEEP)
    assert killed.killed, killed
    again = site(command)
    assert again.status == 0, again
    (service,) = json.loads(site(("ls", "--json")).out)
    assert service["state"] == "running"
    assert service["generations"][0]["state"] == "live"
    assert site.clean() == []


@pytest.mark.req("N9", "N16")
@pytest.mark.parametrize("command", [("rm", "web"), ("stop", "web"), ("restart", "web")])
def test_killed_while_flows_drain(sites: list[Site], command: tuple[str, ...]) -> None:
    """The deadline is recorded: the next command keeps to it, and resets what is open then."""
    site = sites[0]
    first = site((RUN[0], "--drain", "300ms", *RUN[1:]))
    assert first.status == 0, first
    with netns.opened(site.lab.ue) as fd:
        client = syscalls.in_netns(fd, socket.create_connection, (CLOUD4, 80), 5)
    with client:
        killed = site(command, SLEEP)
        assert killed.killed, killed
        again = site(command)
        assert again.status == 0, again
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert site.clean() == []
