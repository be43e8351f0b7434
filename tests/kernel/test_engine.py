"""What the controller's parts rely on: told of every change, begun anew when something fails."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from viscum import drains, evolve, store
from viscum.clock import now
from viscum.controller import due, main
from viscum.controller.api.part import OnUnix
from viscum.controller.engine import Engine
from viscum.controller.events import Events
from viscum.controller.health import part as health
from viscum.controller.health.part import Probes
from viscum.controller.health.patients import There
from viscum.controller.supervise import Supervisor, _Watched
from viscum.host import Host
from viscum.kernel import prober
from viscum.kernel.process import Process
from viscum.model import Hold
from viscum.plan import Instance, instances
from viscum.spec import from_mapping
from viscum.store import HostRecord, Record, World

pytestmark = pytest.mark.req("C1")

POOL = "100.127.192.0/19"


def save(host: Host, *names: str, enabled: bool = True) -> None:
    """Services that have never run, steered on lo."""
    world = World(HostRecord(store.boot_id(), POOL, ""), {})
    for name in names:
        steer = {"interfaces": ["lo"], "targets": ["198.18.0.10"], "ports": ["80/tcp"]}
        spec = from_mapping({"name": name, "command": ["server"], "steer": steer})
        world = evolve.create(world, spec, ("198.18.0.10/32",), ())
        world = world.with_record(replace(world.services[name], enabled=enabled))
    host.store.save(world)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    host = Host(str(tmp_path / "state"), config_dir=str(tmp_path / "etc"))
    save(host, "one", "two")
    return Engine(host, Events())


def run(engine: Engine, fn: Callable[[], Awaitable[None]]) -> None:
    async def inside() -> None:
        try:
            async with asyncio.timeout(20):
                await fn()
        finally:
            engine.close()

    asyncio.run(inside())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_parts_are_told_of_a_change_although_holding_again_fails(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> bool:
        raise RuntimeError("a mistake")

    async def test() -> None:
        seen: list[bool] = []

        async def follow() -> None:
            async for world in engine.worlds():
                seen.append(world.services["one"].enabled)

        await engine.refresh()
        follower = asyncio.create_task(follow())
        await until(lambda: seen == [True])
        save(engine.host, "one", "two", enabled=False)
        await engine.hold("one", load=50)
        monkeypatch.setattr(engine.host, "hold", fails)
        with pytest.raises(RuntimeError):
            await engine.refresh()
        await until(lambda: seen == [True, False])
        follower.cancel()

    monkeypatch.setattr(engine.host, "hold", lambda *_: True)
    run(engine, test)


def test_what_is_held_again_is_what_is_wanted_by_then(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another part says otherwise for one service while the other one is being held."""
    done: list[tuple[str, float]] = []

    def hold(record: Record, hold: Hold) -> bool:
        done.append((record.name, hold.load))
        if len(done) == 3:
            asyncio.run_coroutine_threadsafe(engine.hold("two", load=20), loops[0])
        return True

    loops: list[asyncio.AbstractEventLoop] = []

    async def test() -> None:
        loops.append(asyncio.get_running_loop())
        await engine.refresh()
        await engine.hold("one", load=50)
        await engine.hold("two", load=60)
        save(engine.host, "one", "two", enabled=False)
        await engine.refresh()
        await until(lambda: len(done) == 5)
        assert done[2:3] == [("one", 50.0)]
        assert all(load == 20 for name, load in done[3:] if name == "two")

    monkeypatch.setattr(engine.host, "hold", hold)
    run(engine, test)


def test_following_the_records_is_begun_anew(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = main.Controller(engine.host)
    engine.close()
    monkeypatch.setattr(main, "AGAIN", 0.0)
    version = engine.host.store.version
    asked: list[bool] = []

    def fails_once() -> int:
        asked.append(True)
        if len(asked) == 1:
            raise RuntimeError("a mistake")
        return version()

    async def test() -> None:
        monkeypatch.setattr(engine.host.store, "version", fails_once)
        kept = [p for p in controller.parts() if p is controller.engine]
        tasks = [asyncio.create_task(controller._keep(part)) for part in kept]
        await until(lambda: set(controller.engine.world.services) == {"one", "two"})
        for task in tasks:
            task.cancel()

    run(controller.engine, test)
    assert controller.events.counts["controller.error"] == 1


class Failing:
    """What fails while it is told to end takes the place of the cancellation."""

    name = "failing"

    def __init__(self) -> None:
        self.waits = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wait())

    async def _wait(self) -> None:
        self.waits.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("no such directory")


def test_a_part_that_fails_as_it_ends_is_not_begun_anew(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = main.Controller(engine.host)
    monkeypatch.setattr(main, "AGAIN", 0.0)

    async def test() -> None:
        part = Failing()
        task = asyncio.create_task(controller._keep(part))
        await part.waits.wait()
        task.cancel()
        await asyncio.wait({task}, timeout=2)
        assert task.done()

    run(controller.engine, test)
    engine.close()
    assert controller.events.counts["controller.error"] == 1


def test_changes_are_noted_once_although_the_tenants_files_can_not_be_read(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is begun anew as a whole: what went on of it would note everything twice."""
    watch = main.Controller(engine.host).watch

    def fails() -> tuple[()]:
        raise OSError("too many levels of symbolic links")

    async def test() -> None:
        monkeypatch.setattr(watch.tenants, "version", fails)
        before = asyncio.all_tasks()
        with pytest.RaisesGroup(OSError):
            await watch.run()
        assert asyncio.all_tasks() == before

    run(engine, test)


@pytest.mark.parametrize("steps", range(6))
def test_a_part_ends_when_it_is_told_to_in_the_moment_of_news(engine: Engine, steps: int) -> None:
    """Whatever the event loop does first: one that goes on keeps the controller from ending."""
    part = main.Controller(engine.host).names
    part._blocked["one"] = now() + 1000  # until then it waits for news

    async def test() -> None:
        task = asyncio.create_task(part.run())
        await until(part._news.is_set)  # of the records, which it begins with
        await until(lambda: not part._news.is_set())
        await asyncio.sleep(0)
        part._news.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled()

    run(engine, test)


def test_who_is_told_to_end_while_it_changes_something_ends(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the records can't be read any more, as while Viscum is being taken off the box."""
    begun, may_end = threading.Event(), threading.Event()

    def change() -> None:
        begun.set()
        may_end.wait(20)

    def fails() -> int:
        raise OSError("no such directory")

    async def test() -> None:
        for doing in (engine.act(change), engine.wait_for(change)):
            begun.clear()
            task = asyncio.create_task(doing)
            await until(begun.is_set)
            monkeypatch.setattr(engine.host.store, "version", fails)
            task.cancel()
            await asyncio.wait({task}, timeout=5)
            assert task.cancelled()
        may_end.set()

    try:
        run(engine, test)
    finally:
        may_end.set()


def test_the_api_ends(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a connection open. Since Python 3.12 a server is closed when the last of them is."""
    (part,) = main.Controller(engine.host).api.parts()
    assert isinstance(part, OnUnix)

    async def wait_closed(server: object) -> None:
        await asyncio.Event().wait()

    async def test() -> None:
        task = asyncio.create_task(part.run())
        await until(Path(part.path).exists)
        reader, writer = await asyncio.open_unix_connection(part.path)
        writer.write(b"GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 404 Not Found\r\n"
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled()
        assert await reader.read()  # to its end
        writer.close()

    monkeypatch.setattr("asyncio.base_events.Server.wait_closed", wait_closed)
    run(engine, test)


# ---- servers that end --------------------------------------------------------------------------


def test_a_server_that_ends_as_its_service_goes(engine: Engine) -> None:
    """Both are heard of in one turn of the event loop."""
    supervisor = Supervisor(engine)
    server = subprocess.Popen(["sleep", "1000"])

    async def test() -> None:
        await engine.refresh()
        at = next(iter(instances(engine.world, engine.host.names)))
        task = asyncio.create_task(supervisor.run())
        await until(lambda: supervisor._missing != {})  # it follows the records
        supervisor._watched[at.cgroup] = _Watched(at, Process(server.pid), 0)
        supervisor._ended(at.cgroup)
        supervisor._sync(World(engine.world.host, {}))
        for _ in range(5):  # what was begun by that has its turn
            await asyncio.sleep(0)
        assert not task.done(), task
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    try:
        run(engine, test)
    finally:
        server.kill()
        server.wait()


def test_who_is_let_in_is_told_although_that_ends_being_looked_after(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another part sees the changed record first: there is nothing to wait for any more."""
    world = engine.host.load()
    spec = from_mapping(
        {
            "name": "three",
            "command": ["server"],
            "steer": {"interfaces": ["lo"], "targets": ["198.18.0.10"], "ports": ["80/tcp"]},
            "run": {"ready": ["ready"]},
        }
    )
    world = evolve.create(world, spec, ("198.18.0.10/32",), ())
    engine.host.store.save(world)

    async def answers(*_: object) -> prober.Done:
        return prober.Done(True)

    async def test() -> None:
        def admit(name: str) -> bool:
            record = evolve.live(world.services[name], None)
            engine.host.store.save(world.with_record(record))
            asyncio.run_coroutine_threadsafe(engine.refresh(), loop).result(10)
            gone.wait(10)
            return True

        loop, gone = asyncio.get_running_loop(), threading.Event()
        part = Probes(engine)
        dismiss = part._dismiss

        def dismissed(name: str) -> None:
            dismiss(name)
            gone.set()

        monkeypatch.setattr(part, "_dismiss", dismissed)
        monkeypatch.setattr(part._asker, "command", answers)
        monkeypatch.setattr(engine.host, "admit", admit)
        await engine.refresh()
        task = asyncio.create_task(part.run())
        await until(lambda: engine.events.counts["service.ready"] > 0)
        assert gone.is_set()
        task.cancel()

    def listens(mine: list[Instance], _: object) -> dict[str, There]:
        return {i.cgroup: There(i, 1, True) for i in mine}

    monkeypatch.setattr(health, "FIRST", 0.0)
    monkeypatch.setattr(health, "look", listens)
    run(engine, test)


# ---- what is due -------------------------------------------------------------------------------


def test_no_loop_goes_on_without_the_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is begun anew as a whole: what was left of the one before would do everything twice."""
    part = due.Due(engine)

    async def fails() -> None:
        await asyncio.sleep(0.05)
        raise RuntimeError("a mistake")

    async def test() -> None:
        monkeypatch.setattr(part, "_logs", fails)
        before = asyncio.all_tasks()
        with pytest.RaisesGroup(RuntimeError):
            await part.run()
        assert asyncio.all_tasks() == before

    run(engine, test)


def test_an_interface_is_looked_after_again_until_that_works(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[bool] = []

    def tidy() -> int:
        tried.append(True)
        if len(tried) < 3:
            raise OSError("not now")
        return 0

    async def test() -> None:
        await engine.refresh()
        task = asyncio.create_task(due.Due(engine)._interfaces())
        await until(lambda: len(tried) == 3)
        task.cancel()

    monkeypatch.setattr(due, "LOOK", 0.001)
    monkeypatch.setattr(engine.host, "tidy", tidy)
    run(engine, test)


def test_the_lock_is_taken_only_when_something_is_due(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a drain that waits for its last flow; and what can't be finished is told once."""
    looked: list[bool] = []
    settled: list[int] = []  # after how many looks

    def is_due(*_: object) -> bool:
        looked.append(True)
        return len(looked) > 8

    def settle() -> tuple[dict[str, int], dict[str, str]]:
        settled.append(len(looked))
        return {"one": 2}, {"two": "it is stuck"}

    async def test() -> None:
        await engine.refresh()
        one = engine.world.services["one"]
        engine.host.store.save(engine.world.with_record(evolve.removing(one, None)))
        await engine.refresh()
        task = asyncio.create_task(due.Due(engine)._deadlines())
        await until(lambda: [e.kind for e in engine.events.since()].count(kind) >= 2)
        task.cancel()

    kind = "service.flows-reset"
    monkeypatch.setattr(due, "LOOK", 0.001)
    monkeypatch.setattr(due, "SLOWEST", 0.02)
    monkeypatch.setattr(drains, "is_due", is_due)
    monkeypatch.setattr(engine.host, "settle", settle)
    run(engine, test)
    assert settled[:2] == [9, 10]
    told = [(e.kind, e.message) for e in engine.events.since()]
    assert told.count(("controller.error", "two: what is due can't be finished: it is stuck")) == 1
    assert told.count((kind, "one: 2 flows were reset at their limit")) >= 2
