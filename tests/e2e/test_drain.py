"""disable, rm and narrower steering: who is ended when, and who is not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from e2e import echo
from support import unkillable, wait_until
from viscum import drains, store
from viscum.host import Host
from viscum.lab import CLOUD4, CLOUD6, CLOUDS4, Lab
from viscum.model import Hold

OTHER = "7001"


@pytest.fixture
def box(lab: Lab) -> Lab:
    """A lab whose cloud runs the server, on two ports."""
    echo.start(lab, "cloud", "cloud", "--ports", f"{echo.PORT},{OTHER}")
    return lab


@pytest.mark.req("N9")
def test_disable_ends_no_flow(box: Lab) -> None:
    echo.run(box)
    with echo.hold(box, CLOUD4) as held, echo.hold(box, CLOUD6) as held6:
        said = echo.viscum(box, "disable", "web")
        assert "the server keeps running" in said.stderr
        assert echo.who(box, CLOUD4) == "cloud"
        assert echo.status(box)["steering"] == "cloud"
        with echo.hold(box, CLOUD6) as away:
            assert away.name == "cloud"
            echo.viscum(box, "enable", "web")
            assert echo.who(box, CLOUD4) == "edge"
            assert away.alive(), "nor does enable"
        assert held.alive()
        assert held6.alive()


@pytest.mark.req("N9")
def test_disable_drain_resets_what_is_left_and_says_how_many(box: Lab) -> None:
    echo.run(box)
    stays = [echo.hold(box, CLOUD4), echo.hold(box, CLOUD6)]
    leaves = echo.hold(box, CLOUD4)
    disable = echo.begin(box, "disable", "web", "--drain", "2s")
    wait_until(lambda: echo.who(box, CLOUD4) == "cloud", "new flows go to the cloud at once")
    assert disable.poll() is None
    assert all(h.alive() for h in (*stays, leaves)), "no flow is ended before the limit"
    leaves.close()
    out, err = disable.communicate(timeout=20)
    assert disable.returncode == 0, err
    assert "2 flows were reset" in out
    assert "flows still open, reset in" in err
    assert all(h.was_reset() for h in stays)
    assert echo.status(box)["state"] == "running"
    echo.viscum(box, "enable", "web")
    assert echo.who(box, CLOUD4) == "edge"
    for h in stays:
        h.close()


@pytest.mark.req("N9")
def test_whether_something_is_due_is_seen_without_the_lock(box: Lab) -> None:
    """Nothing while the last flow of what drains is open; then the next to look finishes it."""
    host = Host(str(box.state_dir))

    def is_due() -> bool:
        return bool(echo.within(box, "ap", lambda: drains.is_due(host, host.load())))

    echo.run(box, "--drain", "0")
    assert not is_due()
    with echo.hold(box, CLOUD4) as held:
        echo.viscum(box, "rm", "--no-wait", "web")
        with store.lock(str(box.state_dir), "another command", 5, print):
            assert not is_due()
        assert held.alive()
    wait_until(is_due, "its last flow to end")
    assert echo.status(box)["name"] == "web", "looking has changed nothing"
    assert echo.within(box, "ap", host.settle) == ({"web": 0}, {})
    assert not echo.status(box)
    echo.run(box)
    echo.viscum(box, "disable", "web", "--for", "100ms")
    wait_until(is_due, "the deadline to pass")


@pytest.mark.req("N8", "N9")
@pytest.mark.parametrize("word", ["run", "apply", "restart"])
def test_no_wait_leaves_the_old_server_to_a_later_command(
    box: Lab, tmp_path: Path, word: str
) -> None:
    echo.run(box, "--drain", "0")
    with echo.hold(box, CLOUD4) as held:
        if word == "run":
            said = echo.run(
                box, "--replace", "--no-wait", "--drain", "0", server=echo.command("newer")
            )
        elif word == "apply":
            spec = tmp_path / "web.toml"
            text = echo.viscum(box, "export", "web").stdout
            spec.write_text(text.replace('"edge"', '"newer"'))
            said = echo.viscum(box, "apply", "--no-wait", str(spec))
        else:
            said = echo.viscum(box, "restart", "--no-wait", "web")
        assert "the old server of web still has flows" in said.stderr
        assert after_tidying(box) == ["live", "draining"]
        assert held.alive()
        with echo.hold(box, CLOUD4) as new:
            assert new.pid != held.pid
    wait_until(lambda: after_tidying(box) == ["live"], "its end")


def after_tidying(box: Lab) -> list[str]:
    """The states of its generations, newest first."""
    echo.viscum(box, "tidy")
    return [g["state"] for g in echo.status(box)["generations"]]


@pytest.mark.req("N9")
def test_stop_without_waiting(box: Lab) -> None:
    echo.run(box, "--drain", "0")
    with echo.hold(box, CLOUD4) as held:
        assert echo.viscum(box, "stop", "--no-wait", "web").stdout == "web draining\n"
        assert held.alive()
        assert echo.who(box, CLOUD4) == "cloud"
    wait_until(lambda: after_tidying(box) == [], "its end")
    assert echo.status(box)["state"] == "stopped"


@pytest.mark.req("N9", "C1")
def test_enable_lets_a_controller_look_again(box: Lab) -> None:
    """Also where it changes nothing but what a controller holds back."""
    host = Host(str(box.state_dir))
    echo.run(box)
    record = host.load().services["web"]
    assert echo.within(box, "ap", lambda: host.hold(record, Hold(load=0)))
    assert echo.who(box, CLOUD4) == "cloud"
    before = host.store.version()
    echo.viscum(box, "enable", "web")
    assert echo.who(box, CLOUD4) == "edge"
    after = host.store.version()
    assert after != before
    echo.viscum(box, "enable", "web")
    assert host.store.version() == after, "nothing was held"


@pytest.mark.req("N9", "N16")
def test_one_that_can_not_be_killed_holds_up_only_itself(box: Lab) -> None:
    echo.run(box, "--target", CLOUD6, name="stuck")
    pid = echo.status(box, "stuck")["generations"][0]["instances"][0]["pid"]
    with unkillable(pid):
        os.kill(pid, signal.SIGKILL)
        done = box.viscum("rm", "--now", "stuck")
        assert done.returncode == 1
        assert "still there after SIGKILL" in done.stderr
        echo.run(box, "--target", CLOUD4)
        assert echo.who(box, CLOUD4) == "edge"
        said = echo.viscum(box, "rm", "--now", "web").stderr
        assert "stuck: what is due can't be finished: [Errno 110] still there" in said
        assert not echo.status(box)
        assert echo.status(box, "stuck")
    echo.viscum(box, "tidy")
    assert not echo.status(box, "stuck")


@pytest.mark.req("N9")
def test_disable_drain_does_not_wait_when_nothing_is_left(box: Lab) -> None:
    echo.run(box)
    held = echo.hold(box, CLOUD4)
    disable = echo.begin(box, "disable", "web", "--drain", "1h")
    wait_until(lambda: echo.who(box, CLOUD4) == "cloud", "disabled")
    held.close()
    out, err = disable.communicate(timeout=20)
    assert disable.returncode == 0, err
    assert "reset" not in out


@pytest.mark.req("N9")
def test_disable_now_resets_clients_and_nothing_else(box: Lab) -> None:
    """The server's own connection, even to the address it stands in for, and its listener live."""
    echo.run(box, server=echo.command("edge", "--dial", f"{CLOUD4}:{echo.PORT}"))
    held = [echo.hold(box, CLOUD4), echo.hold(box, CLOUD6)]
    assert {h.name for h in held} == {"edge"}
    assert held[0].ask("peer") == "peer", "by its own connection to the origin"
    said = echo.viscum(box, "disable", "web", "--now")
    assert "2 flows were reset" in said.stdout
    assert all(h.was_reset() for h in held)
    assert echo.who(box, CLOUD4) == "cloud", "who connects again reaches the cloud"
    assert echo.who(box, CLOUD6) == "cloud"
    echo.viscum(box, "enable", "web")
    with echo.hold(box, CLOUD4) as again:
        assert again.pid == held[0].pid, "its listener lives"
        assert again.ask("peer") == "peer", "its own connection lives"
    for h in held:
        h.close()


@pytest.mark.req("N6", "N9")
@pytest.mark.parametrize("verb", ["disable", "rm"])
def test_now_counts_udp_flows_as_well(box: Lab, verb: str) -> None:
    box.popen("cloud", echo.command("cloud", "--udp", "7002", "--ports", "7003"))
    echo.run(box, "--port", "7002/udp", server=echo.command("edge", "--udp", "7002"))

    def new() -> echo.Datagrams:
        made: echo.Datagrams = echo.within(box, "ue", lambda: echo.Datagrams(CLOUD4, 7002))
        return made

    wait_until(lambda: new().ask() == "edge", "UDP flows begin at the edge")
    flow = new()
    assert flow.ask() == "edge"
    flows = echo.status(box)["flows"]
    said = echo.viscum(box, verb, "web", "--now")
    assert f"{flows} flows were reset" in said.stdout
    assert flow.ask() == "cloud"


WITHOUT_DESTROY = """
import errno
from viscum.kernel import sockets
def refused(diag, flow):
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")
sockets.SockDiag._destroy = refused
"""


@pytest.mark.req("N9", "N13")
def test_a_kernel_that_cannot_reset_connections(box: Lab, files: Path) -> None:
    """Built without INET_DIAG_DESTROY: the flows go on, and so does every other command."""
    (files / "sitecustomize.py").write_text(WITHOUT_DESTROY)
    options = {"env": box.environment("ap") | {"PYTHONPATH": str(files)}}
    echo.run(box)
    with echo.hold(box, CLOUD4) as held:
        disabled = box.viscum("disable", "web", "--now", **options)
        assert disabled.returncode == 0, disabled.stderr
        assert "can't reset connections" in disabled.stderr
        assert held.alive()
        assert echo.who(box, CLOUD4) == "cloud"
        tidied = box.viscum("tidy", **options)
        assert tidied.returncode == 0, tidied.stderr
        removed = box.viscum("rm", "web", "--now", **options)
        assert removed.returncode == 0, removed.stderr
    assert echo.status(box) == {}


@pytest.mark.req("N2", "N9")
@pytest.mark.parametrize("verb", ["disable", "enable"])
def test_for_turns_back_without_any_process(box: Lab, verb: str) -> None:
    echo.run(box)
    first, then = ("cloud", "edge") if verb == "disable" else ("edge", "cloud")
    if verb == "enable":
        echo.viscum(box, "disable", "web")
    began = time.monotonic()
    echo.viscum(box, verb, "web", "--for", "2s")
    assert echo.who(box, CLOUD4) == first
    assert 0 < echo.status(box)["turns_back_in"] <= 2
    with echo.hold(box, CLOUD4) as held:
        wait_until(lambda: echo.who(box, CLOUD4) == then, "it turns back")
        assert time.monotonic() - began >= 2
        assert held.name == first
        assert held.alive(), "nor does turning back end a flow"
    assert echo.status(box)["steering"] == then
    assert echo.status(box)["turns_back_in"] is None
    echo.viscum(box, "tidy")
    assert echo.status(box)["steering"] == then
    assert echo.who(box, CLOUD6) == then
    echo.viscum(box, verb, "web")
    assert echo.who(box, CLOUD6) == first


@pytest.mark.req("N2")
def test_for_goes_back_to_what_was(box: Lab) -> None:
    """Where it changes nothing, there is nothing to go back to: no deadline turns it over."""
    echo.run(box)
    for verb, at in (("enable", "edge"), ("disable", "cloud")):
        echo.viscum(box, verb, "web")
        said = echo.viscum(box, verb, "web", "--for", "1h")
        assert f"is {verb}d without a limit in time" in said.stderr
        assert "turns back" not in said.stderr
        assert (echo.status(box)["turns_back_in"], echo.status(box)["steering"]) == (None, at)
    assert "turns back" in echo.viscum(box, "enable", "web", "--for", "1h").stderr
    assert "turns back" in echo.viscum(box, "enable", "web", "--for", "2h").stderr
    assert echo.status(box)["turns_back_in"] > 3600
    said = echo.viscum(box, "disable", "web", "--for", "1h")
    assert "is disabled without a limit" in said.stderr
    assert (echo.status(box)["turns_back_in"], echo.status(box)["steering"]) == (None, "cloud")


@pytest.mark.req("N9")
def test_rm_waits_for_the_last_flow(box: Lab) -> None:
    echo.run(box)
    held = echo.hold(box, CLOUD4)
    remove = echo.begin(box, "rm", "web")
    wait_until(lambda: echo.who(box, CLOUD4) == "cloud", "new flows go to the cloud at once")
    assert echo.status(box)["state"] == "removing"
    assert held.alive()
    assert remove.poll() is None
    held.close()
    out, err = remove.communicate(timeout=20)
    assert (remove.returncode, echo.status(box)) == (0, {}), err
    assert "reset" not in out


@pytest.mark.req("N9")
def test_rm_without_waiting_is_finished_by_a_later_command(box: Lab) -> None:
    echo.run(box)
    with echo.hold(box, CLOUD4) as held:
        said = echo.viscum(box, "rm", "web", "--no-wait")
        assert "draining" in said.stdout
        echo.viscum(box, "tidy")
        assert held.alive()
        assert echo.who(box, CLOUD4) == "cloud"
    wait_until(lambda: echo.status(box)["flows"] == 0, "the flow's end")
    echo.viscum(box, "tidy")
    assert echo.status(box) == {}
    assert not box.state_dir.exists()


@pytest.mark.req("N9", "N16")
def test_a_killed_drain_is_gone_on_with(box: Lab) -> None:
    echo.run(box)
    with echo.hold(box, CLOUD4) as held:
        disable = echo.begin(box, "disable", "web", "--drain", "2s")
        said = ""
        assert disable.stderr
        while "still open" not in said:
            said = disable.stderr.readline()
        disable.send_signal(signal.SIGKILL)
        disable.communicate(timeout=10)
        echo.viscum(box, "tidy")
        assert held.alive(), "its deadline has not come"
        assert echo.who(box, CLOUD4) == "cloud"
        wait_until(
            lambda: "1 flow was reset" in echo.viscum(box, "tidy").stdout, "the deadline's reset"
        )
        assert held.was_reset()
    echo.viscum(box, "enable", "web")
    with echo.hold(box, CLOUD4) as held:
        echo.viscum(box, "tidy")
        assert held.alive(), "the deadline is forgotten"


@pytest.mark.req("N8")
@pytest.mark.parametrize("what", ["target", "port"])
def test_narrower_steering_keeps_the_flows_it_had(box: Lab, what: str) -> None:
    ports = f"{echo.PORT},{OTHER}"
    both = ("--target", CLOUD4, "--target", CLOUDS4[1], "--port", f"{echo.PORT}/tcp",
            "--port", f"{OTHER}/tcp")  # fmt: skip
    less = both[:2] + both[4:] if what == "target" else both[:6]
    target, port = (CLOUDS4[1], echo.PORT) if what == "target" else (CLOUD4, int(OTHER))
    server = echo.command("edge", "--ports", ports)
    echo.run(box, *both, server=server)
    with echo.hold(box, target, port) as gone, echo.hold(box, CLOUD4) as kept:
        assert gone.name == kept.name == "edge"
        echo.run(box, "--replace", *less, server=server)
        assert gone.alive()
        assert kept.alive()
        assert echo.who(box, target, port) == "cloud"
        with echo.hold(box, CLOUD4) as new:
            assert new.pid == kept.pid, "in place: the same process"
        assert gone.alive()
        assert echo.viscum(box, "tidy").returncode == 0
        assert gone.alive()
    wait_until(lambda: echo.status(box)["flows"] == 0, "the flows' end")
    echo.viscum(box, "tidy")
    assert not _retired(box)
    assert echo.who(box, CLOUD4) == "edge"


@pytest.mark.req("N8")
def test_narrower_steering_without_a_drain_limit_keeps_udp_flows_only(box: Lab) -> None:
    ports = ("--port", f"{echo.PORT}/tcp", "--port", "7002/udp")
    server = echo.command("edge", "--udp", "7002")
    echo.run(box, "--drain", "0", *ports, server=server)
    echo.run(box, "--replace", "--drain", "0", *ports[:2], server=server)
    echo.viscum(box, "tidy")
    assert not _retired(box), "there was no flow"

    echo.run(box, "--replace", "--drain", "0", *ports, server=server)

    def new() -> echo.Datagrams:
        made: echo.Datagrams = echo.within(box, "ue", lambda: echo.Datagrams(CLOUD4, 7002))
        return made

    wait_until(lambda: new().ask() == "edge", "UDP flows begin at the edge")
    old = new()
    assert old.ask() == "edge"
    echo.run(box, "--replace", "--drain", "0", *ports[:2], server=server)
    echo.viscum(box, "tidy")
    assert old.ask() == "edge"
    assert new().ask() == ""
    assert _retired(box)


def _retired(lab: Lab) -> bool:
    """Whether a record keeps the narrowed steering."""
    files = list((lab.state_dir / "services").glob("*.json"))
    assert files
    return any('"retired":[]' not in f.read_text().replace(" ", "") for f in files)
