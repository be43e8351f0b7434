"""Listening on the client interfaces, for as long as a service wants to learn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from viscum.clock import now
from viscum.controller.dns.learn import PER_SECOND, Bucket, Listener, Told
from viscum.controller.dns.message import wire_name
from viscum.kernel import link
from viscum.kernel.dnswatch import Datagram, Watch
from viscum.model import Address, Network

BATCH = 32  # messages before others on the event loop have their turn
PAUSE = 0.1  # seconds without listening when there was too much


class Ears:
    """trust: servers beyond this box that are believed. told: called with the interface and what a
    client was told there; spoiled: with a name and the answer for it that came in from clients;
    listening: with an interface and why it can't be listened on ("": it can).

    own: the box's own addresses. Its resolver is believed where nobody else can send in its name:
    the kernel drops IPv4 packets that come with a source of the box's own and routes no link-local
    ones. IPv6 has no such check, so that its other addresses have to be in `trust`.
    """

    def __init__(
        self,
        trust: tuple[Network, ...],
        told: Callable[[str, Told], None],
        spoiled: Callable[[str, Datagram], None],
        listening: Callable[[str, str], None],
    ) -> None:
        self.own: set[Address] = set()
        self.wanted: dict[str, frozenset[bytes]] = {}  # names by interface
        self.needed = asyncio.Event()
        self._trust = trust
        self._told = told
        self._listening = listening
        self._watches: dict[str, Watch] = {}
        self._listener = Listener(self._trusted, spoiled)
        self._budget = Bucket(PER_SECOND)

    def _trusted(self, server: Address) -> bool:
        if server in self.own:
            return server.version == 4 or server.is_link_local or self._listed(server)
        return self._listed(server)

    def _listed(self, server: Address) -> bool:
        return any(server in network for network in self._trust)

    def listen_for(self, wanted: Iterable[tuple[str, str]]) -> None:
        """(interface, name), all of them."""
        found: dict[str, set[bytes]] = {}
        for interface, name in wanted:
            wire = wire_name(name)
            found.setdefault(interface, set()).add(wire)
            self._listener.names[wire] = name
        self._listener.names = {
            wire: name
            for wire, name in self._listener.names.items()
            if any(wire in names for names in found.values())
        }
        before, self.wanted = self.wanted, {i: frozenset(n) for i, n in found.items()}
        if self.wanted:
            self.needed.set()
        else:
            self.needed.clear()
        for interface in list(self._watches):
            if interface not in self.wanted:
                self._end(interface)
            elif before[interface] != self.wanted[interface]:
                try:
                    self._watches[interface].names(self.wanted[interface])
                except OSError:
                    self._end(interface)  # open() makes it anew, or says why it can't be

    def open(self) -> None:
        """Those that are not open; anew where the interface is another one by now. One that can't
        be keeps nobody from listening on the others."""
        for interface, names in self.wanted.items():
            try:
                self._open(interface, names)
            except OSError as error:
                self._listening(interface, str(error))
            else:
                self._listening(interface, "")

    def _open(self, interface: str, names: frozenset[bytes]) -> None:
        index = link.index(interface)
        watch = self._watches.get(interface)
        if watch is not None and watch.ifindex == index:
            return
        if watch is not None:
            self._end(interface)
        if index:
            watch = self._watches[interface] = Watch(interface, names)
            self._read_from(interface, watch)

    def close(self) -> None:
        for interface in list(self._watches):
            self._end(interface)

    def _end(self, interface: str) -> None:
        watch = self._watches.pop(interface)
        asyncio.get_running_loop().remove_reader(watch.fileno())
        watch.close()

    def _read_from(self, interface: str, watch: Watch) -> None:
        if self._watches.get(interface) is watch:
            asyncio.get_running_loop().add_reader(watch.fileno(), self._read, interface, watch)

    def _read(self, interface: str, watch: Watch) -> None:
        """Beyond the budget nothing is read for a while, and the kernel drops what finds no room:
        that costs nobody time."""
        moment = now()
        for _ in range(BATCH):
            if not self._budget.take(moment):
                loop = asyncio.get_running_loop()
                loop.remove_reader(watch.fileno())
                loop.call_later(PAUSE, self._read_from, interface, watch)
                return
            try:
                seen = watch.read()
            except OSError:  # the interface went down, or away: see open()
                return
            if seen is None:
                return
            told = self._listener.heard(interface, seen, moment)
            if told is not None:
                self._told(interface, told)
