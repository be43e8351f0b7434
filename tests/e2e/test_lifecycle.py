"""run, upgrade, restart, stop, start, rm: with servers of every awkward kind, and held clients."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from e2e import echo
from support import wait_until
from viscum.kernel.cgroup import Group
from viscum.lab import CLOUD4, CLOUD6, CLOUDS4, Lab
from viscum.names import HostNames


@pytest.fixture
def box(lab: Lab) -> Lab:
    """A lab whose cloud runs the server."""
    echo.start(lab, "cloud", "cloud")
    return lab


def group(lab: Lab, generation: int = 1, instance: int = 0) -> Group:
    return Group(HostNames(str(lab.state_dir)).cgroup("web", generation, instance))


def machine(lab: Lab) -> dict[str, str]:
    """Everything that a service may leave on its box, but for the state directory."""
    prefix = HostNames(str(lab.state_dir)).prefix
    netns = sorted(n for n in os.listdir("/run/netns") if n.startswith(f"{prefix}."))
    groups = sorted(top for top, _, _ in os.walk("/sys/fs/cgroup") if f"/{prefix}" in top)
    commands = ("ip -br link", "ip -br addr", "ip rule", "ip -6 rule", "ip route show table all",
                "nft list ruleset", "tc qdisc", "bpftool net")  # fmt: skip
    said = {c: lab.run("ap", c.split(), check=True).stdout for c in commands}
    return said | {"netns": str(netns), "cgroups": str(groups)}


@pytest.mark.req("N2", "N16")
def test_run_again_is_nothing_to_do_and_a_different_spec_is_refused(box: Lab) -> None:
    echo.run(box)
    before = echo.status(box)
    again = echo.run(box)
    assert "nothing to do" in again.stdout
    assert _pids(box) == [i["pid"] for i in before["generations"][0]["instances"]]

    other = echo.run(box, server=echo.command("other"), ok=False)
    assert other.returncode == 2
    assert "--replace" in other.stderr
    assert echo.who(box, CLOUD4) == "edge"

    os.kill(before["generations"][0]["instances"][0]["pid"], signal.SIGKILL)
    wait_until(lambda: not group(box).populated(), "the end of the server")
    assert echo.status(box)["state"] == "dead"
    assert echo.who(box, CLOUD4) == "cloud"
    assert "started" in echo.run(box).stdout, "a dead server is started again"
    assert echo.who(box, CLOUD6) == "edge"


@pytest.mark.req("N2")
def test_a_namespace_that_somebody_keeps_alive_is_in_nobodys_way(box: Lab) -> None:
    """Its id stays in use; so it is with sockets that wait for their last acknowledgement."""
    echo.run(box)
    (pid,) = _pids(box)
    kept = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        echo.viscum(box, "rm", "web", "--now")
        echo.run(box)
        assert echo.who(box, CLOUD4) == "edge"
    finally:
        os.close(kept)


@pytest.mark.req("N8")
def test_an_upgrade_beside_leaves_old_flows_where_they_are(box: Lab) -> None:
    echo.run(box)
    with echo.hold(box, CLOUD4) as old, echo.hold(box, CLOUD6) as old6:
        upgrade = echo.begin(
            box, "run", "--replace", "--name", "web", "--on", "wlan0", "--target", CLOUD4,
            "--target", CLOUD6, "--port", "7000/tcp", "--", *echo.command("newer"),
        )  # fmt: skip
        wait_until(lambda: echo.who(box, CLOUD4) == "newer", "the new generation serves")
        assert upgrade.poll() is None, "it waits for the old flows"
        assert [g["state"] for g in echo.status(box)["generations"]] == ["live", "draining"]
        for held in (old, old6):
            assert held.name == "edge"
            assert held.alive()
        assert group(box, 1).populated()
    upgrade.communicate(timeout=20)
    assert upgrade.returncode == 0
    assert not group(box, 1).exists(), "drained, the old one is gone"
    assert [g["number"] for g in echo.status(box)["generations"]] == [2]
    assert echo.who(box, CLOUD6) == "newer"


@pytest.mark.req("N8")
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--say", "no database", "--exit", "3"), "ended before it listened"),
        (("--say", "no database", "--wait", "/nonexistent"), "did not listen within"),
    ],
)
def test_a_failed_upgrade_is_taken_back(box: Lab, flags: tuple[str, ...], reason: str) -> None:
    echo.run(box, "--start-timeout", "1s")
    before, spec = machine(box), echo.viscum(box, "export", "web").stdout
    with echo.hold(box, CLOUD4) as held:
        failed = echo.run(
            box, "--replace", "--start-timeout", "1s",
            server=echo.command("newer", *flags), ok=False,
        )  # fmt: skip
        assert failed.returncode == 1
        assert reason in failed.stderr
        assert "no database" in failed.stderr, "its last log lines"
        assert held.alive()
    assert echo.who(box, CLOUD4) == "edge"
    assert echo.viscum(box, "export", "web").stdout == spec
    assert machine(box) == before
    assert [g["state"] for g in echo.status(box)["generations"]] == ["live"]


@pytest.mark.req("N8")
def test_a_failed_upgrade_has_taken_no_flow(box: Lab, files: Path) -> None:
    """One of two new instances listens; flows it took would end when it is taken back."""
    echo.run(box)
    go, first = files / "go", files / "first"
    program = 'mkdir "$0" 2>&- && exec "$@"; until [ -e "$FILE" ]; do sleep 0.01; done; exit 3'
    words = ("sh", "-c", program.replace("$FILE", str(go)), str(first), *echo.command("newer"))
    upgrade = echo.begin(
        box, "run", "--replace", "--name", "web", "--on", "wlan0", "--target", CLOUD4,
        "--target", CLOUD6, "--port", "7000/tcp", "--instances", "2", "--", *words,
    )  # fmt: skip
    wait_until(
        lambda: (
            any(i["listens"] for i in echo.status(box)["generations"][0]["instances"])
            and len(echo.status(box)["generations"]) == 2
        ),
        "one of the new instances listens",
    )
    held = [echo.hold(box, CLOUD4) for _ in range(20)]
    go.touch()
    _, err = upgrade.communicate(timeout=20)
    assert upgrade.returncode == 1
    assert "ended before it listened" in err
    assert all(h.alive() for h in held)
    for h in held:
        h.close()


@pytest.mark.req("N2", "N16")
def test_a_first_run_that_ends_leaves_nothing_but_its_log(box: Lab) -> None:
    before = machine(box)
    failed = echo.run(
        box, server=echo.command("edge", "--say", "no database", "--exit", "3"), ok=False
    )
    assert failed.returncode == 1
    assert "no database" in failed.stderr
    assert machine(box) == before
    assert echo.status(box) == {}
    assert "no database" in echo.viscum(box, "logs", "web").stdout
    assert echo.who(box, CLOUD4) == "cloud"
    left = {p.name.removesuffix(".index") for p in box.state_dir.rglob("*") if p.is_file()}
    assert left == {"1.0.log"}
    assert echo.viscum(box, "rm", "web").stdout == "web removed\n"
    assert not (box.state_dir / "logs" / "web").exists()
    assert box.viscum("rm", "web").returncode == 2, "nothing is left of it"


@pytest.mark.req("N2")
def test_a_server_that_does_not_listen_yet_is_said_to(box: Lab, files: Path) -> None:
    go = files / "go"
    ran = echo.run(box, "--start-timeout", "300ms", server=echo.command("edge", "--wait", str(go)))
    assert "does not listen yet on 7000/tcp" in ran.stderr
    assert echo.status(box)["state"] == "not listening"
    assert echo.who(box, CLOUD4) == "cloud"
    go.touch()
    wait_until(lambda: echo.who(box, CLOUD4) == "edge", "it serves without any further command")
    assert echo.status(box)["state"] == "running"


@pytest.mark.req("N8")
def test_replace_ends_the_old_before_the_new(box: Lab, files: Path) -> None:
    """Its lock would not let the new one start beside it."""
    lock = ("--lock", str(files / "lock"))
    echo.run(box, server=echo.command("edge", *lock))
    twice = echo.run(box, "--replace", server=echo.command("newer", *lock), ok=False)
    assert twice.returncode == 1
    assert "another one runs" in twice.stderr
    assert echo.who(box, CLOUD4) == "edge"

    echo.run(box, "--replace", "--upgrade", "replace", server=echo.command("newer", *lock))
    assert echo.who(box, CLOUD4) == "newer"
    assert [len(g["instances"]) for g in echo.status(box)["generations"]] == [1]
    echo.viscum(box, "restart", "web")
    assert echo.who(box, CLOUD4) == "newer"
    assert len(echo.status(box)["generations"]) == 1


@pytest.mark.req("N8", "N16")
def test_replace_waits_without_the_lock_and_goes_back_to_the_old(box: Lab, files: Path) -> None:
    lock = ("--lock", str(files / "lock"))
    echo.run(box, server=echo.command("edge", *lock))
    before = echo.viscum(box, "export", "web").stdout
    with echo.hold(box, CLOUD4) as held:
        upgrade = echo.begin(
            box, "run", "--replace", "--upgrade", "replace", "--start-timeout", "500ms",
            "--name", "web", "--on", "wlan0", "--target", CLOUD4, "--port", "7000/tcp",
            "--", *echo.command("newer", *lock, "--say", "no database", "--wait", "/nonexistent"),
        )  # fmt: skip
        wait_until(lambda: echo.who(box, CLOUD4) == "cloud", "new flows go to the cloud")
        assert "nothing to do" not in echo.viscum(box, "--lock-timeout", "1", "tidy").stderr
        assert held.alive()
        assert upgrade.poll() is None
    _, err = upgrade.communicate(timeout=30)
    assert upgrade.returncode == 1
    assert "did not listen within" in err
    assert "no database" in err
    assert "started as it was" in err
    assert echo.who(box, CLOUD4) == "edge"
    assert echo.who(box, CLOUD6) == "edge"
    assert echo.viscum(box, "export", "web").stdout == before


@pytest.mark.req("N8")
def test_restart_stop_and_start(box: Lab) -> None:
    echo.run(box)
    with echo.hold(box, CLOUD4) as held:
        first = held.pid
    echo.viscum(box, "restart", "web")
    with echo.hold(box, CLOUD4) as held:
        assert held.name == "edge"
        assert held.pid != first
    echo.viscum(box, "stop", "web")
    assert echo.status(box)["state"] == "stopped"
    assert echo.who(box, CLOUD4) == "cloud"
    assert [n for n in os.listdir("/run/netns") if n.startswith(_prefix(box))] == []
    echo.viscum(box, "start", "web")
    assert echo.who(box, CLOUD4) == "edge"
    assert "nothing to do" in echo.viscum(box, "start", "web").stdout


@pytest.mark.req("N2", "N8")
def test_start_of_a_server_that_is_just_ending_starts_it_when_it_has(box: Lab, files: Path) -> None:
    """Somebody told it to end; it listens no more, but is still there."""
    go = files / "go"
    end = f"kill $!; until [ -e {go} ]; do sleep 0.01; done; exit"
    program = f'"$@" & trap "{end}" TERM; wait'
    echo.run(box, server=("sh", "-c", program, "sh", *echo.command("edge")))
    (old,) = _pids(box)
    os.kill(old, signal.SIGTERM)
    wait_until(lambda: echo.status(box)["state"] == "not listening", "it listens no more")
    starting = echo.begin(box, "start", "web")
    assert starting.stderr
    assert "waiting until it listens" in starting.stderr.readline()
    go.touch()
    out, err = starting.communicate(timeout=20)
    assert starting.returncode == 0, err
    assert "started" in out
    assert _pids(box) != [old]
    assert echo.who(box, CLOUD4) == "edge"


@pytest.mark.req("N8", "N16")
def test_start_takes_the_spec_that_holds_when_its_turn_comes(box: Lab, files: Path) -> None:
    """Not that of an upgrade which is taken back while it waits."""
    echo.run(box)
    go = files / "go"
    program = f"until [ -e {go} ]; do sleep 0.01; done; exit 3"
    upgrade = echo.begin(
        box, "run", "--replace", "--name", "web", "--on", "wlan0", "--target", CLOUD4,
        "--port", "7000/tcp", "--", "sh", "-c", program,
    )  # fmt: skip
    wait_until(lambda: len(echo.status(box)["generations"]) == 2, "the upgrade has begun")
    starting = echo.begin(box, "start", "web")
    assert starting.stderr
    assert "waiting for" in starting.stderr.readline()
    go.touch()
    upgrade.communicate(timeout=20)
    assert upgrade.returncode == 1
    out, err = starting.communicate(timeout=20)
    assert starting.returncode == 0, err
    assert "nothing to do" in out


@pytest.mark.req("N8", "N10")
def test_three_instances_share_and_one_that_dies_gives_its_share_to_the_cloud(box: Lab) -> None:
    echo.run(box, "--instances", "3")
    instances = echo.status(box)["generations"][0]["instances"]
    pids = {i["pid"] for i in instances}
    assert len(pids) == 3
    held = [echo.hold(box, CLOUD4) for _ in range(60)]
    counts = {pid: sum(h.pid == pid for h in held) for pid in pids}
    assert sum(counts.values()) == len(held)
    assert min(counts.values()) >= 5, "new flows are spread by hash"

    victim = instances[1]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not group(box, 1, 1).populated(), "the end of one instance")
    assert all(h.alive() for h in held if h.pid != victim)
    with_cloud = [echo.hold(box, CLOUD4) for _ in range(60)]
    now = {h.pid for h in with_cloud if h.name == "edge"}
    assert now == pids - {victim}
    assert 5 <= sum(h.name == "cloud" for h in with_cloud) <= 40, "about a third"
    echo.viscum(box, "start", "web")
    assert all(h.alive() for h in held if h.pid != victim)
    after = [echo.hold(box, CLOUD4) for _ in range(60)]
    assert {h.name for h in after} == {"edge"}
    assert len({h.pid for h in after}) == 3
    for h in (*held, *with_cloud, *after):
        h.close()


@pytest.mark.req("N2", "N17")
@pytest.mark.parametrize("end", ["by itself", "told"])
def test_foreground_ends_as_the_server_does_and_cleans_up(box: Lab, files: Path, end: str) -> None:
    before = machine(box)
    go = files / "go"
    flags = ("--for", "0.5", "--then", "7") if end == "by itself" else ("--term", "9")
    running = echo.begin(
        box, "run", "--foreground", "--name", "web", "--on", "wlan0", "--target", CLOUD4,
        "--port", "7000/tcp", "--", *echo.command("edge", "--wait", str(go), *flags),
    )  # fmt: skip
    go.touch()
    assert running.stdout
    assert "started" in running.stdout.readline()
    if end == "told":
        assert echo.who(box, CLOUD4) == "edge"
        running.send_signal(signal.SIGTERM)
    running.communicate(timeout=20)
    assert running.returncode == (7 if end == "by itself" else 9)
    assert echo.status(box) == {}
    assert machine(box) == before


@pytest.mark.req("N4", "N8")
def test_apply_of_a_directory_and_prune(box: Lab, files: Path) -> None:
    for name, target in (("web", CLOUD4), ("mail", CLOUDS4[1])):
        (files / f"{name}.toml").write_text(
            f"name = {json.dumps(name)}\ncommand = {json.dumps(list(echo.command(name)))}\n"
            f'[steer]\ninterfaces = ["wlan0"]\ntargets = ["{target}"]\nports = ["7000/tcp"]\n'
        )
    echo.viscum(box, "apply", str(files))
    assert echo.who(box, CLOUD4) == "web"
    assert echo.who(box, CLOUDS4[1]) == "mail"
    (files / "mail.toml").unlink()
    assert echo.viscum(box, "apply", str(files)).returncode == 0
    assert echo.who(box, CLOUDS4[1]) == "mail", "without --prune nothing is removed"
    before = machine(box)
    assert echo.viscum(box, "apply", str(files), "--dry-run").stdout.endswith("nothing to do\n")
    planned = echo.viscum(box, "apply", str(files), "--prune", "--dry-run").stdout
    assert "- mail" in planned
    (mail,) = (
        s for s in json.loads(echo.viscum(box, "ls", "--json").stdout) if s["name"] == "mail"
    )
    (instance,) = mail["generations"][0]["instances"]
    would = [line for line in planned.splitlines() if line.startswith("would ")]
    for taken_away in (instance["namespace"], instance["link"]):
        assert any(taken_away in line for line in would), planned
    assert machine(box) == before
    pruned = echo.viscum(box, "apply", str(files), "--prune")
    assert "- mail" in pruned.stdout
    assert echo.who(box, CLOUDS4[1]) == "cloud"
    assert echo.who(box, CLOUD4) == "web"
    exported = files / "again.toml"
    exported.write_text(echo.viscum(box, "export", "web").stdout)
    (files / "web.toml").unlink()
    assert "no change" in echo.viscum(box, "apply", str(files)).stdout


@pytest.mark.req("N2", "N4")
def test_save_keeps_the_spec_for_the_next_boot(box: Lab, files: Path) -> None:
    configured = {"env": box.environment("ap") | {"VISCUM_CONFIG_DIR": str(files)}}
    words = ("--name", "web", "--on", "wlan0", "--target", CLOUD4, "--port", "7000/tcp")
    saved = box.viscum(
        "run", *words, "--share", "50", "--save", "--", *echo.command("edge"), **configured
    )
    assert saved.returncode == 0, saved.stderr
    kept = files / "services" / "web.toml"
    assert kept.read_text() == echo.viscum(box, "export", "web").stdout
    assert "share = 50" in kept.read_text()
    echo.viscum(box, "rm", "web", "--now")
    echo.viscum(box, "apply", str(kept.parent))
    assert echo.status(box)["share"] == 50


@pytest.mark.req("N8", "N17")
def test_limits_change_in_place(box: Lab) -> None:
    echo.run(box, "--pids-limit", "50")
    with echo.hold(box, CLOUD4) as held:
        echo.run(box, "--replace", "--pids-limit", "40", "--cpus", "0.5", "--memory", "64M")
        assert held.alive()
        assert group(box).limits() == (0.5, 64 << 20, 40)
        with echo.hold(box, CLOUD4) as other:
            assert other.pid == held.pid
    assert len(echo.status(box)["generations"]) == 1


def _pids(lab: Lab) -> list[int]:
    return [i["pid"] for g in echo.status(lab)["generations"] for i in g["instances"]]


def _prefix(lab: Lab) -> str:
    return HostNames(str(lab.state_dir)).prefix + "."
