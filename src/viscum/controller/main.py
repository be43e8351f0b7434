"""The controller's process: its parts, put together, from start to end."""

from __future__ import annotations

import asyncio
import errno
import signal
from typing import Protocol

from viscum.controller import log, settings
from viscum.controller.api.part import Api
from viscum.controller.dns.part import Names
from viscum.controller.due import Due
from viscum.controller.engine import Engine, is_cancelled
from viscum.controller.events import Events
from viscum.controller.guard.part import Guard
from viscum.controller.health.part import Probes
from viscum.controller.news import News
from viscum.controller.settings import Settings
from viscum.controller.supervise import Supervisor
from viscum.controller.who.access import Access
from viscum.controller.who.audit import of_settings
from viscum.controller.who.quota import FlowQuotas
from viscum.controller.who.refusals import Refusals
from viscum.controller.who.watch import Watch
from viscum.errors import ViscumError
from viscum.host import Host
from viscum.kernel import malloc, sockets

AGAIN = 5.0  # seconds after which a part that failed is begun anew


class Part(Protocol):
    """One duty. `run` goes on until it is cancelled, and may be called again after it failed."""

    name: str

    async def run(self) -> None: ...


class Controller:
    """Of one host. Raises what reading the settings and adopting the host raises."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.settings: Settings = settings.read(host.config_dir)
        self.events = Events()
        self.events.sinks.append(log.sink())
        self.engine = Engine(host, self.events)
        self.supervisor = Supervisor(self.engine)
        self.probes = Probes(self.engine)
        self.supervisor.before_restart = self.probes.expect
        self.guard = Guard(self.engine, self.settings.guard)
        self.access = Access(host.config_dir, self.settings.api.group)
        self.audit = of_settings(self.settings.audit, host.config_dir)
        self.watch = Watch(self.engine, self.audit, self.access.tenants)
        self.refusals = Refusals(self.audit)
        self.flow_quotas = FlowQuotas(self.engine, self.access.tenants)
        self.names = Names(self.engine, self.settings.names, self.access.tenants)
        self.api = Api(self)

    def parts(self) -> tuple[Part, ...]:
        return (
            self.engine,
            self.supervisor,
            self.probes,
            Due(self.engine),
            News(self.engine),
            self.guard,
            self.names,
            self.watch,
            self.refusals,
            self.flow_quotas,
            *self.api.parts(),
        )

    async def run(self) -> None:
        """Until SIGTERM, SIGINT or SIGHUP. What is being changed is finished; services go on."""
        ends = asyncio.Event()
        loop = asyncio.get_running_loop()
        numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup
            numbers.remove(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, ends.set)
        await self.engine.adopt()
        count = len(self.engine.world.services)
        self.events.publish("controller.started", f"looking after {count} services")
        tasks = [asyncio.create_task(self._keep(part)) for part in self.parts()]
        await ends.wait()
        self.events.publish("controller.stopping", "services and steering stay as they are")
        self.host.gives_up = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.engine.close()

    async def _keep(self, part: Part) -> None:
        """A part that fails does not take the others with it."""
        while True:
            try:
                await part.run()
                return
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.trace(error)
                over = is_cancelled()
                then = " as it ended" if over else f"; it is begun anew in {AGAIN:g} s"
                self.events.publish(
                    "controller.error", f"{part.name} failed ({error!r}){then}", level="error"
                )
                if over:
                    return
                await asyncio.sleep(AGAIN)


def run(host: Host) -> None:
    """Blocks until the controller is told to end. Raises InputError, ViscumError."""
    host.load()  # refuses where the host can't be seen, before anything is begun
    malloc.one_arena()
    name = host.names.controller
    try:
        sole = sockets.Sole(name)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ViscumError(
            f"a controller looks after this host already (pid {sockets.holder(name)})",
            state="that one goes on",
            hint="end it first: one host has one controller",
        ) from None
    try:
        asyncio.run(Controller(host).run())
    finally:
        sole.close()
