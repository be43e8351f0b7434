"""The sandbox's list of system calls, run instruction by instruction for each machine."""

from __future__ import annotations

import ctypes
import errno
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from viscum.kernel import seccomp
from viscum.kernel import syscalls as sys
from viscum.kernel.syscall_numbers import COLUMNS, LAST, numbers

pytestmark = pytest.mark.req("C6")

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
MACHINE = {"x86_64": "x86_64", "aarch64": "aarch64", "arm": "armv7l"}  # one for each column
EACH = pytest.mark.parametrize("column", COLUMNS)
ALLOW, KILL = "allow", "kill"

# A hostile program's favourites, by name: none is in the table at all.
NAMES = """
acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module fanotify_init
finit_module fsconfig fsmount fsopen fspick init_module io_submit ioperm iopl kcmp kexec_file_load
kexec_load keyctl lookup_dcookie mbind memfd_secret migrate_pages modify_ldt mount mount_setattr
move_mount move_pages name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open
personality pidfd_getfd pivot_root process_madvise process_mrelease process_vm_readv
process_vm_writev ptrace quotactl quotactl_fd reboot remap_file_pages request_key set_mempolicy
setdomainname sethostname setns settimeofday setxattr stime swapoff swapon sync syslog umount2
unshare uselib userfaultfd ustat vhangup
"""
REFUSED = frozenset(NAMES.split())


def run(code: seccomp.Code, nr: int, arch: int, *args: int) -> str:
    """What the program answers: a small machine for the instructions it uses (linux/filter.h)."""
    data = [nr, arch, 0, 0]
    for arg in (*args, *[0] * (6 - len(args))):
        data += [arg & 0xFFFF_FFFF, arg >> 32]
    at = acc = 0
    while True:
        op, yes, no, k = code[at]
        at += 1
        if op == 0x20:
            acc = data[k // 4]
        elif op == 0x54:
            acc &= k
        elif op == 0x05:
            at += k
        elif op == 0x15:
            at += yes if acc == k else no
        elif op == 0x35:
            at += yes if acc >= k else no
        else:
            assert op == 0x06
            words = {0x7FFF_0000: ALLOW, 0x8000_0000: KILL}
            return words.get(k) or errno.errorcode[k & 0xFFFF]


@pytest.fixture
def ask(column: str) -> Callable[..., str]:
    """ask("clone", flags) → what happens."""
    machine = MACHINE[column]
    code, known, arch = seccomp.program(machine), numbers(column), seccomp.MACHINES[machine][1]

    def ask(call: str | int, *args: int) -> str:
        return run(code, known[call] if isinstance(call, str) else call, arch, *args)

    return ask


def libseccomp(column: str, name: str) -> int:
    """The number by another table; negative: not there, or not known."""
    library = ctypes.CDLL("libseccomp.so.2")
    resolve = library.seccomp_syscall_resolve_name_arch
    resolve.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    return int(resolve(seccomp.MACHINES[MACHINE[column]][1], name.encode()))


def has_libseccomp() -> bool:
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return False
    return True


@EACH
def test_the_table_is_right(column: str) -> None:
    """By libseccomp, which knows fewer; it must know and confirm nearly all."""
    if not has_libseccomp():
        pytest.skip("libseccomp is not installed")
    confirmed = 0
    for name, number in numbers(column).items():
        other = libseccomp(column, name)
        assert other < 0 or other == number, name
        confirmed += other == number
    assert confirmed > len(numbers(column)) - 12
    assert len(set(numbers(column).values())) == len(numbers(column))


def test_the_table_is_that_of_the_header() -> None:
    if not HEADER.exists():
        pytest.skip("no kernel headers for x86_64")
    there = {n: int(v) for n, v in re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text())}
    ours = numbers("x86_64")
    assert {n: v for n, v in ours.items() if n in there} == {
        n: there[n] for n in ours if n in there
    }
    assert len(ours.keys() - there.keys()) < 12


@EACH
def test_what_is_listed_is_allowed_and_nothing_else(
    column: str, ask: Callable[..., str], figure: Callable[..., None]
) -> None:
    """Every number there is, and some that are not."""
    filtered = {"clone", "ioctl", "socket", "socketpair"}
    names = {number: name for name, number in numbers(column).items()}
    for number in (*range(2000), *range(0xF0000, 0xF0010), 0x4000_0000, 0xFFFF_FFFF):
        name = names.get(number)
        if name in seccomp.ABSENT or (name is None and number > LAST):
            assert ask(number) == "ENOSYS", number
        elif name is None:
            assert ask(number) == "EPERM", number
        elif name not in filtered:
            assert ask(number) == ALLOW, name
    figure(f"allowed of {LAST + 1} numbers, {column}", len(seccomp.allowed(MACHINE[column])), "")
    figure(f"instructions, {column}", len(seccomp.program(MACHINE[column])), "")


@EACH
def test_what_is_dangerous_is_not_listed(column: str, ask: Callable[..., str]) -> None:
    assert not set(REFUSED) & numbers(column).keys()
    if has_libseccomp():
        known = {name: libseccomp(column, name) for name in REFUSED}
        assert sum(n >= 0 for n in known.values()) > 50
        assert {n: ask(number) for n, number in known.items() if number >= 0} == {
            n: "EPERM" for n, number in known.items() if number >= 0
        }


@EACH
def test_a_filter_has_no_way_past_its_end(column: str) -> None:
    """What the kernel checks as well, for a machine this test does not run on."""
    code = seccomp.program(MACHINE[column])
    assert len(code) <= 4096  # BPF_MAXINSNS
    for at, (op, yes, no, k) in enumerate(code):
        assert 0 <= yes <= 255
        assert 0 <= no <= 255
        ends = op == 0x06
        assert ends or max(at + 1 + yes, at + 1 + no, at + 1 + (k if op == 0x05 else 0)) < len(code)


@EACH
def test_another_machines_numbers_end_the_process(column: str) -> None:
    code = seccomp.program(MACHINE[column])
    own = seccomp.MACHINES[MACHINE[column]][1]
    others = {arch for _, arch in seccomp.MACHINES.values()} - {own} | {0x4000_0003, 0}  # i386
    assert {run(code, nr, arch) for arch in others for nr in (0, 1, 39)} == {KILL}


@EACH
def test_x32_is_refused(column: str, ask: Callable[..., str]) -> None:
    """Its numbers are those of x86_64 with a bit set, the way around many a filter."""
    for nr in (0, 1, 59, 101, 165, 512, 520):
        assert ask(0x4000_0000 | nr) == "ENOSYS"


@EACH
def test_clone_makes_processes_and_threads_but_no_namespaces(
    column: str, ask: Callable[..., str]
) -> None:
    thread = 0x3D0F00  # what pthread_create asks for
    assert ask("clone", 0x1200011) == ALLOW  # and fork
    assert ask("clone", thread) == ALLOW
    for flag in (
        *(sys.CLONE_NEWNS, sys.CLONE_NEWCGROUP, sys.CLONE_NEWUTS, sys.CLONE_NEWIPC),
        *(sys.CLONE_NEWUSER, sys.CLONE_NEWPID, sys.CLONE_NEWNET),
    ):
        assert ask("clone", flag | 17) == "EPERM"
        assert ask("clone", 1 << 40 | flag) == "EPERM"
    assert ask("clone3") == "ENOSYS"  # so that the C library calls clone


@EACH
def test_terminals_are_not_typed_on(column: str, ask: Callable[..., str]) -> None:
    """The kernel looks at the lower half of the request; a filter that did not was
    CVE-2019-10063."""
    for request in seccomp.TERMINAL:
        assert ask("ioctl", 0, request) == "EPERM"
        assert ask("ioctl", 0, 1 << 32 | request) == "EPERM"
    for request in (0x5401, 0x5413, 0x541B, 0x5421, 0x8912):  # TCGETS TIOCGWINSZ FIONREAD …
        assert ask("ioctl", 0, request) == ALLOW


@EACH
def test_sockets(column: str, ask: Callable[..., str]) -> None:
    unix, inet, inet6, netlink, packet = 1, 2, 10, 16, 17
    stream, dgram, raw, seqpacket = 1, 2, 3, 5
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    for family in (inet, inet6):
        for kind, protocol in ((stream, 0), (stream, 6), (stream, 262), (dgram, 17), (dgram, 0)):
            assert ask("socket", family, kind | flags, protocol) == ALLOW
        assert ask("socket", family, raw, 255) == "EPERM"
        assert ask("socket", family, 1 << 32 | raw, 17) == "EPERM"
        assert ask("socket", family, seqpacket, 132) == "EPERM"  # SCTP
        assert ask("socket", family, stream, 132) == "EPROTONOSUPPORT"
        assert ask("socket", family, 6, 33) == "EPERM"  # DCCP
    assert ask("socket", unix, seqpacket, 0) == ALLOW
    assert ask("socket", netlink, raw | flags, 0) == ALLOW  # routes, which are read for addresses
    for protocol in (4, 9, 12, 15, 16):  # diag, audit, netfilter, uevent, generic
        assert ask("socket", netlink, raw, protocol) == "EPROTONOSUPPORT"
    for family in (packet, 29, 30, 31, 38, 40, 41, 44, 0, 0xFFFF_FFFF):  # CAN TIPC … ALG VSOCK XDP
        assert ask("socket", family, dgram, 0) == "EAFNOSUPPORT"
    assert ask("socketpair", unix, stream, 0) == ALLOW
    assert ask("socketpair", 30, stream, 0) == "EAFNOSUPPORT"


def test_a_machine_without_a_table_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seccomp.missing() == ""
    monkeypatch.setattr(seccomp, "ACTIONS", "/nowhere")
    assert seccomp.missing() == "this kernel has no seccomp filters"
    monkeypatch.setattr(seccomp, "MACHINES", {})
    assert "for this machine" in seccomp.missing()
    monkeypatch.undo()
    with pytest.raises(OSError, match="no list of this machine's system calls: 'mips64'"):
        seccomp.Filter("mips64")
