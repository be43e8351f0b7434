"""TLS preflight: would clients accept the certificate that the server at the edge shows them?

The server is asked as they ask it, in its namespace, without the host's lock and within LIMIT. Only
ports that are TLS by convention get a client's hello, and those that the operator names: another
protocol's server might take it for an attack, or wait for the rest of it for ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from typing import TYPE_CHECKING

from viscum import names
from viscum.doctor import Finding
from viscum.kernel import netns, prober, sockets
from viscum.plan import PROTOCOLS, Instance, instances
from viscum.spec import Port, Spec
from viscum.spec.values import target_network
from viscum.store import World

if TYPE_CHECKING:
    from viscum.kernel.tls import Fault, Shown

LIMIT = 2.0  # seconds; by `doctor` for each question, else for all together
NAMES = 8  # of a spec's targets, so many are asked for
SHOWN = 5  # names of a certificate that are shown

# https, smtps, nntps, ldaps, dns, ftps, telnets, imaps, pop3s, ldaps (catalogue), sips, stuns,
# amqps, syslog, ircs, https, mqtts
TLS = (443, 465, 563, 636, 853, 990, 992, 993, 995, 3269, 5061, 5349, 5671, 6514, 6697, 8443, 8883)
QUIC = {443: "h3", 853: "doq", 8443: "h3"}  # ALPN


def due(spec: Spec, more: Iterable[Port] = ()) -> list[Port]:
    """Where a client's hello may be sent, of a spec: nothing that costs."""
    usual = [Port("tcp", n, n) for n in TLS] + [Port("udp", n, n) for n in QUIC]
    steered = spec.steer.ports
    found = [
        p for p in usual
        if not steered or any(s.proto == p.proto and s.first <= p.first <= s.last for s in steered)
    ]  # fmt: skip
    if spec.probe.type == "https":  # asked at its port, or at the first (spec/rules.py)
        at = spec.probe.port or next((s.first for s in steered if s.proto == "tcp"), None)
        found += [Port("tcp", at, at)] if at else []
    return sorted({*found, *more})


def look(host: names.HostNames, world: World, name: str, *, quic: bool = True) -> Iterator[Finding]:
    """What is wrong, in LIMIT, after a start. Raises nothing."""
    try:
        spec = world.services[name].spec
        asking = _Asking(host, world, name, due(spec), time.monotonic() + LIMIT)
        for port in asking.ports:
            if port.proto == "tcp" or quic:
                yield from (f for f in asking.port(port) if f.level != "ok")
    except (OSError, KeyError):
        return  # it has just gone


def examine(
    host: names.HostNames, world: World, name: str, more: tuple[Port, ...] = ()
) -> Iterator[Finding]:
    """All of it, and what the real cloud shows. more: ports to ask besides."""
    spec = world.services[name].spec
    asking = _Asking(host, world, name, due(spec, more), None)
    for port in asking.ports:
        yield from asking.port(port)
        if port.proto == "tcp":
            yield from asking.cloud(port)
    for port in more:
        if port not in asking.ports:
            yield Finding("warn", f"nothing of {name} listens on {port}", f"viscum status {name}")
    if asking.instance is None:
        yield Finding("ok", f"{name} does not run: its certificate can't be looked at")
    elif not asking.ports:
        yield Finding("ok", f"{name} listens on no port that is TLS by convention")


class _Asking:
    """One service. end: until when (time.monotonic); None: LIMIT for each question."""

    def __init__(
        self, host: names.HostNames, world: World, name: str, ports: list[Port], end: float | None
    ) -> None:
        self.record = world.services[name]
        self.names: list[str | None] = [*_names(self.record.spec)]
        self.end = end
        self.instance: Instance | None = None
        self.ports: list[Port] = []
        for i in instances(world, host):
            if i.record.name == name and not self.ports:
                self.instance, self.ports = i, _listening(i, ports)
        self.edge: dict[Port, Shown] = {}

    def port(self, port: Port) -> Iterator[Finding]:
        """Names that meet with the same answer are told of together."""
        assert self.instance is not None
        answers: dict[tuple[Finding, ...], list[str]] = {}
        for name in self.names or [None]:
            ask = self._quic if port.proto == "udp" else self._tls
            found = tuple(ask(self.instance, port, name))
            answers.setdefault(found, []).append(name or "")
        for found, wanted in answers.items():
            for f in found:
                who = f"clients of {_some(wanted)}" if any(wanted) else "clients"
                yield Finding(f.level, f.what.replace("{who}", f"{port}: {who}"), f.fix)

    def _tls(self, i: Instance, port: Port, name: str | None) -> Iterator[Finding]:
        from viscum.kernel import tls

        at = prober.places(i.record.addresses)

        def connect(seconds: float) -> prober.Sock:
            return prober.connected(i.netns, at, port.first, seconds)

        try:
            shown, faults = tls.ask(connect, name, self._until())
        except tls.NoHandshake as error:
            yield Finding(
                "warn",
                f"{{who}} expect TLS and get no connection: {_plain(str(error))}",
                "let the server speak TLS there, or steer another port",
            )
            return
        except (OSError, ValueError) as error:
            yield _unasked(error)
            return
        self.edge.setdefault(port, shown)
        for fault in faults:
            what, fix = _in_words(fault, shown, name)
            yield Finding("warn", f"{{who}} reject its certificate: {what}", fix)
        if not faults:
            yield _accepted(shown, name, trusts=tls.trusts())

    def _quic(self, i: Instance, port: Port, name: str | None) -> Iterator[Finding]:
        try:
            from viscum.kernel import quic
            from viscum.kernel.tls import NoHandshake
        except ImportError:
            yield Finding(
                "ok",
                "{who} may use QUIC; its certificate can't be looked at, since aioquic is not "
                "installed",
                "in Viscum's checkout: make setup, or pip install '.[quic]'",
            )
            return
        protocol = QUIC.get(port.first, "h3")
        at = prober.datagrams(i.netns, prober.places(i.record.addresses))
        try:
            why = quic.ask(at, port.first, name, [protocol], self._until())
        except NoHandshake as error:
            yield Finding(
                "warn",
                f"{{who}} that use QUIC get no connection for {protocol}: {_plain(str(error))}",
                "let the server speak it there, or do not steer the port",
            )
        except OSError as error:
            yield _unasked(error)
        else:
            if why:
                yield Finding(
                    "warn",
                    f"{{who}} that use QUIC reject its certificate: {_plain(why)}",
                    "give the server one that they accept, as for TCP",
                )
            else:
                yield Finding("ok", f"{{who}} that use QUIC accept its certificate ({protocol})")
        finally:
            for _, sock in at:
                sock.close()

    def cloud(self, port: Port) -> Iterator[Finding]:
        """What the real one's certificate holds and ours does not."""
        from viscum.kernel import tls

        ours = self.edge.get(port)
        if ours is None:
            return
        name = self.names[0] if self.names else None
        at = [a for a in prober.places(self.record.addresses) if not _loopback(a)]
        try:
            theirs = tls.shown(tls.at(at, port.first), name, time.monotonic() + LIMIT)
        except (tls.NoHandshake, OSError, ValueError) as error:
            yield Finding(
                "ok", f"{port}: the cloud's certificate is not known: {_plain(str(error))}"
            )
            return
        lacks = [n for n in theirs.names if not any(_covers(own, n) for own in ours.names)]
        if lacks:
            yield Finding(
                "warn",
                f"{port}: the cloud's certificate also holds {_some(lacks)}; clients that ask this "
                "address for such a name reject ours",
                "give the server a certificate that holds them, if clients use them",
            )
        else:
            yield Finding("ok", f"{port}: it holds every name that the cloud's certificate does")

    def _until(self) -> float:
        return time.monotonic() + LIMIT if self.end is None else self.end


def _names(spec: Spec) -> list[str]:
    return [t for t in spec.steer.targets if target_network(t) is None][:NAMES]


def _listening(i: Instance, ports: list[Port]) -> list[Port]:
    """Those on which the instance's server listens."""
    try:
        with netns.opened(i.netns) as fd:
            there = {(s.proto, s.port) for s in sockets.listeners(fd)}
    except FileNotFoundError:
        return []
    return [p for p in ports if (PROTOCOLS[p.proto], p.first) in there]


def _loopback(address: str) -> bool:
    return ip_network(address).is_loopback


def _covers(own: str, name: str) -> bool:
    """Whether a name of a certificate stands for another one: RFC 9525 6.3, and itself."""
    if own.startswith("*.") and not name.startswith("*."):
        return own[1:].lower() == f".{name.partition('.')[2]}".lower()
    return own.lower() == name.lower()


# ---- words -----------------------------------------------------------------------------------


def _accepted(shown: Shown, name: str | None, *, trusts: bool) -> Finding:
    about = f"for {_some(shown.names)}, by {_plain(shown.issuer)}, until {_day(shown.until)}"
    if name is None:
        about += "; whether it has the name they ask for can't be told: the targets are addresses"
    if not trusts:
        return Finding(
            "warn",
            f"{{who}} may accept its certificate ({about}), but this box knows no authority",
            "apt-get install ca-certificates",
        )
    return Finding("ok", f"{{who}} accept its certificate ({about})")


def _in_words(fault: Fault, shown: Shown, name: str | None) -> tuple[str, str]:
    """(what is wrong, what to do)."""
    issuer = _plain(shown.issuer) or "somebody without a name"
    today = _day(time.time())
    if fault.wrong == "name":
        held = f"for {_some(shown.names)}" if shown.names else "for no name at all"
        return f"it is {held}, not for {name}", f"give the server a certificate for {name}"
    if fault.wrong == "expired":
        return f"it has expired on {_day(shown.until)} (here it is {today})", "renew it"
    if fault.wrong == "early":
        return (
            f"it is not valid before {_day(shown.since)} (here it is {today})",
            "is this box's clock right? date",
        )
    if fault.wrong == "stale":
        return (
            f"a certificate of its issuers is not valid at this time: {_plain(fault.detail)}",
            "let the server send the issuers' newer ones",
        )
    if fault.wrong == "self-signed":
        return (
            "it is self-signed, so that nobody vouches for it",
            "give the server one that an authority has signed, or have every client trust this one",
        )
    if fault.wrong == "chain":
        return (
            f"the chain is incomplete: the server does not send the certificate of {issuer}",
            "append that to the server's certificate file, after its own",
        )
    if fault.wrong == "issuer":
        return (
            f"its issuer is unknown to this box: {issuer}",
            "if clients trust it, ask with SSL_CERT_FILE=FILE; if it is an intermediate, append it",
        )
    return _plain(fault.detail), "openssl x509 -noout -text shows what it is made of"


def _unasked(error: Exception) -> Finding:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Finding("ok", f"{{who}}: the server can't be asked for its certificate: {_plain(why)}")


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _plain(text: str) -> str:
    """What a certificate says is a stranger's: nothing of it may move the terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in text[:100])


def _some(found: Iterable[str]) -> str:
    listed = [_plain(n) for n in found]
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
