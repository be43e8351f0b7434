"""The part of the controller that keeps targets that are names up to date.

Nothing runs while no service has one. What is found is the service's record, and so the kernel's,
at once: a controller that dies leaves everything steered as it is, and the next one adopts it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable

from msgspec import Struct

from viscum import flows
from viscum.clock import now
from viscum.controller.dns import judge, resolver
from viscum.controller.dns.book import Book, Source, names_of
from viscum.controller.dns.ears import Ears
from viscum.controller.dns.judge import Ground
from viscum.controller.dns.learn import Told
from viscum.controller.dns.voice import Voice
from viscum.controller.engine import Engine
from viscum.controller.settings import Names as Settings
from viscum.errors import InputError, ViscumError
from viscum.kernel import link
from viscum.kernel.observe import observe
from viscum.kernel.resolver import servers
from viscum.model import Address
from viscum.plan import instances
from viscum.store import Record, World
from viscum.tenancy.files import Tenants

GATHER = 0.1  # seconds after news: both families of a name come as one change
AT_ONCE = 8  # questions of this box that are open
FRESH = 5.0  # seconds for which what is known of the box's own networks is good enough
BLOCKED = 30.0  # seconds until what could not be set is tried again


class Row(Struct, frozen=True):
    """One address that a name stands for. Times: seconds since 1970; expires: then it goes, unless
    it is in an answer again; flows: open to it now."""

    name: str
    address: str
    source: Source
    first: float
    last: float
    expires: float
    flows: int


class Names:
    """Of one host."""

    name = "names"

    def __init__(self, engine: Engine, settings: Settings, tenants: Tenants) -> None:
        self.engine = engine
        self.settings = settings
        self.books: dict[str, Book] = {}  # by service
        self._tenants = tenants
        self._rounds: dict[tuple[str, str], asyncio.Task[None]] = {}  # by service and name
        self._voice = Voice(engine.events)
        self._blocked: dict[str, float] = {}
        self._news = asyncio.Event()
        self._limit = asyncio.Semaphore(AT_ONCE)
        self._ground: Ground | None = None
        self._ground_at = 0.0
        self._ears = Ears(settings.trust, self._told, self._voice.forged, self._voice.listening)
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                self._group.create_task(self._follow())
                self._group.create_task(self._commits())
                self._group.create_task(self._listen())
        finally:
            self._rounds.clear()

    async def table(self, service: str) -> list[Row]:
        """What the service's names stand for; [] for one without. Raises InputError for a service
        that is not there."""
        record, book = self.engine.record(service), self.books.get(service)
        if book is None:
            return []
        open_flows = await self.engine.look(self._flows, record)
        ago = time.time() - now()
        return [
            Row(
                e.name, str(e.address), e.source, ago + e.first, ago + e.last, ago + e.expires,
                open_flows.get(e.address, 0),
            )
            for e in book.entries.values()
        ]  # fmt: skip

    def _flows(self, record: Record) -> dict[Address, int]:
        host = self.engine.host
        mine = [i for i in instances(host.load(), host.names) if i.record.name == record.name]
        return flows.by_target(mine, host.udp_targets())

    # ---- following the records

    async def _follow(self) -> None:
        async for world in self.engine.worlds():
            self._sync(world)

    def _sync(self, world: World) -> None:
        records = {name: r for name, r in world.services.items() if _is_kept(r)}
        for gone in self.books.keys() - records.keys():
            del self.books[gone]
            self._blocked.pop(gone, None)
            self._voice.succeeded(gone)
        for service, record in records.items():
            steer = record.spec.steer
            book = self.books.get(service)
            if book is None:
                book = self.books[service] = Book(steer.targets, steer.names)
            elif (book.targets, book.rules) != (steer.targets, steer.names):
                book.change(steer.targets, steer.names)
                self._blocked.pop(service, None)
            book.adopt(record.addresses, now())
        wanted = {
            (service, name)
            for service, book in self.books.items()
            if book.rules.refresh == "on"
            for name in book.names
        }
        for key in self._rounds.keys() - wanted:
            self._rounds.pop(key).cancel()
            self._voice.succeeded(*key)
        for key in wanted - self._rounds.keys():
            self._rounds[key] = self._group.create_task(self._refresh(*key))
        self._ears.listen_for(
            (interface, name)
            for service, book in self.books.items()
            if book.rules.learn == "on"
            for interface in records[service].spec.steer.interfaces
            for name in book.names
        )
        self._news.set()

    # ---- asking

    async def _refresh(self, service: str, name: str) -> None:
        """Asks for the name whenever its time to live is over."""
        failures = 0
        while True:
            ttl = await self._round(service, name)
            book = self.books[service]
            if ttl is None:
                failures += 1
                ttl = min(float(book.rules.min_ttl) * 2.0 ** min(failures - 1, 20), 3600.0)
            else:
                failures = 0
            await asyncio.sleep(book.clamp(ttl) * random.uniform(1.0, 1.1))

    async def _round(self, service: str, name: str) -> float | None:
        """A and AAAA, put down together; the time to live. None: it has to be tried again soon.

        A family that can't be had is tried again before the other one goes on without it: what is
        there of it stays, so that no client finds one family moved and the other one gone.
        """
        self.books[service].asking(name)
        of = tuple(str(n.network_address) for n in self.settings.servers)
        of = of or await self.engine.look(servers)
        answers, why = await resolver.ask_both(name, of, self._limit)
        found = {a for answer in answers.values() for a in answer.addresses}
        book = self.books[service]
        good = found & book.approved(now())  # the box is not looked at for every answer
        good |= await self._judged(service, name, found - good)
        if good:
            ttl = min(a.ttl for a in answers.values() if a.addresses)
            versions = [4 if kind == "A" else 6 for kind in answers]
            for reason in book.found(name, good, ttl, now(), versions):
                self._voice.refused(service, name, reason)
        else:
            book.failed(name)
            why = why or ("none of its addresses may be a target" if found else "has no address")
        if why:
            self._voice.failed(service, why, name)
        else:
            self._voice.succeeded(service, name)
        self._news.set()
        return None if why else ttl

    # ---- listening

    async def _listen(self) -> None:
        """Opens the interfaces again that were made anew, and knows the box's own addresses."""
        try:
            while True:
                await self._ears.needed.wait()
                self._ears.own = await self.engine.look(link.addresses)
                self._ears.open()
                await asyncio.sleep(FRESH)
        finally:
            self._ears.close()

    def _told(self, interface: str, told: Told) -> None:
        self._group.create_task(self._learn(interface, told))

    async def _learn(self, interface: str, told: Told) -> None:
        for service, book in list(self.books.items()):
            record = self.engine.world.services.get(service)
            if record is None or book.rules.learn == "off" or told.name not in book.names:
                continue
            steer = record.spec.steer
            if interface not in steer.interfaces:
                continue
            if steer.clients and not any(told.client in n for n in steer.clients):
                continue
            new = set(told.answer.addresses) - book.addresses()
            good = await self._judged(service, told.name, new)
            for address in told.answer.addresses:
                if address in new and address not in good:
                    continue
                reason = book.seen(told.name, address, told.answer.ttl, now())
                if reason:
                    self._voice.refused(service, told.name, f"{address}: {reason}", told)
            if good:
                self._news.set()

    # ---- judging

    async def _known_ground(self) -> Ground:
        if self._ground is None or now() - self._ground_at > FRESH:
            engine = self.engine
            seen = await engine.look(observe, engine.host.names, ())
            self._ground, self._ground_at = judge.ground(seen, engine.world), now()
        return self._ground

    async def _judged(self, service: str, name: str, addresses: Iterable[Address]) -> set[Address]:
        """Those that the service may have."""
        addresses = sorted(addresses, key=str)
        if not addresses:
            return set()
        there = await self._known_ground()
        world = self.engine.world
        record, book = world.services.get(service), self.books.get(service)
        if record is None or book is None:  # taken away meanwhile
            return set()
        good = set()
        for address in addresses:
            why = judge.refusal(
                address, record, world, there, lambda a: self._allowed(record.tenant, a)
            )
            if why is None:
                good.add(address)
            else:
                self._voice.refused(service, name, f"{address} {why}")
        book.approve(good, now())
        return good

    def _allowed(self, tenant: str, address: Address) -> bool:
        """Whether it is within the allowance of whose the service is; the operator has no bound."""
        if not tenant:
            return True
        try:
            return self._tenants.get(tenant).allows(address)
        except InputError:
            return False

    # ---- making it so

    async def _commits(self) -> None:
        while True:
            await self._until_news()
            await asyncio.sleep(GATHER)
            self._news.clear()
            for service, book in list(self.books.items()):
                book.expire(now())
                if self._differs(service, book) and now() >= self._blocked.get(service, 0.0):
                    free = self.engine.pace.free(self.engine.tenant_of(service))
                    if free > now():  # who owns a zone can write another answer each second
                        self._blocked[service] = free
                        continue
                    await self._commit(service, book)

    async def _until_news(self) -> None:
        """Or until an address is over, or what could not be set is to be tried again."""
        times = [t for b in self.books.values() if (t := b.next_expiry()) is not None]
        times += self._blocked.values()
        pause = max(0.0, min(times) - now()) if times else None
        try:
            async with asyncio.timeout(pause):
                await self._news.wait()
        except TimeoutError:
            self._blocked = {s: t for s, t in self._blocked.items() if t > now()}

    def _differs(self, service: str, book: Book) -> bool:
        record = self.engine.world.services.get(service)
        return record is not None and bool(book.entries) and book.differs(record.addresses)

    async def _commit(self, service: str, book: Book) -> None:
        before = set(self.engine.record(service).addresses)
        try:
            engine = self.engine
            retarget = engine.pace.timed(engine.tenant_of(service), engine.host.retarget)
            changed = await engine.act(retarget, service, book.targets, book.wanted())
        except (ViscumError, OSError) as error:
            if isinstance(error, InputError):  # one that was all right is so no more
                there = book.addresses()
                bad = there - await self._judged(service, ", ".join(book.names), there)
                book.drop(bad)
                if bad:
                    self._news.set()
                    return
            self._blocked[service] = now() + BLOCKED
            self._voice.failed(service, f"its addresses could not be set: {error}")
            return
        record = self.engine.world.services.get(service)
        if changed and record is not None:
            self._voice.changed(service, book.names, before, record.addresses)


def _is_kept(record: Record) -> bool:
    """One that is stopped is resolved anew when it starts."""
    return (
        record.running
        and not record.removing
        and bool(record.generations)
        and bool(names_of(record.spec.steer.targets))
    )
