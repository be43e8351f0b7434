"""Traffic control by netlink: clsact, and cls_bpf filters in direct-action mode.

Source: linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h, tc-bpf(8).
"""

from __future__ import annotations

import errno
from struct import Struct

import msgspec

from viscum.kernel import netlink
from viscum.kernel.netlink import NLM_F_CREATE, NLM_F_EXCL, Netlink, get_text, get_u32

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_GETQDISC = 36, 37, 38
_RTM_NEWTFILTER, _RTM_DELTFILTER, _RTM_GETTFILTER = 44, 45, 46

_TC_H_CLSACT = 0xFFFF_FFF1
_CLSACT_HANDLE = 0xFFFF_0000
_INGRESS = 0xFFFF_FFF2
_EGRESS = 0xFFFF_FFF3
_ETH_P_ALL_BE = 0x0300  # htons(3) as tcm_info wants it

_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _TCA_BPF_ID = 6, 7, 8, 11
_TCA_BPF_FLAG_ACT_DIRECT = 1

_TCMSG = Struct("=BxxxiIII")  # family, ifindex, handle, parent, info


class Qdisc(msgspec.Struct, frozen=True):
    """kind ("noqueue", "clsact", …), handle and parent as 32 bit numbers (major << 16 | minor)."""

    ifindex: int
    kind: str
    handle: int
    parent: int


class BpfFilter(msgspec.Struct, frozen=True):
    """One cls_bpf filter: its priority (1 … 65535), handle, name, and the id of its program."""

    prio: int
    handle: int
    name: str
    prog_id: int


class Tc(Netlink):
    """The traffic-control half of `Rtnl`."""

    def qdiscs(self, ifindex: int) -> list[Qdisc]:
        """The queueing disciplines of one link (none if there is no such link)."""
        body = _TCMSG.pack(0, ifindex, 0, 0, 0)
        found = []
        for m in self.dump(_RTM_GETQDISC, body, f"qdiscs of link {ifindex}"):
            _, index, handle, parent, _ = _TCMSG.unpack_from(m.body)
            if index == ifindex:  # the kernel does not filter by link
                kind = get_text(netlink.parse(m.body, _TCMSG.size), _TCA_KIND)
                found.append(Qdisc(index, kind, handle, parent))
        return found

    def add_clsact(self, ifindex: int) -> None:
        """FileExistsError if the link has a clsact (or ingress) already."""
        body = _TCMSG.pack(0, ifindex, _CLSACT_HANDLE, _TC_H_CLSACT, 0)
        body += netlink.text(_TCA_KIND, "clsact")
        flags = NLM_F_CREATE | NLM_F_EXCL
        self.request(_RTM_NEWQDISC, flags, body, f"add clsact to link {ifindex}")

    def delete_clsact(self, ifindex: int) -> None:
        """Takes every filter of the link with it: only for a clsact that holds none but ours."""
        body = _TCMSG.pack(0, ifindex, _CLSACT_HANDLE, _TC_H_CLSACT, 0)
        self.request(_RTM_DELQDISC, 0, body, f"delete clsact from link {ifindex}")

    def bpf_filters(self, ifindex: int, ingress: bool = True) -> list[BpfFilter]:
        """The cls_bpf filters on one side of a link, by priority."""
        found = []
        for handle, info, attributes in self._filters(ifindex, ingress):
            if get_text(attributes, _TCA_KIND) == "bpf":
                options = netlink.parse(attributes.get(_TCA_OPTIONS, b""))
                name, prog = get_text(options, _TCA_BPF_NAME), get_u32(options, _TCA_BPF_ID)
                found.append(BpfFilter(info >> 16, handle, name, prog))
        return sorted(found, key=lambda f: (f.prio, f.handle))

    def filters_any(self, ifindex: int) -> int:
        """How many filters of any kind, anybody's, the link has on ingress and egress."""
        return len(self._filters(ifindex, True)) + len(self._filters(ifindex, False))

    def replace_bpf_filter(
        self, ifindex: int, prog_fd: int, name: str, prio: int, handle: int, ingress: bool = True
    ) -> None:
        """Adds a direct-action filter for every protocol, or swaps the program of the one there.

        Swapping loses no packet. FileNotFoundError or EINVAL if there is no clsact.
        """
        parent = _INGRESS if ingress else _EGRESS
        body = _TCMSG.pack(0, ifindex, handle, parent, prio << 16 | _ETH_P_ALL_BE)
        body += netlink.text(_TCA_KIND, "bpf") + netlink.nest(
            _TCA_OPTIONS,
            netlink.u32(_TCA_BPF_FD, prog_fd),
            netlink.text(_TCA_BPF_NAME, name),
            netlink.u32(_TCA_BPF_FLAGS, _TCA_BPF_FLAG_ACT_DIRECT),
        )
        self.request(_RTM_NEWTFILTER, NLM_F_CREATE, body, f"bpf filter {name} on link {ifindex}")

    def delete_filter(self, ifindex: int, prio: int, handle: int, ingress: bool = True) -> None:
        """Exactly one bpf filter; FileNotFoundError (or EINVAL without clsact) if not there."""
        if not handle or not prio:  # the kernel would take 0 for "all"
            raise OSError(errno.EINVAL, "a filter is named by prio and handle", f"link {ifindex}")
        parent = _INGRESS if ingress else _EGRESS
        body = _TCMSG.pack(0, ifindex, handle, parent, prio << 16 | _ETH_P_ALL_BE)
        body += netlink.text(_TCA_KIND, "bpf")
        self.request(_RTM_DELTFILTER, 0, body, f"delete filter {prio} from link {ifindex}")

    def _filters(self, ifindex: int, ingress: bool) -> list[tuple[int, int, dict[int, bytes]]]:
        """(handle, info, attributes) of the filters proper; handle 0 is the head of a priority."""
        body = _TCMSG.pack(0, ifindex, 0, _INGRESS if ingress else _EGRESS, 0)
        found = []
        for m in self.dump(_RTM_GETTFILTER, body, f"filters of link {ifindex}"):
            _, _, handle, _, info = _TCMSG.unpack_from(m.body)
            if handle:
                found.append((handle, info, netlink.parse(m.body, _TCMSG.size)))
        return found
