"""Where programs of ours are attached, and attaching them: TCX, or clsact with cls_bpf.

Nothing is pinned: an attachment holds its program, the program its maps, so the interfaces of the
calling thread's network namespace are the one place to look.
"""

from __future__ import annotations

import errno
import socket
from functools import cache

import msgspec

from viscum import names
from viscum.kernel import bpf
from viscum.kernel.rtnl import Rtnl

IN, OUT, OWN = "viscum_in", "viscum_out", "viscum_own"

# A clsact that we made goes when our filter goes, unless others use it by then; one that was there
# stays. Which of the two it is must survive the process: the filter's handle says it.
HANDLE_FOUND = names.TC_HANDLE
HANDLE_MADE = names.TC_HANDLE + 1


class Attachment(msgspec.Struct, frozen=True):
    """program: IN, OUT or OWN. how: "tcx", or "clsact" with the filter's handle."""

    ifindex: int
    program: str
    prog_id: int
    how: str
    handle: int = 0

    @property
    def ingress(self) -> bool:
        return is_ingress(self.program)


def is_ingress(program: str) -> bool:
    """On which side of its interface a program of ours is."""
    return program != OWN


def _side(program: str) -> int:
    return bpf.TCX_INGRESS if is_ingress(program) else bpf.TCX_EGRESS


@cache
def has_tcx() -> bool:
    """TCX came with Linux 6.6; asking an older kernel is EINVAL."""
    try:
        bpf.tcx_query(1)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        if error.errno != errno.ENODEV:
            raise
    return True


def find() -> tuple[Attachment, ...]:
    """Every attachment of ours in this network namespace."""
    found: list[Attachment] = []
    ours: dict[int, str] = {}
    with Rtnl() as rtnl:
        for ifindex, name in socket.if_nameindex():
            found += _on(rtnl, ifindex, ours, name.startswith(names.LINK_PREFIX))
    return tuple(found)


def first() -> tuple[Attachment, ...]:
    """The director of one interface, whose program has every map; all there is without one.

    For looking often: clients have few interfaces, services hundreds.
    """
    with Rtnl() as rtnl:
        for ifindex, name in socket.if_nameindex():
            if not name.startswith(names.LINK_PREFIX):
                for there in _on(rtnl, ifindex, {}, False):
                    if there.program == IN:
                        return (there,)
    return find()


def on(ifindex: int) -> tuple[Attachment, ...]:
    """Those of one interface; none if it is not there."""
    with Rtnl() as rtnl:
        return tuple(_on(rtnl, ifindex, {}, True))


def _on(
    rtnl: Rtnl, ifindex: int, names_by_id: dict[int, str], both_sides: bool
) -> list[Attachment]:
    def named(number: int) -> str:
        if number not in names_by_id:
            try:
                names_by_id[number] = bpf.program_by_id(number).name
            except FileNotFoundError:  # detached meanwhile
                names_by_id[number] = ""
        return names_by_id[number]

    found = []
    sides = (((IN, OUT), True), ((OWN,), False))
    try:
        for ours, ingress in sides if both_sides else sides[:1]:
            if has_tcx():
                for number in bpf.tcx_query(ifindex, _side(ours[0])):
                    if named(number) in ours:
                        found.append(Attachment(ifindex, named(number), number, "tcx"))
            for f in rtnl.bpf_filters(ifindex, ingress):
                at_ours = f.prio == names.TC_PRIO and f.handle in (HANDLE_FOUND, HANDLE_MADE)
                if at_ours and (name := named(f.prog_id)) in ours:
                    found.append(Attachment(ifindex, name, f.prog_id, "clsact", f.handle))
    except OSError as error:
        if error.errno != errno.ENODEV:  # the interface went away meanwhile
            raise
    return found


def attach(ifindex: int, program: bpf.Program, how: str) -> None:
    """Attaches, or puts program in the place of ours that is there, without losing a packet.

    how: "tcx" or "clsact", for where nothing of ours is yet. OSError ENODEV: no such interface.
    """
    side, ingress = _side(program.name), is_ingress(program.name)
    present = [a for a in on(ifindex) if a.program == program.name]
    for there in present:
        if there.prog_id == program.id:
            continue
        if there.how == "tcx":
            bpf.tcx_replace(ifindex, program, bpf.program_by_id(there.prog_id), side)
        else:
            with Rtnl() as rtnl:
                rtnl.replace_bpf_filter(
                    ifindex, program.fd, program.name, names.TC_PRIO, there.handle, ingress
                )
    if present:
        return
    if how == "tcx":
        bpf.tcx_attach(ifindex, program, side)
        return
    with Rtnl() as rtnl:
        made = not has_clsact(rtnl, ifindex)
        handle = HANDLE_MADE if made else HANDLE_FOUND
        with rtnl.batch():  # at once, so that being killed can't leave the qdisc alone
            if made:
                rtnl.add_clsact(ifindex)
            rtnl.replace_bpf_filter(
                ifindex, program.fd, program.name, names.TC_PRIO, handle, ingress
            )


def detach(there: Attachment) -> None:
    """Takes it away; that it is gone already, or its interface, does not matter."""
    try:
        if there.how == "tcx":
            program = bpf.program_by_id(there.prog_id)
            bpf.tcx_detach(there.ifindex, program, _side(there.program))
            return
        with Rtnl() as rtnl:
            if there.handle == HANDLE_MADE and rtnl.filters_any(there.ifindex) == 1:
                rtnl.delete_clsact(there.ifindex)  # with the filter: a killed command leaves both
            else:
                rtnl.delete_filter(there.ifindex, names.TC_PRIO, there.handle, there.ingress)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            raise


def has_clsact(rtnl: Rtnl, ifindex: int) -> bool:
    return any(q.kind in ("clsact", "ingress") for q in rtnl.qdiscs(ifindex))
