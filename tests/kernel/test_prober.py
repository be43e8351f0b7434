"""Commands beside a running server: whatever they do, they end, and nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import Figure
from kernel.conftest import Space
from kernel.instance import Instance, instance
from support import my_children, wait_until
from viscum import store
from viscum.controller.engine import Engine
from viscum.controller.events import Events
from viscum.controller.health import asking
from viscum.host import Host
from viscum.kernel import prober, process
from viscum.kernel.prober import Beside, Done
from viscum.spec import Run

TIMEOUT = 5.0
UID = 1_447_000_000


@pytest.fixture
def web(space: Space) -> Iterator[Instance]:
    with instance(space.fd) as made:
        made.start("sh", "-c", "echo ready; exec sleep 1000")
        made.wait_for_line("ready")
        yield made


def main(web: Instance) -> int:
    pid = process.main_pid(web.group)
    assert pid is not None
    return pid


def ask(web: Instance, *argv: str, timeout: float = TIMEOUT, **run: object) -> Done:
    return prober.run(Beside(web.group, Run(**run), UID), argv, timeout)  # type: ignore[arg-type]


def shell(web: Instance, code: str, timeout: float = TIMEOUT, **run: object) -> Done:
    return ask(web, "sh", "-c", code, timeout=timeout, **run)


@pytest.mark.req("C3")
def test_what_it_says(web: Instance) -> None:
    assert ask(web, "true") == Done(True)
    assert shell(web, "echo well; echo really >&2") == Done(True, "", "well\nreally")
    assert ask(web, "false") == Done(False, "'false' ended with status 1")
    done = shell(web, "echo no; exit 7")
    assert done == Done(False, "'sh -c echo no; exit 7' ended with status 7", "no")
    assert shell(web, "kill -9 $$").why == "'sh -c kill -9 $$' was killed by SIGKILL"
    assert shell(web, "seq 5000").output.endswith("4999\n5000"), "the end is kept"
    assert len(shell(web, "seq 5000").output) <= prober.SAID


@pytest.mark.req("C3")
def test_it_is_where_the_server_is(web: Instance) -> None:
    code = "readlink /proc/self/ns/net /proc/self/ns/mnt; pwd; id -u; echo $A; test -t 0 || echo no"
    said = shell(web, code, user="nobody", working_directory="/usr", environment={"A": "b"}).output
    server = main(web)
    namespaces = [os.readlink(f"/proc/{server}/ns/{kind}") for kind in ("net", "mnt")]
    uid = str(pwd.getpwnam("nobody").pw_uid)
    assert said.splitlines() == [*namespaces, "/usr", uid, "b", "no"]
    assert f":/{web.group.path}\n" in shell(web, "cat /proc/self/cgroup").output + "\n"


@pytest.mark.req("C3")
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("sleep 97 & sleep 98", "did not end within 0.3 s"),
        ("trap '' TERM INT; while :; do sleep 97; done", "did not end within 0.3 s"),
        ("kill -STOP $$", "did not end within 0.3 s"),
        ("sleep 97 & exit 1", "ended with status 1"),
        ("sleep 97 & exit 0", ""),
        ("sleep 97 & exec yes", "printed more than 64 KB"),
    ],
)
def test_nothing_of_it_is_left(web: Instance, code: str, why: str) -> None:
    fds, children = os.listdir("/proc/self/fd"), my_children()
    done = shell(web, code, timeout=0.3)
    assert done.why.endswith(why)
    assert done.ok == (not why)
    server = main(web)
    wait_until(lambda: web.group.pids() == [server], "all of it to be gone")
    assert my_children() <= children, "no zombie is left"
    assert len(os.listdir("/proc/self/fd")) == len(fds)


@pytest.mark.req("C3")
def test_it_does_not_outlive_its_server(web: Instance) -> None:
    """Else the group would not be empty, and the server not be missed."""
    server = main(web)
    with prober.Running(Beside(web.group, Run(), UID), ("sleep", "97"), TIMEOUT) as running:
        assert running.look() is None
        os.kill(server, signal.SIGKILL)
        done = wait_until(running.look, "it to notice")
        assert done == Done(False, "'sleep 97': the server ended meanwhile", server_ended=True)
        wait_until(lambda: not web.group.populated(), "the group to be empty")
    with pytest.raises(ProcessLookupError):
        ask(web, "true")


@pytest.mark.req("C3")
def test_what_can_not_be_run(web: Instance) -> None:
    with pytest.raises(OSError, match="execute: No such file") as caught:
        ask(web, "/no/such")
    assert prober.in_words(("/no/such",), caught.value) == (
        "'/no/such': execute: No such file or directory"
    )
    with pytest.raises(OSError, match="no such user"):
        ask(web, "true", user="no-such-user")
    with pytest.raises(OSError, match="change to directory"):
        ask(web, "true", working_directory="/no/such")


@pytest.mark.req("C3")
def test_a_frozen_group_does_not_hold_up_who_asks(web: Instance) -> None:
    web.group.freeze()
    try:
        begun = time.monotonic()
        with pytest.raises(OSError, match="killed while it was set up"):
            ask(web, "true", timeout=0.3)
        assert time.monotonic() - begun < 5
    finally:
        web.group.freeze(False)
    assert ask(web, "true").ok


@pytest.mark.req("C3")
def test_two_that_collect_at_once_are_in_nobody_s_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what was stuck in the kernel when it was killed, in two threads."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    waitpid = os.waitpid

    def another_is_quicker(pid: int, options: int) -> tuple[int, int]:
        monkeypatch.setattr(os, "waitpid", waitpid)
        prober._collect()
        return waitpid(pid, options)

    prober._uncollected.append(child.pid)
    monkeypatch.setattr(os, "waitpid", another_is_quicker)
    prober._collect()
    assert prober._uncollected == []
    assert child.poll() is not None


@pytest.mark.req("C3", "C6")
def test_a_command_that_is_held_up_holds_nothing_of_who_asks(web: Instance, tmp_path: Path) -> None:
    """In a group without processor time, which a tenant can arrange, it may take as long as it has:
    the host's lock, which the controller had when it was forked, is not kept for that long."""

    def lock() -> AbstractContextManager[None]:
        return store.lock(str(tmp_path / "state"), "test", 1, lambda line: None)

    def one_more() -> bool:
        return len(my_children()) > before

    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "host.json").touch()  # as while there are services
    before = len(my_children())
    asks = threading.Thread(target=lambda: shell(web, "true", timeout=20))
    web.group.freeze()
    try:
        with lock():
            asks.start()
            wait_until(one_more, "a child that is to be the command")
            wait_until(lambda: len(web.group.pids()) == 2, "it to be in the group")
        with lock():
            assert one_more(), "it is still held up"
    finally:
        web.group.freeze(False)
        asks.join()


@pytest.mark.req("C3", "C6")
def test_a_tenants_that_are_held_up_hold_up_nobody_else(
    web: Instance, space: Space, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither others' commands nor, for as long as they may take, a controller that is to end."""
    monkeypatch.setattr(asking, "START", 1.0)
    asker = asking.Asker(Engine(Host(str(tmp_path)), Events()))

    def command(of: Instance, tenant: str) -> Coroutine[None, None, Done]:
        generation = SimpleNamespace(spec=SimpleNamespace(run=Run()))
        record: Any = SimpleNamespace(tenant=tenant)
        at: Any = SimpleNamespace(
            slot=0, cgroup=of.group.path, generation=generation, record=record
        )
        return asker.command(at, ("true",), 60)

    async def test() -> None:
        held = [asyncio.create_task(command(web, "acme")) for _ in range(2 * asking.STARTERS)]
        while len(my_children()) == before:  # the first of them is held up
            await asyncio.sleep(0.005)
        async with asyncio.timeout(20):
            assert (await command(other, "")).ok
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            await asyncio.to_thread(asker.close)

    with instance(space.fd) as other:
        other.start("sleep", "1000")
        before = len(my_children())
        web.group.freeze()
        try:
            asyncio.run(test())
        finally:
            web.group.freeze(False)


@pytest.mark.req("C3", "C6")
def test_beside_a_strict_server_it_is_as_strict(space: Space) -> None:
    with instance(space.fd) as web:
        web.start("sh", "-c", "echo ready; exec sleep 1000", sandbox=UID)
        web.wait_for_line("ready")
        code = "id -u; grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; ulimit -Hn; "
        done = shell(web, code + "echo x >/etc/x || unshare -n true", sandbox="strict")
        assert not done.ok
        lines = [" ".join(line.split()) for line in done.output.splitlines()]
        assert lines[:4] == [str(UID), "CapBnd: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"]
        assert int(lines[4]) <= 16384
        assert "Read-only file system" in lines[5] or "Permission denied" in lines[5]
        for kind in ("ipc", "cgroup", "mnt", "net"):
            own = os.readlink(f"/proc/{main(web)}/ns/{kind}")
            assert shell(web, f"readlink /proc/self/ns/{kind}", sandbox="strict").output == own


@pytest.mark.req("C3")
def test_what_it_costs(web: Instance, figure: Figure) -> None:
    times = []
    for _ in range(20):
        begun = time.monotonic()
        assert ask(web, "true").ok
        times.append(time.monotonic() - begun)
    figure("a command of `true`, median", sorted(times)[10] * 1e3, "ms")
