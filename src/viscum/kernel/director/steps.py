"""The steps of the eBPF director: load, write a map, attach, detach.

Their shell form attaches by clsact, which every tc knows, and pins what it loads in a bpffs of its
own (commands have no other way to hand a program on), which is gone when the script ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from threading import Thread

import msgspec

from viscum import names
from viscum.errors import ViscumError
from viscum.kernel import bpf, libbpf
from viscum.kernel.director import abi, attach

PINS = "$pins"  # a variable of the script
# (key, value) sizes of the maps whose number of entries is chosen here: a plain bpftool can't.
LRU_SIZES = {
    "flows": (40, 24),
    "replies": (24, 16),
    "syns": (40, 16),
    "away": (40, 8),
    "frags": (40, 40),
}
NOTHING: Mapping[bytes, bytes] = {}
Outcome = tuple[dict[str, bpf.Program], dict[str, bpf.Map]]


class Loaded:
    """The programs and maps in the kernel, by name; empty while there are none."""

    __slots__ = ("loading", "maps", "outcome", "programs")

    def __init__(self) -> None:
        self.programs: dict[str, bpf.Program] = {}
        self.maps: dict[str, bpf.Map] = {}
        self.loading: Thread | None = None  # of a step that has begun to load
        self.outcome: Outcome | Exception = {}, {}

    def contents(self, name: str) -> Mapping[bytes, bytes]:
        there = self.maps.get(name)
        return dict(there.items()) if there else NOTHING


class Load(msgspec.Struct, frozen=True):
    """Loads the object; afterwards `loaded` has programs and maps. Until something is attached
    they live as long as this process. `again`: newer programs over the maps that are there."""

    loaded: Loaded
    path: str
    sizes: tuple[tuple[str, int], ...]
    again: bool = False

    def describe(self) -> str:
        return "load the data path" + (" anew, over its maps" if self.again else "")

    def shell(self) -> tuple[str, ...]:
        maps = {name: f"id {m.id}" for name, m in self.loaded.maps.items()}
        made = []
        for name, entries in () if self.again else self.sizes:
            key, value = LRU_SIZES[name]
            maps[name] = f"pinned {PINS}/{name}"
            made.append(
                f"bpftool map create {PINS}/{name} type lru_hash key {key} value {value}"
                f" entries {entries} name {name}"
            )
        reused = "".join(f" map name {name} {where}" for name, where in maps.items())
        return (
            "pins=$(mktemp -d /tmp/bpf-XXXXXX)",  # no dot: bpffs and libbpf don't want one
            f'trap \'umount "{PINS}"; rmdir "{PINS}"\' EXIT',
            f"mount -t bpf bpf {PINS}",
            *made,
            f"bpftool prog loadall {quote(self.path)} {PINS}/programs type classifier{reused}"
            + ("" if self.again else f" pinmaps {PINS}/maps"),
        )

    def begin(self) -> None:
        """The verifier takes its time (35 ms) without this process: it may begin before the other
        steps are done, and what it has loaded is nobody's until it is attached."""
        if self.loaded.loading is not None:
            return  # warm already
        self.loaded.loading = Thread(target=self._load, name="viscum-load")
        self.loaded.loading.start()

    def apply(self) -> None:
        if self.loaded.loading is None:
            self._load()
        else:
            self.loaded.loading.join()
            self.loaded.loading = None
        if isinstance(self.loaded.outcome, Exception):
            raise self.loaded.outcome
        self.loaded.programs, self.loaded.maps = self.loaded.outcome

    def _load(self) -> None:
        maps = self.loaded.maps if self.again else None
        try:
            self.loaded.outcome = libbpf.load(self.path, sizes=dict(self.sizes), reuse=maps)
        except (OSError, ViscumError) as error:
            self.loaded.outcome = error


class Write(msgspec.Struct, frozen=True):
    """Sets entries of one map."""

    loaded: Loaded
    map: str
    items: tuple[tuple[bytes, bytes], ...]
    what: str

    def describe(self) -> str:
        return self.what

    def shell(self) -> tuple[str, ...]:
        return tuple(  # a value of a per-CPU map is given once, for all CPUs
            f"bpftool map update {_map(self.loaded, self.map)} key hex {abi.hexadecimal(k)}"
            f" value hex {abi.hexadecimal(v)}"
            for k, v in self.items
        )

    def apply(self) -> None:
        there = self.loaded.maps[self.map]
        if self.map == "counters":  # one value for each CPU, and never a second zero
            copies = bpf.possible_cpus()
            there.update((k, v * copies) for k, v in self.items if there.get(k) is None)
        else:
            there.update(self.items)


class Erase(msgspec.Struct, frozen=True):
    """Deletes entries of one map."""

    loaded: Loaded
    map: str
    keys: tuple[bytes, ...]
    what: str

    def describe(self) -> str:
        return self.what

    def shell(self) -> tuple[str, ...]:
        return tuple(
            f"bpftool map delete {_map(self.loaded, self.map)} key hex {abi.hexadecimal(k)}"
            for k in self.keys
        )

    def apply(self) -> None:
        self.loaded.maps[self.map].remove(self.keys)


class Attach(msgspec.Struct, frozen=True):
    """Attaches a program to an interface, or replaces an older one of ours there."""

    loaded: Loaded
    ifindex: int
    link: str
    program: str
    how: str
    clsact: bool  # is there already

    def describe(self) -> str:
        return f"attach {self.program} to {self.link} ({self.how})"

    def shell(self) -> tuple[str, ...]:
        handle = attach.HANDLE_FOUND if self.clsact else attach.HANDLE_MADE
        qdisc = () if self.clsact else (f"tc qdisc add dev {quote(self.link)} clsact",)
        program = f"bpf direct-action object-pinned {PINS}/programs/{self.program}"
        where = _where(self.link, self.program, handle)
        return (*qdisc, f"tc filter replace {where} {program}")

    def apply(self) -> None:
        attach.attach(self.ifindex, self.loaded.programs[self.program], self.how)


class AttachTogether(msgspec.Struct, frozen=True):
    """Several at once: for each the kernel waits until no processor runs what was there (15 ms).
    But the two of one link one after the other where they share a clsact."""

    each: tuple[Attach, ...]

    def describe(self) -> str:
        return "; ".join(one.describe() for one in self.each)

    def shell(self) -> tuple[str, ...]:
        return tuple(line for one in self.each for line in one.shell())

    def apply(self) -> None:
        failed: list[Exception] = []

        def attach_in_turn(some: list[Attach]) -> None:
            try:
                for one in some:
                    one.apply()
            except (OSError, ViscumError) as error:
                failed.append(error)

        turns: dict[object, list[Attach]] = {}
        for one in self.each:
            key = one.ifindex if one.how == "clsact" else (one.ifindex, one.program)
            turns.setdefault(key, []).append(one)
        threads = [Thread(target=attach_in_turn, args=(some,)) for some in turns.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]


class Detach(msgspec.Struct, frozen=True):
    """Takes one of our programs off an interface."""

    there: attach.Attachment
    link: str
    last: bool = False  # nothing else uses the clsact that we made

    def describe(self) -> str:
        return f"detach {self.there.program} from {self.link}"

    def shell(self) -> tuple[str, ...]:
        handle = self.there.handle or attach.HANDLE_MADE
        ours = self.last and handle == attach.HANDLE_MADE
        qdisc = (f"tc qdisc del dev {quote(self.link)} clsact",) if ours else ()
        where = _where(self.link, self.there.program, handle)
        return (f"tc filter del {where} bpf", *qdisc)

    def apply(self) -> None:
        attach.detach(self.there)


def _map(loaded: Loaded, name: str) -> str:
    """The map that is there, or the one that the script makes."""
    there = loaded.maps.get(name)
    return f"id {there.id}" if there else f"pinned {PINS}/maps/{name}"


def _where(link: str, program: str, handle: int) -> str:
    side = "ingress" if attach.is_ingress(program) else "egress"
    return f"dev {quote(link)} {side} protocol all pref {names.TC_PRIO} handle {handle:#x}"
