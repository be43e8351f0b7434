"""What one service's names stand for, how it is known and until when: pure, no clock of its own.

An address stays for a while after it was last in an answer, so that one that comes and goes with
every answer (a CDN that gives 4 of 50) is not taken away and put back all the time; then it goes.
While no answer comes, nothing goes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import ip_network
from typing import Literal

from msgspec import Struct

from viscum.model import Address
from viscum.spec import TargetNames
from viscum.spec.values import target_network

Source = Literal["resolver", "seen", "adopted"]

VERSIONS = (4, 6)
APPROVED = 60.0  # seconds until an address is looked at again
NEW_PER_MINUTE = 10  # addresses that a name may gain from what clients are answered


class Entry(Struct):
    """Times: CLOCK_BOOTTIME seconds. name: "" while it is not known which one led to it; alive:
    until then the last answer with it counts (its time to live)."""

    address: Address
    name: str
    source: Source
    first: float
    last: float
    alive: float
    expires: float


class Book:
    """Of one service."""

    def __init__(self, targets: tuple[str, ...], rules: TargetNames) -> None:
        self.targets = targets
        self.rules = rules
        self.entries: dict[tuple[str, Address], Entry] = {}
        self._gained: dict[str, list[float]] = {}  # moments of new addresses seen, by name
        self._approved: dict[Address, float] = {}
        # (name, IP version) that are being asked for or could not be had; and of them the latter
        self._unsure: set[tuple[str, int]] = set()
        self._failed: set[tuple[str, int]] = set()

    @property
    def names(self) -> tuple[str, ...]:
        return names_of(self.targets)

    def addresses(self) -> set[Address]:
        return {entry.address for entry in self.entries.values()}

    def wanted(self) -> tuple[str, ...]:
        """As networks, as a record has them."""
        return tuple(str(ip_network(a)) for a in sorted(self.addresses(), key=_order))

    def differs(self, addresses: Iterable[str]) -> bool:
        """Whether a record with these has others than this book for its names."""
        literal = {n for n in map(target_network, self.targets) if n}
        here = {ip_network(a) for a in self.addresses()}
        return here - literal != set(map(ip_network, addresses)) - literal

    # ---- what is there already

    def change(self, targets: tuple[str, ...], rules: TargetNames) -> None:
        """The spec has changed: what only its old names led to goes."""
        self.targets, self.rules = targets, rules
        self._approved.clear()
        named = {"", *self.names}
        self._unsure = {key for key in self._unsure if key[0] in named}
        self._failed = {key for key in self._failed if key[0] in named}
        self.entries = {k: e for k, e in self.entries.items() if e.name in named}

    def adopt(self, addresses: Iterable[str], now: float) -> None:
        """What the record has and this book has not: resolved when the spec was applied, or found
        by an earlier controller. One of them that somebody has taken away is forgotten."""
        literal = {n for n in map(target_network, self.targets) if n}
        networks = [n for n in map(ip_network, addresses) if n not in literal]
        there = {n.network_address for n in networks if n.num_addresses == 1}
        self.entries = {
            key: e for key, e in self.entries.items() if e.source != "adopted" or e.address in there
        }
        for address in there - self.addresses():
            name = self.names[0] if len(self.names) == 1 else ""
            self._put(name, address, "adopted", self.rules.hold, now)

    # ---- answers

    def asking(self, name: str) -> None:
        """Until it is `found` nothing of a family that the name led to goes."""
        self._unsure |= {(name, version) for version in VERSIONS}

    def found(
        self,
        name: str,
        addresses: Collection[Address],
        ttl: float,
        now: float,
        versions: Collection[int] = VERSIONS,
    ) -> list[str]:
        """This box's own questions have been answered, for these families. Returns why some of the
        addresses were not taken."""
        for version in VERSIONS:
            if version not in versions:
                self._failed.add((name, version))
                continue
            if (name, version) in self._failed:  # to have had no answer was no absence
                for entry in self.entries.values():
                    if entry.name in ("", name) and entry.address.version == version:
                        entry.expires = max(entry.expires, now + float(self.rules.hold))
            self._failed.discard((name, version))
            self._unsure.discard((name, version))
        refused = []
        for address in addresses:
            if self._room(address, now, also_seen=True):
                self._put(name, address, "resolver", ttl, now)
            else:
                refused.append(f"{address}: {self._full()}")
        return refused

    def seen(self, name: str, address: Address, ttl: float, now: float) -> str | None:
        """A client was given the address. Returns why it is not taken, or None."""
        if address not in self.addresses():
            gained = [t for t in self._gained.get(name, []) if now - t < 60]
            self._gained[name] = gained
            if len(gained) >= NEW_PER_MINUTE:
                return f"{name} has had {NEW_PER_MINUTE} new addresses within a minute"
            if not self._room(address, now, also_seen=False):
                return self._full()
            gained.append(now)
        known = self.entries.get((name, address))
        source: Source = "resolver" if known and known.source == "resolver" else "seen"
        self._put(name, address, source, ttl, now)
        return None

    def failed(self, name: str) -> None:
        """No answer: whatever the name led to stays until there is one."""
        self._failed |= {(name, version) for version in VERSIONS}

    def clamp(self, ttl: float) -> float:
        return min(max(ttl, float(self.rules.min_ttl)), float(self.rules.max_ttl))

    def approve(self, addresses: Iterable[Address], now: float) -> None:
        """They may be targets, as things are."""
        self._approved |= dict.fromkeys(addresses, now)

    def approved(self, now: float) -> set[Address]:
        """Those of which this was found out lately, and under the same rules."""
        self._approved = {a: t for a, t in self._approved.items() if now - t < APPROVED}
        return set(self._approved)

    def drop(self, addresses: Collection[Address]) -> None:
        self.entries = {k: e for k, e in self.entries.items() if e.address not in addresses}

    # ---- time

    def expire(self, now: float) -> None:
        """Drops what is over; what nobody asks for again (refresh = "off") is never."""
        for key, entry in list(self.entries.items()):
            if now >= entry.expires and not self._pinned(entry):
                del self.entries[key]

    def next_expiry(self) -> float | None:
        times = [e.expires for e in self.entries.values() if not self._pinned(e)]
        return min(times, default=None)

    def _pinned(self, entry: Entry) -> bool:
        """What may not go now, however old it is."""
        if self.rules.refresh == "off":
            return entry.source != "seen"
        version = entry.address.version
        unsure = {name for name, v in self._unsure if v == version}
        return entry.name in unsure if entry.name else bool(unsure)

    def _put(self, name: str, address: Address, source: Source, ttl: float, now: float) -> None:
        ttl = self.clamp(ttl)
        expires = now + max(2 * ttl, float(self.rules.hold))
        self.entries.pop(("", address), None)  # now it is known which name leads there
        entry = self.entries.get((name, address))
        if entry is None:
            entry = Entry(address, name, source, now, now, now + ttl, expires)
            self.entries[name, address] = entry
            return
        entry.source, entry.last, entry.alive, entry.expires = source, now, now + ttl, expires

    def _room(self, address: Address, now: float, *, also_seen: bool) -> bool:
        """Makes some if need be: of what is in no answer any more the one that was so longest goes.

        What a client was given may take only the place of what another one was.
        """
        there = self.addresses()
        if address in there or len(there) < self.rules.max_addresses:
            return True
        over = [
            e
            for e in self.entries.values()
            if e.alive <= now and (e.source == "seen" or also_seen) and not self._pinned(e)
        ]
        if not over:
            return False
        self.drop({min(over, key=lambda e: e.last).address})
        return True

    def _full(self) -> str:
        return f"there are {self.rules.max_addresses} already (steer.names.max-addresses)"


def names_of(targets: tuple[str, ...]) -> tuple[str, ...]:
    """Those targets that are names."""
    return tuple(t for t in targets if target_network(t) is None)


def _order(address: Address) -> tuple[int, bytes]:
    return address.version, address.packed
