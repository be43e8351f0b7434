"""The eBPF director: the server's own sockets decide, looked up from the client's interface.

Level-triggered like everything else: `plan` reads the maps of the attached programs and returns
the steps that make them what is wanted, in an order in which no packet meets half a state.
"""

from __future__ import annotations

import errno
import os
import socket
import zlib
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime_ns

from msgspec.structs import astuple

from viscum import names
from viscum.errors import ViscumError
from viscum.kernel import bpf, libbpf
from viscum.kernel.director import Explanation, Look, Op, abi, groups
from viscum.kernel.director.attach import IN, OUT, OWN, Attachment, find, first, has_clsact, has_tcx
from viscum.kernel.director.steps import Attach, AttachTogether, Detach, Erase, Load, Loaded, Write
from viscum.kernel.rtnl import Rtnl
from viscum.model import FREE, Address, Counters, Hold, Steering, SteerService

OBJECT = Path(__file__).parents[2] / "bpf" / "viscum.bpf.o"
ZERO = abi.U32.pack(0)
NO_SIZES: Mapping[str, int] = {}


class EbpfDirector:
    """attach: "tcx", "clsact", or "auto": TCX where the kernel has it.

    sizes: entries of the maps that packets write, where they differ from `default_sizes`.
    """

    name = "ebpf"

    def __init__(
        self, attach: str = "auto", path: Path = OBJECT, sizes: Mapping[str, int] = NO_SIZES
    ) -> None:
        self.attach = attach
        self._path = path
        self._sizes = sizes
        self._warm: Load | None = None

    def missing(self) -> str | None:
        if not self._path.exists():
            return "its BPF object is not built (make setup builds it)"
        try:
            has_tcx()
        except OSError as error:
            return "this kernel is built without BPF" if error.errno == errno.ENOSYS else str(error)
        try:
            libbpf.library()
        except OSError:
            return "libbpf.so.1 is not installed (apt-get install libbpf1)"
        return None

    # ---- what should be, what is, the difference

    def warm(self) -> None:
        if self._warm is None and not find():
            self._warm = Load(Loaded(), str(self._path), self._entries())
            self._warm.begin()

    def plan(self, want: Steering, links: tuple[str, ...]) -> tuple[Op, ...]:
        attachments = find()
        loaded = opened(attachments)
        if not (_in(want) or _out(want)):  # nowhere to attach: maps don't last without programs
            want = ()
        if want and self._warm is not None:
            warm, self._warm = self._warm, None  # used once, or needless by now
            loaded = loaded if loaded.maps else warm.loaded
        if not want and not attachments:
            return ()
        return tuple(self._plan(want, attachments, loaded))

    def _plan(
        self, want: Steering, attachments: tuple[Attachment, ...], loaded: Loaded
    ) -> Iterator[Op]:
        wanted = _maps(want)
        have = {name: loaded.contents(name) for name in wanted}
        # What a controller holds goes only with the service it holds.
        have["holds"] = loaded.contents("holds")
        wanted["holds"] = {k: v for k, v in have["holds"].items() if k in wanted["services"]}
        build = self._build() if want else b""
        outdated = self._outdated(loaded, build) if want else False
        needed = {IN} if _in(want) else set()
        needed |= {OUT, OWN} if _out(want) else set()
        if want and (outdated or needed - loaded.programs.keys()):
            # Of the two programs one alone may be left, and with it the maps.
            yield Load(loaded, str(self._path), self._entries(), again=bool(loaded.maps))

        def write(name: str, what: str) -> Iterator[Op]:
            items = tuple((k, v) for k, v in wanted[name].items() if have[name].get(k) != v)
            if name == "counters":  # those that count must not be set to zero again
                items = tuple((k, v) for k, v in items if k not in have[name])
            if items:
                yield Write(loaded, name, items, f"{what}: {len(items)}")

        def erase(name: str, what: str) -> Iterator[Op]:
            keys = tuple(k for k in have[name] if k not in wanted[name])
            if keys:
                yield Erase(loaded, name, keys, f"{what}: {len(keys)}")

        before = loaded.maps["config"].get(ZERO) if loaded.maps else None
        older = abi.CONFIG.unpack(before)[2].to_bytes(8, "big") if before else build

        def note(build: bytes) -> Iterator[Op]:
            value = abi.CONFIG.pack(abi.ABI, len(wanted["prefixes"]), int.from_bytes(build, "big"))
            if value != before:
                yield Write(loaded, "config", ((ZERO, value),), "note the version of the data path")

        out = tuple(self._attachments(OUT, _out(want), attachments, loaded, outdated))
        own = tuple(self._attachments(OWN, _out(want), attachments, loaded, outdated, out))
        into = tuple(self._attachments(IN, _in(want), attachments, loaded, outdated))
        if want and not loaded.maps and out and into:
            # With empty maps every packet passes, so that all may be attached at once.
            yield AttachTogether((*out, *own, *into))
            out, own, into = (), (), ()
        steps = (
            write("counters", "count for services"),
            write("links", "describe links to the returner"),
            write("clients", "let clients in"),
            _by_link((*out, *own)),
            write("services", "set services"),
            write("ports", "map ports to services"),
            write("prefixes", "claim prefixes"),
            note(older),  # how many prefixes there are
            write("targets", "claim targets"),
            into,
            note(build) if outdated else (),  # all are of this version now
        )
        for step in steps if want else ():
            yield from step
        yield from _gone(IN, _in(want), attachments)
        if want:  # else the maps go with the programs
            yield from erase("targets", "give up targets")
            yield from erase("prefixes", "give up prefixes")
            yield from erase("ports", "give up ports")
            yield from erase("services", "forget services")
            yield from erase("holds", "let go of services")
            yield from erase("clients", "forget clients")
        yield from _gone(OWN, _out(want), attachments)
        yield from _gone(OUT, _out(want), attachments)
        if want:
            yield from erase("links", "forget links")
            yield from erase("counters", "forget counters")

    def _attachments(
        self,
        program: str,
        wanted: Mapping[int, str],
        attachments: tuple[Attachment, ...],
        loaded: Loaded,
        outdated: bool,
        before: tuple[Attach, ...] = (),
    ) -> Iterator[Attach]:
        """before: what is attached by then, with a clsact if one is needed."""
        current = loaded.programs[program].id if program in loaded.programs else 0
        there = {a.ifindex for a in attachments if a.program == program and a.prog_id == current}
        how = ("tcx" if has_tcx() else "clsact") if self.attach == "auto" else self.attach
        with Rtnl() as rtnl:
            for ifindex, link in wanted.items():
                if ifindex not in there or outdated:
                    made = any(a.ifindex == ifindex for a in before)
                    clsact = made or has_clsact(rtnl, ifindex)
                    yield Attach(loaded, ifindex, link, program, how, clsact)

    def _entries(self) -> tuple[tuple[str, int], ...]:
        return tuple({**default_sizes(), **self._sizes}.items())

    def _build(self) -> bytes:
        import hashlib  # loads OpenSSL: 5 ms, and `ls` needs none of it

        try:
            return hashlib.sha256(self._path.read_bytes()).digest()[:8]
        except FileNotFoundError:
            raise ViscumError(
                f"the BPF object {self._path} is not there", hint="make setup builds it"
            ) from None

    def _outdated(self, loaded: Loaded, build: bytes) -> bool:
        """Whether other programs are loaded than this version's."""
        value = loaded.maps["config"].get(ZERO) if loaded.maps else None
        if value is None:
            return False
        version, _, number = abi.CONFIG.unpack(value)
        if version not in (0, abi.ABI):  # 0: killed between loading and the first write
            raise ViscumError(
                f"the data path in the kernel has layout {version}, this viscum {abi.ABI}",
                hint="take the services off with the viscum that made them, then run them again",
            )
        return bool(number != int.from_bytes(build, "big"))

    # ---- questions

    def look(self) -> Look:
        loaded = opened(first())
        return Look(_counters(loaded), _holds(loaded), _udp_flows(loaded))

    def counters(self) -> dict[int, Counters]:
        return _counters(opened(first()))

    def hold(self, sid: int, hold: Hold) -> bool:
        maps = opened(first()).maps
        key = abi.U32.pack(sid)
        if "holds" not in maps or maps["services"].get(key) is None:
            return False  # also where no director is left that would ask for it
        if hold == FREE:
            maps["holds"].delete(key)
        else:
            maps["holds"].set(key, abi.HOLD.pack(*map(abi.share, astuple(hold))))
        return True

    def holds(self) -> dict[int, Hold]:
        return _holds(opened(first()))

    def udp_flows(self) -> dict[int, int]:
        return _udp_flows(opened(first()))

    def udp_targets(self) -> dict[tuple[int, Address], int]:
        count: dict[tuple[int, Address], int] = {}
        for key, slot in _live_udp(opened(first())):
            which = slot, abi.flow_target(key)
            count[which] = count.get(which, 0) + 1
        return count

    def seed_udp(self, service: SteerService, flows: tuple[tuple[str, int, str, int], ...]) -> None:
        maps = opened(find()).maps
        if not maps:
            raise ViscumError("there is no data path to record flows in")
        value = abi.FLOW.pack(
            clock_gettime_ns(CLOCK_BOOTTIME), service.sid, 0, 0, service.udp_epoch
        )
        for client, cport, target, tport in flows:
            key = abi.flow_key(ip_address(client), cport, ip_address(target), tport)
            maps["flows"].add(key, value)

    def explain(self, ifindex: int, packet: bytes) -> Explanation:
        for there in find():
            if there.ifindex == ifindex and there.program == IN:
                program = bpf.program_by_id(there.prog_id)
                _, _, answer = program.test_run(packet, ifindex=ifindex, cb=abi.DRY_RUN)
                if answer[0] != abi.DRY_RUN_DONE:
                    raise ViscumError("the data path in the kernel does not answer questions")
                return Explanation(abi.REASONS[answer[1]], answer[2], answer[3], answer[4])
        return Explanation("not-attached")


# ---- reading ---------------------------------------------------------------------------------


def opened(attachments: Iterable[Attachment]) -> Loaded:
    """The attached programs and their maps."""
    loaded = Loaded()
    for there in sorted(attachments, key=lambda a: a.program == OWN):  # it has not every map
        if there.program in loaded.programs or (there.program == OWN and not loaded.maps):
            continue
        try:
            program = bpf.program_by_id(there.prog_id)
            maps = {m.name: m for m in map(bpf.map_by_id, program.map_ids())}
        except FileNotFoundError:
            continue
        if loaded.maps and maps["counters"].id != loaded.maps["counters"].id:
            continue  # of another load: its interface is attached anew
        loaded.programs[there.program] = program
        loaded.maps |= maps
    return loaded


def _counters(loaded: Loaded) -> dict[int, Counters]:
    found = loaded.contents("counters")
    return {abi.U32.unpack(k)[0]: abi.counters(v) for k, v in found.items()}


def _holds(loaded: Loaded) -> dict[int, Hold]:
    found = loaded.contents("holds")
    return {abi.U32.unpack(k)[0]: abi.hold(v) for k, v in found.items()}


def _udp_flows(loaded: Loaded) -> dict[int, int]:
    count: dict[int, int] = {}
    for _, slot in _live_udp(loaded):
        count[slot] = count.get(slot, 0) + 1
    return count


def _live_udp(loaded: Loaded) -> Iterator[tuple[bytes, int]]:
    """(key, slot) of every live UDP flow at the edge."""
    rules = {}
    for key, value in loaded.contents("services").items():
        fields = abi.SERVICE.unpack_from(value)
        rules[abi.U32.unpack(key)[0]] = (fields[5], fields[6])  # idle time, epoch
    now = clock_gettime_ns(CLOCK_BOOTTIME)
    for key, value in loaded.contents("flows").items():
        f = abi.flow(value)
        idle, epoch = rules.get(f.sid, (0, 0))
        if f.edge and f.epoch == epoch and now - f.last_ns < idle:
            yield key, f.slot


# ---- what should be in the maps ------------------------------------------------------------------


def _maps(want: Steering) -> dict[str, dict[bytes, bytes]]:
    tables = groups.tables(want)
    pack = abi.U32.pack
    return {
        "services": {pack(s.sid): abi.service(s, zlib.crc32(s.name.encode())) for s in want},
        "targets": {k: pack(v) for k, v in tables.targets.items()},
        "prefixes": {k: pack(v) for k, v in tables.prefixes.items()},
        "ports": {k: pack(v) for k, v in tables.ports.items()},
        "clients": {abi.client(s.sid, n): pack(1) for s in want for n in s.clients},
        "links": {
            pack(i.ifindex): abi.LINK.pack(i.slot, s.sid, abi.address(i.own4), abi.address(i.own6))
            for s in want
            for g in s.generations
            for i in g.instances
            if i.ifindex
        },
        "counters": {pack(s.sid): bytes(abi.COUNTERS.size) for s in want},
    }


def _in(want: Steering) -> dict[int, str]:
    indexes = sorted({i for s in want for i in (*s.interfaces, *s.held)})
    return {i: _link_name(i) for i in indexes}


def _out(want: Steering) -> dict[int, str]:
    slots = {i.slot: i.ifindex for s in want for g in s.generations for i in g.instances}
    return {ifindex: names.link(slot) for slot, ifindex in sorted(slots.items()) if ifindex}


def _link_name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"if{ifindex}"


def _gone(
    program: str, wanted: Mapping[int, str], attachments: tuple[Attachment, ...]
) -> Iterator[Op]:
    for there in attachments:
        if there.program == program and there.ifindex not in wanted:
            others = [a for a in attachments if a.ifindex == there.ifindex and a is not there]
            if program == OUT:  # the other one of the link goes before it
                others = [a for a in others if a.program != OWN]
            yield Detach(there, _link_name(there.ifindex), last=not others)


def _by_link(each: tuple[Attach, ...]) -> Iterator[Op]:
    for ifindex in dict.fromkeys(a.ifindex for a in each):
        yield AttachTogether(tuple(a for a in each if a.ifindex == ifindex))


def default_sizes() -> dict[str, int]:
    """How many entries the maps hold that packets write: 1/4096 of memory in bytes is a flow.

    A flow takes about 128 bytes, so this is 3 % of a small router's memory, and 8 MB at most:
    the kernel needs 9 ms to make 65,536 entries, and start-up counts.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    flows = min(65536, max(4096, memory // 4096))
    small = flows // 8
    return {"flows": flows, "replies": flows // 4, "syns": small, "away": small, "frags": small}
