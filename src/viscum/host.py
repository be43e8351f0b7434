"""The library's front door: what the CLI and the controller call.

A `Host` is one access point's worth of Viscum: the network namespace this process is in, and a
state directory. Commands that change something take the host's lock, finish what an earlier
command left due (`drains.settle`), then act: `begin…`, as far as that comes without waiting for
flows. What waits for them, too, is a generator (slowly.py), and waits without the lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from viscum import (
    doctor,
    drains,
    evolve,
    foreground,
    hostconfig,
    names,
    ops,
    planning,
    preflight,
    start,
    store,
    validate,
)
from viscum.change import Change
from viscum.clock import now
from viscum.errors import InputError, Problem, ViscumError
from viscum.kernel import director, logs, process, sysctl
from viscum.kernel.cgroup import Group
from viscum.model import FREE, Address, Hold, Observed
from viscum.plan import instances
from viscum.rights import refuse_if_unable
from viscum.slowly import Slowly
from viscum.spec import Port, Spec, to_toml
from viscum.spec.values import target_network
from viscum.start import Outcome
from viscum.store import Record, Store, World

if TYPE_CHECKING:
    from viscum.tenancy.guard import Guard

LOCK_TIMEOUT = 60.0


class Replacing(Struct, frozen=True):
    """An `upgrade = "replace"` under way: `first` ends, then there are new processes of `spec`."""

    first: Record
    spec: Spec
    addresses: tuple[str, ...]
    flows_reset: int = 0


#: Told the service as it is (None: there is none); raises to have nothing changed.
Check = Callable[[Record | None], None]


def anything(record: Record | None) -> None:
    """Whatever there is will do."""


class Host:
    """progress: told a line whenever something takes a while. told: every Op before it runs."""

    def __init__(
        self,
        state_dir: str = names.DEFAULT_STATE_DIR,
        *,
        progress: Callable[[str], None] = lambda line: None,
        told: Callable[[ops.Op], None] = lambda op: None,
        lock_timeout: float = LOCK_TIMEOUT,
        attach: str = "auto",
        config_dir: str = names.CONFIG_DIR,
    ) -> None:
        self.config_dir = config_dir
        self.names = names.HostNames(str(Path(state_dir).absolute()), config_dir)
        self.store = Store(self.names.state_dir)
        self.progress = progress
        self.told = told
        self.lock_timeout = lock_timeout
        self.gives_up = False  # of a controller that ends: what waits for the lock need not begin
        self.attach = attach

    # ---- the frame every changing command runs in

    @contextmanager
    def changing(self, what: str) -> Iterator[Change]:
        """The lock, the desired world, and what was due before. Raises ViscumError."""
        refuse_if_unable()
        with store.lock(
            self.names.state_dir,
            what,
            self.lock_timeout,
            lambda holder: self.progress(f"waiting for {holder}"),
            lambda: self.gives_up,
        ):
            change = Change(
                self.names, self.store, self.load(), self.told, self.attach, self._within
            )
            drains.settle(self, change)
            yield change
            self.trim_logs(change.world)

    def load(self) -> World:
        """The desired world, as the files say. Raises ViscumError, also where it can't be seen."""
        refuse_if_unable()
        return self.store.load("", names.POOL6 if sysctl.has_ipv6() else "")

    @cached_property
    def guard(self) -> Guard:
        """What tenants may have; imported where there are any."""
        from viscum.tenancy.guard import Guard

        return Guard(self.config_dir)

    def _within(self, before: World, after: World) -> None:
        if any(record.tenant for record in after.services.values()):
            self.guard.within(before, after)

    def named(self, service: str) -> str:
        """The tenant whose services are called so."""
        if not (Path(self.config_dir) / "tenants").is_dir():
            return ""
        return self.guard.named(service)

    def taken(self, seen: Observed, world: World, tenant: str) -> list[int]:
        """Slots that a new generation of the tenant's ("": the operator's own) can't have."""
        taken = slots_taken(seen)
        if tenant or (Path(self.config_dir) / "tenants").is_dir():
            taken += self.guard.barred(tenant, world.host.pool4)
        return taken

    def with_pool(self, change: Change) -> World:
        """The pool is chosen with the first service and kept while there is one."""
        world = change.world
        if not world.services:
            config = hostconfig.read(self.config_dir)
            pool4 = config.pool or world.host.pool4 or validate.choose_pool(change.observe())
            pool6 = config.pool6 if config.pool6 and world.host.pool6 else world.host.pool6
            world = World(replace(world.host, pool4=pool4, pool6=pool6), world.services)
        return world

    # ---- run, apply

    def up(
        self,
        spec: Spec,
        *,
        replacing: bool = True,
        as_child: bool = False,
        wait: bool = True,
    ) -> Slowly[Outcome]:
        """Starts a service, or changes it to `spec`. Raises InputError, ViscumError.

        replacing: a spec that differs from the running one's is an upgrade; otherwise it is
        refused. Returns when the new generation listens (or not yet, and why) and, after an
        upgrade, when the old one has drained. wait False: not for that; but a server that can't
        run twice has to end before the new one starts.
        """
        begun = self.begin(spec.name, spec, replacing, as_child)
        return (yield from self._ended(spec.name, begun, wait, as_child))

    def begin(
        self,
        name: str,
        spec: Spec | None = None,
        replacing: bool = True,
        as_child: bool = False,
        check: Check = anything,
        tenant: str = "",
        save: bool = False,
    ) -> Outcome | Replacing:
        """As far as `up` comes without waiting for flows: what an upgrade leaves drains, and is
        settled by whoever comes next; Replacing goes on with `finish`, once the service has no
        generation any more.

        spec None: the service's own, read under the lock, to start it again. check: told what
        there is, under the lock, before anything is changed. tenant: whose a new service is; none
        given: its name says so. save: keeps it for the next boot as well.
        """
        with self.changing(f"run {name}") as change:
            world = self.with_pool(change)
            old = world.services.get(name)
            check(old)
            spec = spec or self.known(world, name).spec
            with suppress(InputError):  # one that is not there: named below, with all the rest
                director.get(spec.director, attach=self.attach).warm()
            seen = change.observe()
            with self.patience(f"{spec.name}: resolving its targets"):
                addresses = validate.resolve(spec)
            owner = (tenant or self.named(name)) if old is None else old.tenant
            if owner:
                spec = self.guard.admit(owner, spec, world, addresses)
            validate.validate(spec, addresses, world, seen, owner)
            if old is not None and old.spec != spec and not replacing:
                raise InputError(
                    Problem(
                        "name",
                        spec.name,
                        "runs already, with another spec",
                        "give --replace to upgrade it, or choose another name",
                    )
                )
            if old is not None and start.ends_first(old, spec):
                replacing_it = self._end_first(change, old, spec, addresses)
                if save:
                    self.keep(spec)
                return replacing_it
            taken = self.taken(seen, world, owner)
            outcome = start.start(self, change, world, old, spec, addresses, taken, as_child, owner)
            if save:
                self.keep(spec)
        if owner and not tenant:
            outcome.notes.append(f"{name} is tenant {owner}'s, within what that one may have")
        return outcome

    def _end_first(
        self, change: Change, first: Record, spec: Spec, addresses: tuple[str, ...]
    ) -> Replacing:
        start.end(change, first, spec)
        drains.settle(self, change, spec.name)
        return Replacing(first, spec, addresses, change.ended.get(spec.name, 0))

    def finish(self, begun: Replacing, as_child: bool = False) -> Outcome:
        """`upgrade = "replace"`: the new generation, once the old one has ended."""
        name = begun.spec.name
        with self.changing(f"run {name}") as change:
            record = self.known(change.world, name)
            if record.running or record.removing:
                raise ViscumError(
                    f"{name} was changed by somebody else while its old processes ended",
                    state="it is as that one wants it",
                    hint="look at it, and do it again if you still want to",
                )
            taken = self.taken(change.observe(), change.world, record.tenant)
            outcome = start.instead(
                self, change, record, begun.first, begun.spec, begun.addresses, taken, as_child
            )
        outcome.flows_reset += begun.flows_reset
        return outcome

    def _ended(
        self, name: str, begun: Outcome | Replacing, wait: bool, as_child: bool = False
    ) -> Slowly[Outcome]:
        """What `begin` began, to its end; without the lock while flows are waited for. wait False:
        what only drains is left to whoever settles it."""
        if isinstance(begun, Replacing):
            reset = yield from drains.waiting(self, name, lambda r: not r.generations)
            outcome = self.finish(begun, as_child)
            outcome.flows_reset += reset
            return outcome
        record = self.load().services.get(name)
        if record is None or drains.done(record):
            return begun
        if wait:
            begun.flows_reset += yield from drains.waiting(self, name, drains.done)
        else:
            begun.notes.append(
                f"the old server of {name} still has flows; when the last has ended, or at its"
                " drain limit, the next command, `viscum tidy` or the controller ends it"
            )
        return begun

    # ---- for the next boot

    def keep(self, spec: Spec) -> Path:
        """Writes it to the directory of services that are applied at boot (docs/boot.md)."""
        path = self._kept(spec.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.touch(0o600)  # its environment may hold secrets
        new.write_text(to_toml(spec))
        os.replace(new, path)
        return path

    def forget(self, name: str) -> Outcome:
        """Takes away from there what need not be running."""
        with self.changing(f"forget {name}"):
            self._kept(name).unlink(missing_ok=True)
        return Outcome(name, "removed")

    def _kept(self, name: str) -> Path:
        return Path(self.config_dir) / "services" / f"{name}.toml"

    # ---- enable, disable

    def enable(self, name: str, *, for_seconds: float | None = None) -> Outcome:
        """New flows go to the edge; flows that are the cloud's stay there."""
        with self.changing(f"enable {name}") as change:
            record = self.known(change.world, name)
            did = "enabled" if not record.enabled or record.until_ns else "unchanged"
            until, notes = _until(record, True, for_seconds)
            record = replace(record, enabled=True, until_ns=until, end_flows_at=None)
            change.commit(change.world.with_record(record))
            if self.hold(record, FREE):
                did = "enabled"
                self.store.touch()  # a controller that holds it is to look again
            return Outcome(name, did, notes)

    def disable(
        self, name: str, *, drain: float | None = None, for_seconds: float | None = None
    ) -> Slowly[Outcome]:
        """New flows go to the cloud; the server keeps running.

        drain: seconds after which flows still open are reset (0: at once); None: never.
        """
        outcome = self.begin_disable(name, drain=drain, for_seconds=for_seconds)
        if drain:
            outcome.flows_reset = yield from drains.waiting(
                self, name, lambda r: r.end_flows_at is None, "drain"
            )
        return outcome

    def begin_disable(
        self, name: str, *, drain: float | None = None, for_seconds: float | None = None
    ) -> Outcome:
        """The same at once; who settles what is due after the limit resets what is left."""
        with self.changing(f"disable {name}") as change:
            record = self.known(change.world, name)
            did = "disabled" if record.enabled or record.until_ns else "unchanged"
            ends = None if drain is None else now() + drain
            until, notes = _until(record, False, for_seconds)
            record = replace(
                record,
                enabled=False,
                until_ns=until,
                end_flows_at=ends,
            )
            change.commit(change.world.with_record(record))
            outcome = Outcome(name, did, notes)
            if drain == 0:
                drains.settle(self, change, name)
                outcome.flows_reset = change.ended.get(name, 0)
        return outcome

    def hold(self, record: Record, hold: Hold) -> bool:
        """Lets the service have at most so much of new flows, until this is called again or it is
        enabled; for a controller. No flow is ended and the lock is not needed. Whether it differs
        from what was."""
        by = director.get(director.chosen(record.spec.director), attach=self.attach)
        return by.holds().get(record.sid, FREE) != hold and by.hold(record.sid, hold)

    # ---- stop, start, restart, rm

    def stop(self, name: str, *, wait: bool = True) -> Slowly[Outcome]:
        """Ends the processes after their last flow (or the drain limit); the spec is kept. wait: as
        for `up`."""
        outcome = self.begin_stop(name)
        if wait and outcome.did == "draining":
            outcome.flows_reset += yield from drains.waiting(
                self, name, lambda r: not r.generations
            )
            outcome.did = "stopped"
        return outcome

    def begin_stop(self, name: str) -> Outcome:
        """The same at once; who settles what is due finishes it."""
        with self.changing(f"stop {name}") as change:
            record = self.known(change.world, name)
            if not record.running and not record.generations:
                return Outcome(name, "unchanged")
            until = evolve.deadline(now(), record.spec.run.drain)
            change.commit(change.world.with_record(evolve.stopping(record, until)))
            drains.settle(self, change, name)
            left = change.world.services[name].generations
            reset = change.ended.get(name, 0)
            return Outcome(name, "draining" if left else "stopped", flows_reset=reset)

    def start_again(self, name: str, *, wait: bool = True) -> Slowly[Outcome]:
        """Starts a stopped service, or one whose server has died. wait: as for `up`."""
        return (yield from self._ended(name, self.begin(name), wait))

    def restart(self, name: str, *, wait: bool = True) -> Slowly[Outcome]:
        """A new generation of the same spec, as an upgrade is: no client notices. wait: as for
        `up`."""
        outcome = yield from self._ended(name, self.begin_restart(name), wait)
        outcome.did = "restarted"
        return outcome

    def begin_restart(self, name: str, check: Check = anything) -> Outcome | Replacing:
        """As far as `restart` comes without waiting for flows: see `begin`."""
        with self.changing(f"restart {name}") as change:
            record = self.known(change.world, name)
            check(record)
            if start.ends_first(record, record.spec, anyway=True):
                return self._end_first(change, record, record.spec, record.addresses)
            taken = self.taken(change.observe(), change.world, record.tenant)
            outcome = start.upgrade(
                self, change, change.world, record, record.spec, record.addresses, taken
            )
            outcome.did = "restarted"
            return outcome

    def remove(self, name: str, *, wait: bool = True, at_once: bool = False) -> Slowly[Outcome]:
        """Takes the service away; flows it has are ended by its drain limit. at_once: now. wait: as
        for `up`."""
        outcome = self.begin_remove(name, at_once=at_once)
        if wait and outcome.did == "draining":
            outcome.flows_reset += yield from drains.waiting(self, name, lambda r: not r.removing)
            outcome.did = "removed"
        return outcome

    def begin_remove(
        self,
        name: str,
        *,
        at_once: bool = False,
        check: Check = anything,
        forget: bool = False,
    ) -> Outcome:
        """The same at once; the next command after the limit finishes it.

        check: told what there is, under the lock, before anything is changed. forget: the next
        boot does not start it either. Of one that never started (`has_log`) the log is taken away.
        """
        if not self.has_log(name):
            self.known(self.load(), name)
        with self.changing(f"rm {name}") as change:
            record = change.world.services.get(name)
            if record is not None:
                check(record)
            if forget:
                self._kept(name).unlink(missing_ok=True)
            if record is None:  # it never started, or was due by an earlier command
                change.remove_logs(name)
                return Outcome(name, "removed")
            limit = 0.0 if at_once else record.spec.run.drain
            until = now() if at_once else evolve.deadline(now(), limit)
            record = evolve.removing(record, until)
            moved = 0  # UDP flows go to the cloud now, not when the server has ended
            if at_once:
                record = replace(record, udp_epoch=record.udp_epoch + 1)
                udp = self.udp_flows()
                moved = sum(udp.get(slot, 0) for g in record.generations for slot in g.slots)
            change.commit(change.world.with_record(record))
            drains.settle(self, change, name)
            outcome = Outcome(name, "removed", flows_reset=moved + change.ended.get(name, 0))
            if name in change.world.services:
                outcome.did = "draining"
        return outcome

    def has_log(self, name: str) -> bool:
        """As a service has, and one whose first start failed."""
        try:
            return name in os.listdir(self.store.logs)
        except FileNotFoundError:
            return False

    def sweep(self) -> None:
        """After the last service: whatever else is ours and should not be there."""
        with self.changing("rm --all") as change:
            change.commit(change.world)
            change.remove_strange_logs()
            change.tidy()

    @contextmanager
    def patience(self, line: str) -> Iterator[None]:
        """Tells `line` if what is done inside takes more than a second."""
        from threading import Timer

        timer = Timer(1.0, self.progress, (line,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    # ---- planning, standing by, entering

    def check_all(self, specs: list[Spec], sources: Mapping[str, str] | None = None) -> None:
        """Validates every spec, before the first is applied: see planning.py."""
        planning.check_all(self, specs, sources)

    def plan(
        self,
        specs: list[Spec],
        sources: Mapping[str, str] | None = None,
        gone: Iterable[str] = (),
    ) -> tuple[ops.Op, ...]:
        """What `up` of each spec would begin with: see planning.py."""
        return planning.plan(self, specs, sources, gone)

    def tidy(self) -> int:
        """What every changing command does beside its own, alone: what is due, and what somebody
        took away (an interface made anew is steered from again)."""
        if not self.load().services:
            return 0
        with self.changing("tidy") as change:
            change.commit(change.world)
        return sum(change.ended.values())

    def execute(self, name: str, argv: tuple[str, ...]) -> int:
        """Runs argv where the newest instance's server runs; its exit status."""
        world = self.load()
        self.known(world, name)
        for i in instances(world, self.names):
            group = Group(i.cgroup)
            if i.record.name == name and group.populated():
                return process.exec_in(group, argv)
        raise ViscumError(f"{name} has no running process to join", hint=f"viscum start {name}")

    def stay(self, spec: Spec, *, replacing: bool, begun: Callable[[Outcome], None]) -> int:
        """For a supervisor (systemd, procd): `up`, then waits until the server ends or this process
        is told to; then takes the service away. Returns the server's exit status."""
        return foreground.run(self, spec, replacing, begun)

    def remarks(self, spec: Spec, *, quic: bool = True) -> list[str]:
        """What on this box stands in the way of the service, or is bypassed by it, and why clients
        would reject its certificate. quic: also over QUIC, where aioquic is installed."""
        found = doctor.of_service(spec)
        if preflight.due(spec):
            found += preflight.look(self.names, self.load(), spec.name, quic=quic)
        return [f"{f.what}; {f.fix}" if f.fix else f.what for f in found]

    def examine(self, name: str, ports: tuple[Port, ...] = ()) -> list[doctor.Finding]:
        """The same in full, with what is well, of a service that is there. ports: where its clients
        speak TLS besides those where they do by convention."""
        world = self.load()
        spec = self.known(world, name).spec
        return [*doctor.of_service(spec), *preflight.examine(self.names, world, name, ports)]

    # ---- for a controller, which does not wait

    def revive(self, name: str) -> bool:
        """Starts again what of a service has died, and returns at once; False: nothing had to be.

        For a supervisor: nothing is resolved or validated anew and no spec changes, so that a name
        server that is down, or a file that is gone, keeps no server from coming back. Raises
        InputError for a service that is not there, ViscumError.
        """
        with self.changing(f"restart {name}") as change:
            record = self.known(change.world, name)
            if not record.running or record.removing:
                return False
            dead = [
                i
                for i in instances(change.world, self.names)
                if i.record.name == name
                and i.generation.state != "draining"
                and not Group(i.cgroup).populated()
            ]
            if dead:
                change.commit(change.world.with_record(evolve.anew(record)), frozenset({name}))
            return bool(dead)

    def retarget(self, name: str, targets: tuple[str, ...], addresses: tuple[str, ...]) -> bool:
        """Lets the names among `targets` stand for `addresses`, as networks, from now on; whether
        that changed something. Nothing is restarted, and the flows of addresses that go go on.

        targets: the spec's, as the caller knows them; with other ones nothing is done. Raises
        InputError for an address that can't be a target or is another service's, ViscumError.
        """
        with self.changing(f"retarget {name}") as change:
            record = self.known(change.world, name)
            if record.removing or record.spec.steer.targets != targets:
                return False
            literal = map(target_network, targets)
            wanted = tuple(dict.fromkeys([*(str(n) for n in literal if n), *addresses]))
            if set(wanted) == set(record.addresses) or not wanted:
                return False
            seen = change.observe()
            validate.retarget(record.spec, wanted, change.world, seen, record.tenant)
            start.retarget(self, change, record, wanted)
            return True

    def admit(self, name: str) -> bool:
        """Lets the newest generation take flows: it is ready, whoever found that out. False: it
        does already, or there is none."""
        with self.changing(f"admit {name}") as change:
            record = self.known(change.world, name)
            if not record.running or not any(g.state == "starting" for g in record.generations[:1]):
                return False
            until = evolve.deadline(now(), record.spec.run.drain)
            change.commit(change.world.with_record(evolve.live(record, until)))
            return True

    def is_busy(self) -> bool:
        """Whether a command is changing something just now."""
        return store.is_locked(self.names.state_dir)

    def settle(self) -> tuple[dict[str, int], dict[str, str]]:
        """What is due now, alone (drains, their limits, `--for`): flows reset, and why it could not
        be finished, by service."""
        with self.changing("settle what is due") as change:
            return change.ended, change.stuck

    # ---- small things

    def known(self, world: World, name: str) -> Record:
        """Raises InputError for a name that does not exist."""
        return known(world, name)

    def udp_flows(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for by in director.installed(attach=self.attach):
            for slot, count in by.udp_flows().items():
                found[slot] = found.get(slot, 0) + count
        return found

    def udp_targets(self) -> dict[tuple[int, Address], int]:
        """By slot and target."""
        found: dict[tuple[int, Address], int] = {}
        for by in director.installed(attach=self.attach):
            found |= by.udp_targets()
        return found

    def trim_logs(self, world: World) -> None:
        """Every command keeps the logs within their bound (§6)."""
        for i in instances(world, self.names):
            path = self.store.log(i.record.name, i.generation.number, i.index)
            try:
                logs.trim(str(path), int(i.record.spec.limits.log))
            except OSError:
                continue  # it has just gone, or its server has made it what no log is


def known(world: World, name: str) -> Record:
    """Raises InputError for a name that does not exist."""
    record = world.services.get(name)
    if record is None:
        from viscum.spec.values import did_you_mean

        others = list(world.services)
        listed = f"there are: {', '.join(others)}" if others else "there is none (`viscum ls`)"
        fix = did_you_mean(name, others, listed)
        raise InputError(Problem("NAME", name, "no such service on this host", fix))
    return record


def slots_taken(seen: Observed) -> list[int]:
    """Slots whose link name or namespace id is in use, by whomever: a namespace that was removed
    keeps its id as long as a socket of it lives on, somebody else's even."""
    links = (n.removeprefix(names.LINK_PREFIX) for n in seen.links)
    ids = (n & ~names.MARK_MASK for n in seen.nsids if n & names.MARK_MASK == names.MARK)
    return [*(int(n) for n in links if n.isdecimal()), *ids]


def _until(record: Record, enabled: bool, seconds: float | None) -> tuple[int, list[str]]:
    """(until_ns for `--for`, what to say of it). It goes back to what holds without a deadline."""
    if seconds is None:
        return 0, []
    before = record.enabled != bool(record.until_ns)
    if before == enabled:
        word = "enabled" if enabled else "disabled"
        return 0, [f"{record.name} is {word} without a limit in time: nothing to turn back to"]
    return int((now() + seconds) * 1e9), [f"turns back by itself in {seconds:g} s"]
