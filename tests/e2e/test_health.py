"""A controller asks servers how they are; what is ill or not ready takes no new flows."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import LabFactory
from e2e import echo, moody
from e2e.daemon import Daemon, running
from support import wait_until
from viscum import evolve, store
from viscum.clock import now
from viscum.lab import CLOUD4, CLOUD6, Lab
from viscum.spec import toml_value

SPEC = """
name = "web"
command = {command}
instances = {instances}
{top}
[steer]
interfaces = ["wlan0"]
targets = ["{target4}", "{target6}"]
ports = ["7000/tcp"]
when-down = "{when_down}"
[run]
restart-delay = "100ms"
stop-timeout = "300ms"
{run}
{more}
"""
PROBE = """
[probe]
type = "http"
port = 8080
interval = "150ms"
timeout = "300ms"
failures = 2
"""
NO_MORE = "new flows go to the cloud"


class Site:
    """An access point with a controller, a cloud, and a server whose mood is in a file."""

    def __init__(self, lab: Lab, daemon: Daemon, files: Path) -> None:
        self.lab = lab
        self.daemon = daemon
        self.mood = files / "mood"
        self.ready = files / "ready"
        self.before: list[str] = []  # kinds of events that were told already
        self.first = 0  # how many there were
        self.mood.write_text("well")
        self.ready.unlink(missing_ok=True)

    def apply(
        self,
        more: str = PROBE,
        *,
        run: str = "",
        instances: int = 1,
        when_down: str = "cloud",
        top: str = "",
        command: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        path = self.lab.directory / "spec.toml"
        path.write_text(
            SPEC.format(
                command=toml_value(list(command or moody.command(str(self.mood)))),
                target4=CLOUD4,
                target6=CLOUD6,
                run=run,
                more=more,
                instances=instances,
                when_down=when_down,
                top=top,
            )
        )
        return self.lab.viscum("apply", str(path))

    def serve(self, more: str = PROBE, **options: object) -> None:
        done = self.apply(more, **options)  # type: ignore[arg-type]
        assert done.returncode == 0, done.stderr

    def needs_ready(self, timeout: str = "500ms") -> str:
        """The `run.ready` of a server that is ready when a file is there."""
        words = ["sh", "-c", f"echo still warming up; test -e {self.ready}"]
        return f"ready = {toml_value(words)}\nstart-timeout = {toml_value(timeout)}"

    def told(self, kind: str) -> str:
        """The next event of that kind, in words."""

        before = self.before.count(kind)
        self.before.append(kind)
        return str(self.daemon.wait(kind, "web", before + 1)["message"])

    def new_kinds(self) -> list[str]:
        """Of all events of this test."""
        return [e["kind"] for e in self.daemon.events()[self.first :]]

    def held(self) -> float:
        return float(echo.status(self.lab)["held"]["health"])

    def who(self, target: str = CLOUD4) -> str:
        return echo.who(self.lab, target)

    def pid(self, index: int = 0) -> int:
        return int(echo.status(self.lab)["generations"][0]["instances"][index]["pid"] or 0)


@pytest.fixture(scope="module")
def box(lab_factory: LabFactory) -> Iterator[tuple[Lab, Daemon]]:
    lab = lab_factory()
    echo.start(lab, "cloud", "cloud")
    with running(lab) as daemon:
        yield lab, daemon
    lab.down()


@pytest.fixture
def site(box: tuple[Lab, Daemon], files: Path) -> Iterator[Site]:
    lab, daemon = box
    if daemon.ended():
        daemon.start()
    made = Site(lab, daemon, files)
    made.before = [e["kind"] for e in daemon.events()]
    made.first = len(made.before)
    yield made
    echo.viscum(lab, "rm", "--all", "--now")


@pytest.mark.req("C3")
@pytest.mark.parametrize("target", [CLOUD4, CLOUD6])
def test_an_unhealthy_server_takes_no_new_flows_and_keeps_its_own(site: Site, target: str) -> None:
    site.serve()
    with echo.hold(site.lab, target) as client:
        assert client.name == "edge"
        site.mood.write_text("hang")
        assert site.told("service.unhealthy") == (
            "web is unhealthy: accepted a connection, but did not answer within 300ms, "
            f"2 times in a row; {NO_MORE}"
        )
        assert site.who(target) == "cloud"
        assert "it is unhealthy" in echo.viscum(site.lab, "status", "web").stdout
        assert client.alive(), "an open connection goes on"
        assert echo.status(site.lab)["flows"] == 1, "a probe is no client's flow"
        echo.viscum(site.lab, "enable", "web")
        wait_until(lambda: site.held() == 0, "what was let go of to be held again")
        site.mood.write_text("well")
        site.told("service.healthy")
        assert site.who(target) == "edge"
        assert client.alive()
    assert site.held() == 100


@pytest.mark.req("C3", "C1")
def test_the_next_controller_goes_on_from_what_is_held(site: Site) -> None:
    site.serve()
    site.mood.write_text("hang")
    site.told("service.unhealthy")
    site.daemon.kill()
    site.mood.write_text("well")
    assert site.who() == "cloud"
    site.daemon.start()
    site.told("service.healthy")
    assert site.who() == "edge"


@pytest.mark.req("C3")
def test_a_service_made_anew_is_not_taken_for_the_one_that_was_removed(site: Site) -> None:
    site.serve()
    site.mood.write_text("hang")
    site.told("service.unhealthy")
    assert site.daemon.process is not None
    site.daemon.process.send_signal(signal.SIGSTOP)  # it sees the service before and after only
    try:
        echo.viscum(site.lab, "rm", "web", "--now")
        site.serve()
        assert site.who() == "edge", "nothing is known against it yet"
    finally:
        site.daemon.process.send_signal(signal.SIGCONT)
    site.told("service.unhealthy")
    assert site.who() == "cloud"


@pytest.mark.req("C3")
@pytest.mark.parametrize("controller", ["that runs", "that comes"])
def test_without_a_probe_nothing_is_held(site: Site, controller: str) -> None:
    site.serve()
    site.mood.write_text("error")
    assert "answered 503, 2 times in a row" in site.told("service.unhealthy")
    if controller == "that comes":
        site.daemon.kill()
    site.serve("")
    if controller == "that comes":
        assert site.held() == 0
        site.daemon.start()
    wait_until(lambda: site.held() == 100, "the hold to go")
    assert site.who() == "edge"


@pytest.mark.req("C3")
def test_one_of_two_instances_is_enough(site: Site) -> None:
    site.serve(instances=2)
    pid = site.pid(1)
    os.kill(pid, signal.SIGSTOP)
    assert site.told("service.unhealthy").startswith("web is unhealthy: 1.1: accepted")
    assert site.held() == 0
    os.kill(pid, signal.SIGCONT)
    site.told("service.healthy")


@pytest.mark.req("C3")
def test_what_may_not_go_to_the_cloud_is_not_held(site: Site) -> None:
    site.serve(when_down="drop")
    site.mood.write_text("hang")
    assert site.told("service.unhealthy").endswith("it goes on taking flows (when-down is drop)")
    assert site.held() == 100
    assert site.who() == "edge"


@pytest.mark.req("C3")
def test_a_server_that_stays_unhealthy_is_restarted_beside_its_flows(site: Site) -> None:
    site.serve(f"{PROBE}restart-after = 4\n")
    old = site.pid()
    with echo.hold(site.lab, CLOUD4) as client:
        os.kill(old, signal.SIGSTOP)
        assert site.told("service.restarting") == (
            "web has failed 4 probes in a row and is restarted"
        )
        site.told("service.healthy")
        assert site.pid() != old
        assert site.who() == "edge"
        os.kill(old, signal.SIGCONT)
        assert client.alive(), "its flow went on"
        assert client.pid == old
    wait_until(lambda: not os.path.exists(f"/proc/{old}"), "the old one to end with its last flow")


@pytest.mark.req("C3")
def test_one_that_can_not_run_twice_ends_with_its_flows_first(site: Site) -> None:
    site.serve(f"{PROBE}restart-after = 3\n", top='upgrade = "replace"')
    old = site.pid()
    with echo.hold(site.lab, CLOUD4) as client:
        site.mood.write_text("hang")
        site.told("service.restarting")
        assert client.alive()
        assert site.pid() == old
    wait_until(lambda: site.pid() not in (0, old), "the new one")
    site.mood.write_text("well")
    site.told("service.healthy")
    assert site.who() == "edge"
    (generation,) = echo.status(site.lab)["generations"]
    assert (generation["number"], generation["state"]) == (1, "live")
    assert "service.crashed" not in site.new_kinds(), "whoever restarts it knows why it ended"


@pytest.mark.req("C3")
def test_without_its_probe_it_is_let_alone_also_while_its_flows_are_waited_for(site: Site) -> None:
    site.serve(f"{PROBE}restart-after = 3\n", top='upgrade = "replace"', run='drain = "1h"')
    old = site.pid()
    with echo.hold(site.lab, CLOUD4) as client:
        site.mood.write_text("hang")
        site.told("service.restarting")
        assert client.alive()
        site.serve("", top='upgrade = "replace"', run='drain = "1h"')
        wait_until(lambda: site.held() == 100, "the hold to go")
    for _ in range(12):  # commands, which together take longer than a look at its flows
        assert site.pid() == old, "nobody asks for its restart any more"
    assert not {"service.crashed", "service.not-started"} & set(site.new_kinds())


@pytest.mark.req("C3")
def test_what_was_stopped_meanwhile_is_not_restarted(site: Site) -> None:
    """By a command that had the lock before the controller, which waits for it."""
    site.serve(f"{PROBE}restart-after = 3\n")
    state = str(site.lab.state_dir)
    with store.lock(state, "stop web", 5, print):
        site.mood.write_text("hang")
        site.told("service.restarting")
        kept = store.Store(state)
        world = kept.load("", "")
        kept.save(world.with_record(evolve.stopping(world.services["web"], now())))
    wait_until(lambda: not echo.status(site.lab)["generations"], "its end")
    wait_until(lambda: not store.is_locked(state), "the controller to have the lock no more")
    assert not echo.status(site.lab)["generations"]
    assert not {"service.crashed", "service.not-started"} & set(site.new_kinds())


@pytest.mark.req("C3", "C1")
def test_a_server_started_again_has_to_answer_first(site: Site) -> None:
    site.serve(PROBE.replace("failures = 2", "failures = 900"))
    site.mood.write_text("error")
    os.kill(site.pid(), signal.SIGKILL)
    site.told("service.restarted")
    assert site.held() == 0, "before it has failed as often as would make it unhealthy"
    assert site.who() == "cloud"
    site.mood.write_text("well")
    site.told("service.healthy")
    assert site.who() == "edge"


# ---- commands ----------------------------------------------------------------------------------


def exec_probe(*argv: str, timeout: str = "300ms") -> str:
    return (
        f'[probe]\ntype = "exec"\ncommand = {toml_value(list(argv))}\n'
        f'interval = "100ms"\ntimeout = {toml_value(timeout)}\nfailures = 1\n'
    )


@pytest.mark.req("C3")
def test_a_command_runs_where_and_as_the_server_does(site: Site) -> None:
    asks = "id -u; ls /sys/class/net; cat /proc/self/oom_score_adj; pwd; tty; echo $WORD; exit 3"
    run = 'user = "nobody"\nworking-directory = "/usr"\nenvironment = { WORD = "magic" }'
    site.serve(exec_probe("sh", "-c", f"({asks}) | tr '\\n' ' '; exit 3", timeout="5s"), run=run)
    uid = subprocess.run(["id", "-u", "nobody"], capture_output=True, text=True).stdout.strip()
    said = site.told("service.unhealthy")
    assert f"ended with status 3: {uid} eth0 lo 500 /usr not a tty magic; {NO_MORE}" in said


@pytest.mark.req("C3", "C6")
def test_a_command_is_in_the_sandbox_its_server_is_in(site: Site) -> None:
    asks = "grep -E '^(Seccomp|NoNewPrivs|CapBnd):' /proc/self/status; touch /etc/x; id -u"
    site.serve(
        exec_probe("sh", "-c", f"({asks}) 2>&1 | tr '\\n' ' '; exit 1", timeout="5s"),
        run='sandbox = "strict"',
        command=echo.command("edge"),
    )
    said = " ".join(site.told("service.unhealthy").split())
    uid = os.stat(f"/proc/{site.pid()}").st_uid
    assert uid > 65535
    expected = "CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 touch: cannot touch '/etc/x': "
    assert expected in said
    assert f"{uid}; {NO_MORE}" in said


# ---- readiness ---------------------------------------------------------------------------------


@pytest.mark.req("C3")
def test_until_it_is_ready_clients_stay_on_the_cloud(site: Site) -> None:
    site.daemon.stop()
    done = site.apply("", run=site.needs_ready())
    assert done.returncode == 0
    assert (
        f"web was not ready within 500ms: 'sh -c echo still warming up; test -e {site.ready}' "
        "ended with status 1; until it is, clients stay on the cloud" in done.stderr
    )
    assert "  | still warming up" in done.stderr
    assert site.who() == "cloud"
    site.ready.touch()
    assert site.who() == "cloud", "nobody has asked it"
    echo.viscum(site.lab, "start", "web")
    assert site.who() == "edge"
    assert echo.status(site.lab)["generations"][0]["state"] == "live"


@pytest.mark.req("C3")
def test_an_upgrade_that_is_not_ready_is_taken_back(site: Site) -> None:
    site.serve("")
    old = site.pid()
    done = site.apply("", run=site.needs_ready() + '\nenvironment = { A = "b" }')
    assert done.returncode == 1
    assert "was not ready within 500ms: 'sh -c echo still warming up;" in done.stderr
    assert "  | still warming up" in done.stderr
    assert "now: the new generation is removed; web goes on as it was" in done.stderr
    assert site.pid() == old
    assert site.who() == "edge"
    script = site.ready.with_name("script")
    script.write_text("#!/no/such\n")
    script.chmod(0o755)
    done = site.apply("", run=f'ready = ["{script}"]\nenvironment = {{ A = "b" }}')
    assert done.returncode == 1
    assert f"can't be asked whether it is ready: '{script}': " in done.stderr
    assert site.pid() == old
    site.ready.touch()
    site.serve("", run=site.needs_ready() + '\nenvironment = { A = "b" }')
    assert site.who() == "edge"
    assert site.pid() != old


@pytest.mark.req("C3")
def test_what_it_said_is_told_although_time_cut_its_last_run_off(site: Site) -> None:
    site.serve("")
    slow = f"test -e {site.ready} && exec sleep 60; touch {site.ready}; echo has no map; false"
    run = f'ready = {toml_value(["sh", "-c", slow])}\nenvironment = {{ A = "b" }}'
    done = site.apply("", run=f'{run}\nstart-timeout = "500ms"')
    assert done.returncode == 1
    assert "  | has no map" in done.stderr


@pytest.mark.req("C3", "N16")
def test_a_command_killed_while_it_waits_is_completed_by_the_next(site: Site) -> None:
    site.daemon.stop()
    site.ready.touch()
    site.serve("", run=site.needs_ready("1m"))
    site.ready.unlink()
    assert site.who() == "edge"
    words = site.lab.directory / "spec.toml"
    words.write_text(words.read_text() + "[limits]\nprocesses = 50\n")
    text = words.read_text().replace("[run]", '[run]\nenvironment = { A = "b" }')
    words.write_text(text)
    child = echo.begin(site.lab, "apply", str(words))
    assert child.stderr
    assert "waiting until it is ready" in child.stderr.readline()
    child.kill()
    child.communicate()
    assert site.who() == "edge"
    site.ready.touch()
    echo.viscum(site.lab, "apply", str(words))
    (generation,) = echo.status(site.lab)["generations"]
    assert (generation["number"], generation["state"]) == (2, "live")
    assert site.who() == "edge"


@pytest.mark.req("C3", "C1")
def test_a_controller_lets_in_what_becomes_ready(site: Site) -> None:
    site.serve("", run=site.needs_ready())
    assert site.told("service.not-ready").startswith("web listens, but is not ready: 'sh -c")
    assert site.who() == "cloud"
    site.ready.touch()
    site.told("service.ready")
    assert site.who() == "edge"
    site.ready.unlink()
    os.kill(site.pid(), signal.SIGKILL)
    site.told("service.restarted")
    site.told("service.not-ready")
    assert site.who() == "cloud", "a server that is started again has to be ready as well"
    site.ready.touch()
    site.told("service.ready")
    assert site.who() == "edge"
