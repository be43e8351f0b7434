"""The system calls a sandboxed server may make, as a classic BPF program for seccomp(2).

An allow-list: what a server needs to compute, to handle its own files, processes and memory, and to
speak TCP, UDP and unix sockets. Built here, for libseccomp is one more library on a small router.

- A call the list does not have gets EPERM, which is what an unprivileged process gets anyway; one
  that is newer than our table gets ENOSYS, so that a C library tries the older way.
- ENOSYS also for clone3 (its flags are behind a pointer that no filter can follow; libraries then
  call clone, whose flags are an argument), for io_uring (what is asked for through its rings passes
  no filter) and for io_setup (a number of requests that all users of the box share, and servers
  do without).
- A call by another machine's numbers ends the process: its table would be another one. x32's, which
  are x86_64's with a bit set, are larger than every number we know.

The kernel looks at the lower half of an argument declared int or unsigned, so do we: a filter that
compared all 64 bits would miss a TIOCSTI with a bit set above.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from viscum.kernel import syscalls as sys
from viscum.kernel.syscall_numbers import LAST, numbers

if TYPE_CHECKING:
    import ctypes

# linux/audit.h: AUDIT_ARCH_…, all of them little-endian
MACHINES = {
    "x86_64": ("x86_64", 0xC000_003E),
    "aarch64": ("aarch64", 0xC000_00B7),
    "armv6l": ("arm", 0x4000_0028),
    "armv7l": ("arm", 0x4000_0028),
    "armv8l": ("arm", 0x4000_0028),
}

ACTIONS = "/proc/sys/kernel/seccomp/actions_avail"  # since Linux 4.14, with the filters

ABSENT = ("clone3", "io_setup", "io_uring_setup", "io_uring_enter", "io_uring_register")

# linux/sched.h; CLONE_NEWTIME is a flag of clone3 and unshare only
NAMESPACES = (
    sys.CLONE_NEWNS
    | sys.CLONE_NEWCGROUP
    | sys.CLONE_NEWUTS
    | sys.CLONE_NEWIPC
    | sys.CLONE_NEWUSER
    | sys.CLONE_NEWPID
    | sys.CLONE_NEWNET
)
# asm-generic/ioctls.h: typing on a terminal for whoever reads it, the same on the console, and
# loading line disciplines, of which a pseudo-terminal accepts any that the kernel has.
TERMINAL = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
# Neither raw sockets nor protocols whose modules the kernel would load for the asking. Ping
# sockets (ICMP of type DGRAM) are refused by the kernel unless ping_group_range allows them.
TRANSPORTS = (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, 262, 1, 58)  # 262: MPTCP; ICMP, ICMPv6
NETLINK_ROUTE = 0

# linux/bpf_common.h, linux/filter.h
_LD, _AND, _JEQ, _JGE, _JA, _RET = 0x20, 0x54, 0x15, 0x35, 0x05, 0x06
# linux/seccomp.h: struct seccomp_data, and what a program returns
_NR, _ARCH, _ARGS = 0, 4, 16
_KILL, _ERRNO, _ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFF_0000
_MODE_FILTER = 2

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, k
Code = tuple[Instruction, ...]  # ends in a return on every way through it


def missing() -> str:
    """Why there can be no filter on this box; "" if there can."""
    machine = os.uname().machine
    if machine not in MACHINES:
        known = ", ".join(MACHINES)
        return f"there is no list of system calls for this machine ({machine}), only for {known}"
    return "" if os.path.exists(ACTIONS) else "this kernel has no seccomp filters"


class Filter:
    """Made before a fork, installed after it: `install` allocates nothing and imports nothing."""

    def __init__(self, machine: str | None = None) -> None:
        """OSError ENOTSUP: no table for this machine."""
        import ctypes

        code = program(machine or os.uname().machine)
        raw = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
        self._raw = ctypes.create_string_buffer(raw, len(raw))
        # struct sock_fprog: a length, padding up to the pointer
        self._head: ctypes.Array[ctypes.c_char] = ctypes.create_string_buffer(
            struct.pack("@HP", len(code), ctypes.addressof(self._raw))
        )
        self._address = ctypes.addressof(self._head)

    def install(self) -> None:
        """For the calling thread and what comes of it, for good. Needs no-new-privileges."""
        sys.prctl(sys.PR_SET_SECCOMP, _MODE_FILTER, self._address)


def program(machine: str) -> Code:
    """The whole filter for a machine as uname(2) names it."""
    if machine not in MACHINES:
        raise OSError(errno.ENOTSUP, "no list of this machine's system calls", machine)
    column, arch = MACHINES[machine]
    known = numbers(column)
    cases = {number: _SPECIAL.get(name, _GRANT) for name, number in known.items()}
    return (
        (_LD, 0, 0, _ARCH),
        (_JEQ, 1, 0, arch),
        (_RET, 0, 0, _KILL),
        (_LD, 0, 0, _NR),
        *_tree(_spans(cases)),
    )


def allowed(machine: str) -> tuple[str, ...]:
    """Names of the calls that may be made, some of them with some arguments only."""
    return tuple(n for n in numbers(MACHINES[machine][0]) if n not in ABSENT)


def _spans(cases: dict[int, Code]) -> list[tuple[int, Code]]:
    """(first number, what to do from there on), over all numbers."""
    spans: list[tuple[int, Code]] = []
    at = 0
    for number, code in sorted(cases.items()):
        if number > at:
            spans += _unlisted(at, number)
        spans.append((number, code))
        at = number + 1
    spans += _unlisted(at, 1 << 32)
    merged = spans[:1]
    for first, code in spans[1:]:
        if code != merged[-1][1]:
            merged.append((first, code))
    return merged


def _unlisted(first: int, end: int) -> list[tuple[int, Code]]:
    spans = [(first, _refuse(errno.EPERM))] if first <= LAST else []
    return spans + ([(max(first, LAST + 1), _refuse(errno.ENOSYS))] if end > LAST + 1 else [])


def _tree(spans: list[tuple[int, Code]]) -> Code:
    """A binary search, so that the last call costs what the first does. The jump over the lower
    half is one of its own, since conditional jumps reach 255 instructions only."""
    if len(spans) == 1:
        return spans[0][1]
    half = len(spans) // 2
    lower, upper = _tree(spans[:half]), _tree(spans[half:])
    return ((_JGE, 0, 1, spans[half][0]), (_JA, 0, 0, len(lower)), *lower, *upper)


def _argument(number: int, mask: int | None = None) -> Code:
    """The lower half of an argument."""
    load = (_LD, 0, 0, _ARGS + 8 * number)
    return (load,) if mask is None else (load, (_AND, 0, 0, mask))


def _among(values: tuple[int, ...], inside: Code, outside: Code) -> Code:
    """Whether what was loaded is one of `values`."""
    last = len(values) - 1
    tests = [(_JEQ, last - i + len(outside), 0, value) for i, value in enumerate(values)]
    return (*tests, *outside, *inside)


def _refuse(number: int) -> Code:
    return ((_RET, 0, 0, _ERRNO | number),)


_GRANT: Code = ((_RET, 0, 0, _ALLOW),)
_NO_PROTOCOL = _refuse(errno.EPROTONOSUPPORT)
_NO_FAMILY = _refuse(errno.EAFNOSUPPORT)
_TYPE = 0xF  # above are SOCK_NONBLOCK and SOCK_CLOEXEC

_INTERNET = _argument(1, _TYPE) + _among(
    (socket.SOCK_STREAM, socket.SOCK_DGRAM),
    _argument(2) + _among(TRANSPORTS, _GRANT, _NO_PROTOCOL),
    _refuse(errno.EPERM),
)
_NETLINK = _argument(2) + _among((NETLINK_ROUTE,), _GRANT, _NO_PROTOCOL)
_SOCKET = _argument(0) + _among(
    (socket.AF_UNIX,),
    _GRANT,
    _among(
        (socket.AF_INET, socket.AF_INET6),
        _INTERNET,
        _among((socket.AF_NETLINK,), _NETLINK, _NO_FAMILY),
    ),
)
_SPECIAL: dict[str, Code] = {
    **dict.fromkeys(ABSENT, _refuse(errno.ENOSYS)),
    "clone": _argument(0, NAMESPACES) + _among((0,), _GRANT, _refuse(errno.EPERM)),
    "ioctl": _argument(1) + _among(TERMINAL, _refuse(errno.EPERM), _GRANT),
    "socket": _SOCKET,
    "socketpair": _argument(0) + _among((socket.AF_UNIX,), _GRANT, _NO_FAMILY),
}
