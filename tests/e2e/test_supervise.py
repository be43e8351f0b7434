"""The controller starts servers again, adopts those of others, and is missed by nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Figure
from e2e import echo
from e2e.daemon import Daemon, running
from e2e.net import apply
from support import wait_until
from viscum.lab import CLOUD4, Lab
from viscum.spec import toml_value

SPEC = """
name = "web"
command = {command}
{top}
[steer]
interfaces = ["wlan0"]
targets = ["{target}"]
ports = ["7000/tcp"]
[run]
start-timeout = "3s"
restart-delay = "200ms"
restart-max-delay = "10s"
{run}
"""


def serve(lab: Lab, *flags: str, run: str = "", top: str = "") -> None:
    command = toml_value(list(echo.command("edge", *flags)))
    apply(lab, SPEC.format(command=command, target=CLOUD4, run=run, top=top))


def python(then: str) -> tuple[str, ...]:
    """A server that listens, and then does something else."""
    listen = "import socket; s = socket.create_server(('', 7000))"
    return (sys.executable, "-I", "-S", "-c", f"{listen}\n{then}")


def pid(lab: Lab) -> int:
    instance = echo.status(lab)["generations"][0]["instances"][0]
    return instance["pid"] or 0


def kill(lab: Lab) -> int:
    """The server; what its process id was."""
    number = pid(lab)
    os.kill(number, signal.SIGKILL)
    return number


@pytest.mark.req("C1")
def test_a_server_that_crashes_is_reported_and_started_again(lab: Lab) -> None:
    with running(lab) as daemon:
        serve(lab, "--say", "last words " * 99, "--for", "0.6", "--then", "7")
        first = daemon.wait("service.crashed", "web")
        assert first["data"]["status"] == 7
        assert first["data"]["log"][-1] == ("last words " * 99)[:300]
        assert first["data"]["restart_in"] == 0.2
        assert first["level"] == "error"
        assert "web/1.0 ended with status 7" in first["message"]
        daemon.wait("service.restarted", "web")
        delays = [daemon.wait("service.crashed", "web", n)["data"]["restart_in"] for n in (2, 3)]
        assert delays == [0.4, 0.8], "it waits longer each time"
        echo.viscum(lab, "stop", "web")
        count = len(daemon.events("service.crashed"))
        echo.viscum(lab, "rm", "web")
        assert len(daemon.events("service.crashed")) == count, "what is stopped has not crashed"


@pytest.mark.req("C1")
@pytest.mark.parametrize(
    ("policy", "status", "again"),
    [
        ("always", "0", True),
        ("on-failure", "0", False),
        ("on-failure", "3", True),
        ("no", "3", False),
    ],
)
def test_policies(lab: Lab, policy: str, status: str, again: bool) -> None:
    with running(lab) as daemon:
        serve(lab, "--for", "2", "--then", status, run=f'restart = "{policy}"')
        kind = "service.ended" if status == "0" else "service.crashed"
        ended = daemon.wait(kind, "web")
        assert ended["data"]["status"] == int(status)
        assert (ended["data"]["restart_in"] is not None) == again
        if again:
            daemon.wait(kind, "web", count=2)
            return
        assert echo.status(lab)["state"] == "dead"
        # By hand it is started all the same, and watched again.
        echo.viscum(lab, "start", "web")
        daemon.wait(kind, "web", count=2)
        assert not daemon.events("service.restarted")


@pytest.mark.req("C1")
def test_what_others_started_is_adopted_and_flows_outlive_controllers(lab: Lab) -> None:
    """Killed, started, stopped: no controller's end or beginning touches a flow or a server."""
    echo.start(lab, "cloud", "cloud")
    serve(lab)
    before = pid(lab)
    with echo.hold(lab, CLOUD4) as held, running(lab) as daemon:
        for _ in range(2):
            daemon.kill()
            assert held.alive()
            assert echo.who(lab, CLOUD4) == "edge"
            daemon.start()
            assert held.alive()
        assert daemon.stop() == 0
        assert held.alive()
        assert (pid(lab), echo.who(lab, CLOUD4)) == (before, "edge")
        assert not daemon.events("service.crashed")
        daemon.start()
        kill(lab)
        crash = daemon.wait("service.crashed", "web")
        assert crash["data"]["status"] == 128 + signal.SIGKILL
        assert "was killed by SIGKILL" in crash["message"]
        daemon.wait("service.restarted", "web")
        assert echo.who(lab, CLOUD4) == "edge"


@pytest.mark.req("C1")
def test_a_server_that_ended_while_no_controller_was_there_is_started(lab: Lab) -> None:
    serve(lab)
    old = kill(lab)
    wait_until(lambda: echo.status(lab)["state"] == "dead", "its end")
    with running(lab) as daemon:
        daemon.wait("service.restarted", "web")
        assert pid(lab) not in (0, old)


@pytest.mark.req("C1")
def test_a_server_that_does_not_listen_in_time_is_tried_again(lab: Lab, files: Path) -> None:
    """Also one that says it was no failure when it is ended for that."""
    (files / "go").touch()
    with running(lab) as daemon:
        serve(lab, "--wait", str(files / "go"), "--term", "0")
        (files / "go").unlink()
        kill(lab)
        daemon.wait("service.start-timeout", "web")
        late = daemon.wait("service.crashed", "web", count=2)
        assert "did not listen in time and was ended; it is started again in" in late["message"]
        assert late["data"]["status"] == 0
        (files / "go").touch()
        daemon.wait("service.restarted", "web")
        wait_until(lambda: echo.status(lab)["state"] == "running", "it to run")


@pytest.mark.req("C1")
def test_commands_are_not_taken_for_crashes(lab: Lab) -> None:
    with running(lab) as daemon:
        serve(lab)
        for words in (
            ("restart", "web"),
            ("stop", "web"),
            ("start", "web"),
            ("disable", "web"),
            ("enable", "web"),
        ):
            echo.viscum(lab, *words)
        serve(lab, "--say", "another generation")
        serve(lab, "--say", "a third", top='upgrade = "replace"')
        echo.viscum(lab, "rm", "web")
        serve(lab)
        kill(lab)
        daemon.wait("service.restarted", "web")
        assert len(daemon.events("service.crashed")) == 1


@pytest.mark.req("C1")
def test_an_upgrade_that_is_about_to_be_taken_back_is_no_crash(lab: Lab, files: Path) -> None:
    """One of its two servers ends while the command still waits for the other to listen."""
    ends = f"import os, sys, time; os.mkdir('{files}/one'); time.sleep(1); sys.exit(3)"
    stays = "import time; time.sleep(60)"
    (files / "python.py").write_text(f"try: {ends}\nexcept FileExistsError: {stays}\n")
    os.chmod(files, 0o777)
    with running(lab) as daemon:
        serve(lab)
        command = toml_value([sys.executable, "-I", "-S", str(files / "python.py")])
        path = lab.directory / "two.toml"
        path.write_text(SPEC.format(command=command, target=CLOUD4, run="", top="instances = 2"))
        done = lab.viscum("apply", str(path))
        assert "the new generation is removed; web goes on as it was" in done.stderr
        kill(lab)
        crash = daemon.wait("service.crashed", "web")
        assert crash["message"].startswith("web/1.0 was killed")
        daemon.wait("service.restarted", "web")
        assert len(daemon.events("service.crashed")) == 1


@pytest.mark.req("C1")
def test_one_instance_of_several_is_started_again(lab: Lab) -> None:
    serve(lab, top="instances = 2")

    def pids() -> list[int]:
        return [i["pid"] for i in echo.status(lab)["generations"][0]["instances"]]

    before = pids()
    with running(lab) as daemon:
        os.kill(before[1], signal.SIGKILL)
        daemon.wait("service.restarted", "web")
        assert pids()[0] == before[0]
        assert pids()[1] not in (None, before[1])


@pytest.mark.req("C1")
def test_out_of_memory_is_called_so(lab: Lab) -> None:
    hog = python("import time; time.sleep(1); x = b'x' * (1 << 28)")
    with running(lab) as daemon:
        apply(
            lab,
            SPEC.format(command=toml_value(list(hog)), target=CLOUD4, run="", top="")
            + '[limits]\nmemory = "64M"\n',
        )
        crash = daemon.wait("service.crashed", "web")
        assert crash["data"]["out_of_memory"]
        assert "out of memory" in crash["message"]
        echo.viscum(lab, "rm", "web")


@pytest.mark.req("C1")
@pytest.mark.slow
def test_controllers_come_and_go_under_load(lab: Lab, figure: Figure) -> None:
    """Connections one after the other, and one that stays: none fails while controllers are killed
    and started and the server's crashes send clients to the cloud and back."""
    echo.start(lab, "cloud", "cloud")
    serve(lab)
    reached: list[str] = []
    with echo.hold(lab, CLOUD4) as held, running(lab) as daemon:
        for _ in range(6):
            reached += [echo.who(lab, CLOUD4) for _ in range(25)]
            daemon.kill()
            reached += [echo.who(lab, CLOUD4) for _ in range(25)]
            daemon.start()
        assert held.alive()
    assert set(reached) == {"edge"}
    figure("connections while six controllers were killed", len(reached), "none failed")


@pytest.mark.req("C1")
def test_two_controllers_of_one_host_are_one_too_many(lab: Lab) -> None:
    with running(lab) as daemon:
        assert daemon.process is not None
        second = lab.viscum("controller", timeout=20)
        assert second.returncode == 1
        assert f"pid {daemon.process.pid}" in second.stderr
        assert daemon.process.poll() is None
        assert f"pid {daemon.process.pid}" in lab.viscum("doctor").stdout
    assert "no controller" in lab.viscum("doctor").stdout


# ---- what is due (C2) ------------------------------------------------------------------------


@pytest.mark.req("C2")
def test_what_the_node_leaves_to_the_next_command_is_done_when_it_is_due(lab: Lab) -> None:
    echo.start(lab, "cloud", "cloud")
    with running(lab):
        serve(lab)
        # a drain whose command was killed: with its last flow, and at its limit
        with echo.hold(lab, CLOUD4) as held:
            echo.viscum(lab, "rm", "--no-wait", "web")
            assert held.alive()
        wait_until(lambda: not echo.status(lab), "the service to go with its last flow")
        serve(lab)
        with echo.hold(lab, CLOUD4) as held:
            command = echo.begin(lab, "disable", "web", "--drain", "1500ms")
            wait_until(lambda: echo.who(lab, CLOUD4) == "cloud", "new flows to go to the cloud")
            command.kill()
            assert held.was_reset()
        # `--for`, also in the records
        echo.viscum(lab, "enable", "web", "--for", "1s")
        record = lab.state_dir / "services" / "web.json"
        wait_until(lambda: '"until_ns":0' in record.read_text(), "the deadline to pass")
        assert echo.who(lab, CLOUD4) == "cloud"


@pytest.mark.req("C2")
def test_logs_stay_within_their_bound(lab: Lab) -> None:
    chatty = python("import time\nwhile True: print('x' * 4000, flush=True); time.sleep(0.002)")
    with running(lab):
        spec = SPEC.format(command=toml_value(list(chatty)), target=CLOUD4, run="", top="")
        apply(lab, spec + '[limits]\nlog = "64K"\n')
        log = lab.state_dir / "logs" / "web" / "1.0.log"
        wait_until(lambda: log.stat().st_size > 1 << 20, "a megabyte of output", 30)
        wait_until(
            lambda: log.stat().st_blocks * 512 < log.stat().st_size / 2, "the old part to go", 30
        )
        echo.viscum(lab, "rm", "--now", "web")


@pytest.mark.req("C2")
def test_an_interface_that_was_made_anew_is_steered_from_again(lab: Lab) -> None:
    make = ("ip", "link", "add", "lan1", "up", "type", "veth", "peer", "name", "lan1p")
    lab.run("ap", make, check=True)

    def reason() -> subprocess.CompletedProcess[str]:
        return lab.viscum("explain", "--on", "lan1", f"tcp 10.9.0.2:40000 > {CLOUD4}:7000 syn")

    with running(lab):
        echo.run(lab, "--on", "lan1")
        assert "goes to the edge" in reason().stdout
        lab.run("ap", ("ip", "link", "del", "lan1"), check=True)
        assert "no such interface" in reason().stderr
        lab.run("ap", make, check=True)
        wait_until(lambda: "goes to the edge" in reason().stdout, "lan1 to be steered from again")


def test_the_daemon_of_these_tests_ends_with_its_lab(lab: Lab) -> None:
    daemon = Daemon(lab).start()
    lab.down()
    assert daemon.process is not None
    assert daemon.process.poll() is not None
