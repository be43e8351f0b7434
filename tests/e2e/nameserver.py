"""A name server whose answers a test changes while it runs, and a client of name servers.

    python nameserver.py ZONE ADDRESS…

ZONE is a JSON file that is read for every question: name → {"A": […], "AAAA": […], "ttl": 1,
"CNAME": "…", "A-rcode": 2, "silent": […types…], "for": {client's address: {the same}}, "tcp": true
(answers are truncated by UDP)}. A name that is not there does not exist. Every question is a line
of output: `udp|tcp CLIENT NAME TYPE`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

if TYPE_CHECKING:
    from viscum.lab import Lab

PORT = 53


class Zone:
    """The server in the cloud, from a test."""

    def __init__(self, lab: Lab, *addresses: str, role: str = "cloud") -> None:
        from support import wait_until

        self.path = lab.directory / f"zone-{role}.json"
        self.log = lab.directory / f"zone-{role}.log"
        self._names: dict[str, dict[str, Any]] = {}
        self.set()
        with self.log.open("wb") as log:
            lab.popen(role, [sys.executable, __file__, str(self.path), *addresses], stdout=log)
        wait_until(
            lambda: (
                lab.run(role, ["ss", "-Hltun", "sport = 53"]).stdout.count(":53 ")
                >= 2 * len(addresses)
            ),
            "the name server",
        )

    def set(self, name: str = "", **records: Any) -> None:
        """From now on; `A_rcode` stands for "A-rcode"."""
        if name:
            self._names[name] = {key.replace("_", "-"): value for key, value in records.items()}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self._names))
        new.replace(self.path)

    def asked(self, kind: str = "") -> list[str]:
        """What it has been asked so far, of one type or all."""
        return [line for line in self.log.read_text().splitlines() if line.endswith(kind)]


def ask(
    lab: Lab,
    name: str,
    kind: str = "A",
    *,
    server: str,
    role: str = "ue",
    source: tuple[str, int] | None = None,
) -> list[str]:
    """A client's question by UDP; the addresses it is told."""
    from e2e.net import DGRAM, sock

    with sock(lab, role, server, DGRAM, timeout=5) as conn:
        if source:
            conn.bind(source)
        conn.connect((server, PORT))
        query = dns.message.make_query(name, kind)
        conn.send(query.to_wire())
        answer = dns.message.from_wire(conn.recv(65535))
    wanted = dns.rdatatype.from_text(kind)
    return sorted(r.address for rrset in answer.answer if rrset.rdtype == wanted for r in rrset)


# ---- the server ------------------------------------------------------------------------------


_read: tuple[float, dict[str, Any]] = (0.0, {})


def read(zone: Path, anew: bool) -> dict[str, Any]:
    """A change comes between two rounds, not between A and AAAA of one."""
    global _read
    if anew or time.monotonic() - _read[0] > 0.1:
        _read = time.monotonic(), json.loads(zone.read_text())
    return _read[1]


def answer_to(zone: Path, client: str, data: bytes, tcp: bool) -> bytes | None:
    query = dns.message.from_wire(data)
    question = query.question[0]
    name = question.name.to_text(omit_final_dot=True).lower()
    kind = dns.rdatatype.to_text(question.rdtype)
    sys.stdout.write(f"{'tcp' if tcp else 'udp'} {client} {name} {kind}\n")
    sys.stdout.flush()
    names = read(zone, kind == "A")
    response = dns.message.make_response(query, recursion_available=True)
    at = name
    for _ in range(8):
        entry = names.get(at)
        if entry is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            break
        entry = entry.get("for", {}).get(client, entry)
        if kind in entry.get("silent", ()):
            return None
        if entry.get("tcp") and not tcp:
            response.flags |= dns.flags.TC
            break
        if code := entry.get(f"{kind}-rcode"):
            response.set_rcode(dns.rcode.Rcode(code))
            break
        ttl = entry.get("ttl", 1)
        if "CNAME" in entry:
            target = f"{entry['CNAME']}."
            response.answer.append(dns.rrset.from_text(f"{at}.", ttl, "IN", "CNAME", target))
            at = entry["CNAME"]
            continue
        if addresses := entry.get(kind):
            response.answer.append(dns.rrset.from_text(f"{at}.", ttl, "IN", kind, *addresses))
        break
    return response.to_wire()


def serve_udp(zone: Path, conn: socket.socket) -> None:
    while True:
        data, peer = conn.recvfrom(65535)
        if (answer := answer_to(zone, peer[0], data, False)) is not None:
            conn.sendto(answer, peer)


def serve_tcp(zone: Path, listener: socket.socket) -> None:
    while True:
        conn, peer = listener.accept()
        with conn, conn.makefile("rb") as stream:
            data = stream.read(int.from_bytes(stream.read(2), "big"))
            answer = answer_to(zone, peer[0], data, True) or b""
            conn.sendall(len(answer).to_bytes(2, "big") + answer)


def main(zone: str, *addresses: str) -> None:
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        datagrams.bind((address, PORT))
        listener = socket.create_server((address, PORT), family=family)
        for serve, conn in ((serve_udp, datagrams), (serve_tcp, listener)):
            threading.Thread(target=serve, args=(Path(zone), conn)).start()


if __name__ == "__main__":
    sys.path[:] = [p for p in sys.path if p != os.path.dirname(__file__)]
    main(*sys.argv[1:])
