"""A hostile server: whoever connects names attacks, and it tries them and says how each went.

    python attacker.py serve PORT           as a service; one JSON line [[name, argument, …], …] in,
                                            one JSON line [answer, …] out
    python attacker.py try JSON             the same once, on the command line

run by path, with nothing but the standard library. An answer is "done" (and perhaps what was
gained), or the errno's name. Each attack runs in a child of its own, so that none spoils the next.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import select
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
TIMEOUT = 20.0  # seconds for one attack
NEWUSER, NEWNET, NEWNS = 0x1000_0000, 0x4000_0000, 0x2_0000
# asm/unistd.h, x86_64 and aarch64
NUMBERS = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "setns": (308, 268),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "userfaultfd": (323, 282),
}
MACHINE = ("x86_64", "aarch64").index(platform.machine())


def syscall(name: str, *args: Any) -> int:
    """By number, so that no wrapper stands in between."""
    padded = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result: int = LIBC.syscall(ctypes.c_long(NUMBERS[name][MACHINE]), *padded)
    return checked(result)


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


# ---- out of the namespaces ----------------------------------------------------------------------


def setns(path: str) -> str:
    """Into the namespace a file names."""
    fd = os.open(path, os.O_RDONLY)
    syscall("setns", fd, 0)
    return " ".join(sorted(name for _, name in socket.if_nameindex()))


def unshare(flags: int) -> None:
    checked(LIBC.unshare(flags))


def clone(flags: int) -> None:
    if syscall("clone", flags | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


def clone3(flags: int) -> None:
    args = ctypes.create_string_buffer(struct.pack("=QQQQQQQQ", flags, 0, 0, 0, 17, 0, 0, 0))
    if syscall("clone3", args, 64) == 0:
        os._exit(0)


def mount() -> None:
    os.makedirs("/tmp/mounted", exist_ok=True)
    checked(LIBC.mount(b"none", b"/tmp/mounted", b"tmpfs", 0, None))
    LIBC.umount2(b"/tmp/mounted", 2)


def remount() -> None:
    """The whole system writable again."""
    checked(LIBC.mount(None, b"/", None, 32 | 4096, None))
    checked(LIBC.mount(None, b"/", None, 32 | 4096 | 7, None))


def fsopen() -> None:
    syscall("fsopen", b"tmpfs", 0)


def pivot_root() -> None:
    syscall("pivot_root", b"/nowhere", b"/nowhere")


def chroot() -> None:
    os.chroot("/tmp")


def umount(path: str) -> None:
    checked(LIBC.umount2(path.encode(), 2))


# ---- other processes ----------------------------------------------------------------------------


def processes() -> str:
    """Those of other users that are to be seen."""
    own = os.getuid()
    others = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid != own:
                    others.append(name)
            except OSError:
                continue
    if not others:
        raise OSError(errno.ENOENT, "none")
    return " ".join(others)


def kill(pid: int, number: int) -> None:
    os.kill(pid, number)


def pidfd_signal(pid: int) -> None:
    signal.pidfd_send_signal(os.pidfd_open(pid), 0)


def pidfd_getfd(pid: int) -> None:
    syscall("pidfd_getfd", os.pidfd_open(pid), 1, 0)


def ptrace(pid: int) -> None:
    """PTRACE_SEIZE and PTRACE_DETACH."""
    LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    checked(LIBC.ptrace(0x4206, pid or os.getppid(), None, None))


def read_memory(pid: int) -> None:
    """From its [heap], by process_vm_readv."""
    here = ctypes.create_string_buffer(8)
    local = struct.pack("@PN", ctypes.addressof(here), 8)
    remote = struct.pack("@PN", stack_of(pid), 8)
    syscall("process_vm_readv", pid, local, 1, remote, 1, 0)


def stack_of(pid: int) -> int:
    """Where its stack is; anywhere, if that can't be seen."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[25])
    except OSError:
        return 0x7FFF_0000_0000


def prlimit(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_NOFILE)


def pin(pid: int) -> None:
    """Keep another process to one processor."""
    os.sched_setaffinity(pid, os.sched_getaffinity(pid))


def kcmp(pid: int) -> None:
    syscall("kcmp", pid, pid, 0, 0, 0)


def priority() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, -5)


def realtime() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


# ---- files --------------------------------------------------------------------------------------


def read(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(4096).decode(errors="replace")


def listing(path: str) -> str:
    found = " ".join(sorted(os.listdir(path)))
    if not found:
        raise OSError(errno.ENOENT, "empty")
    return found


def writable(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY))


def create(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    os.unlink(path)


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, text.encode())


def device(major: int, minor: int) -> None:
    """A block device of one's own making."""
    path = f"/tmp/device-{os.getpid()}"
    os.mknod(path, 0o60666, os.makedev(major, minor))
    os.unlink(path)


def fill(path: str) -> str:
    """Until it is full; how many bytes that took."""
    block, total = b"x" * 65536, 0
    name = f"{path}/full-{os.getpid()}"
    with open(name, "wb", buffering=0) as file:
        try:
            while total < 1 << 30:
                total += file.write(block)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    os.unlink(name)
    return str(total)


def run_as(path: str) -> str:
    """The uid a (set-user-id) program runs with."""
    return subprocess.run([path, "-u"], capture_output=True, text=True, check=True).stdout.strip()


def symlink(path: str, target: str) -> None:
    os.symlink(target, path)


# ---- the kernel ---------------------------------------------------------------------------------


def call(name: str, *args: Any) -> None:
    """Any call with harmless or wrong arguments; what matters is who refuses it."""
    raw = [a.encode() + b"\0" if isinstance(a, str) else a for a in args]
    syscall(name, *raw)


def set_clock() -> None:
    """To what it is."""
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)
    raw = struct.pack("@ll", now // 10**9, now % 10**9)
    syscall("clock_settime", 0, raw)


def sethostname() -> None:
    name = socket.gethostname().encode()
    checked(LIBC.sethostname(name, len(name)))


def int80() -> str:
    """The system calls of i386, from a program of x86_64: mov eax, 20; int 0x80; ret."""
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return str(ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid())


def x32() -> None:
    checked(LIBC.syscall(ctypes.c_long(0x4000_0000 | 39)))


def terminal(request: int) -> None:
    """An ioctl on a terminal of one's own, in the tongue of those who compare 64 bits."""
    master, slave = os.openpty()
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    LIBC.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
    buffer = ctypes.create_string_buffer(b"\0\0\0\0", 4)
    LIBC.syscall.restype = ctypes.c_long
    number = (16, 29)[MACHINE]
    checked(
        LIBC.syscall(
            ctypes.c_long(number), ctypes.c_long(slave), ctypes.c_long(1 << 32 | request), buffer
        )
    )
    os.close(master)


def lock_memory(size: int) -> None:
    area = mmap.mmap(-1, size)
    pointer = ctypes.addressof(ctypes.c_char.from_buffer(area))
    checked(LIBC.mlock(ctypes.c_void_p(pointer), ctypes.c_size_t(size)))


# ---- the network --------------------------------------------------------------------------------


def sock(family: int, kind: int, protocol: int) -> None:
    socket.socket(family, kind, protocol).close()


def program(*argv: str) -> str:
    """Of the system; what it says if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise OSError(errno.EPERM, done.stderr)
    return done.stdout


def sockopt(level: int, option: int, value: int) -> None:
    with socket.socket() as made:
        made.setsockopt(level, option, value)


def abstract(name: str) -> str:
    """What an abstract unix socket says."""
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(2)
        made.connect(f"\0{name}")
        return made.recv(100).decode()


def unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)


def dial(address: str, port: int, source: str = "") -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as made:
        made.settimeout(1)
        if source:
            made.bind((source, 0))
        made.connect((address, port))
        made.sendall(b"who\n")
        return made.recv(100).decode().split()[0]


def datagrams(address: str, count: int) -> None:
    """One to each of so many ports: as many connections for a router that tracks them."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, 2) as made:
        for port in range(1024, 1024 + count):
            made.sendto(b"x", (address, port))


def neighbours(version: int, count: int) -> str:
    """Addresses that are not there, on the service's own link; how many it could send to."""
    index, sent = socket.if_nametoindex("eth0"), 0
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    for number in range(2, 2 + count):
        with socket.socket(family, socket.SOCK_DGRAM) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
            made.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
            try:
                if version == 6:
                    made.sendto(b"x", (f"fe80::1:{number:x}", 9, 0, index))
                else:
                    made.sendto(b"x", (f"10.9.{number >> 8}.{number & 255}", 9))
                sent += 1
            except OSError:
                continue
    return str(sent)


def shared_memory(key: int) -> str:
    """What another one has put into a System V segment."""
    number = checked(LIBC.shmget(key, 0, 0))
    return ctypes.string_at(attached(number)).decode()


def make_segment(key: int, text: str) -> None:
    number = checked(LIBC.shmget(key, 4096, 0o1666))
    ctypes.memmove(attached(number), text.encode() + b"\0", len(text) + 1)


def drop_segment(key: int) -> None:
    checked(LIBC.shmctl(checked(LIBC.shmget(key, 0, 0)), 0, None))


def attached(number: int) -> int:
    LIBC.shmat.restype = ctypes.c_void_p
    address: int = LIBC.shmat(number, None, 0)
    return address


# ---- more than there is -------------------------------------------------------------------------


def fork_bomb() -> str:
    """Children that stay, until there can't be more (or so many that nothing stops it)."""
    os.setpgid(0, 0)
    children: list[int] = []
    try:
        while len(children) < 300:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            children.append(pid)
    except OSError:
        pass
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
    return str(len(children))


def memory_bomb(size: int) -> str:
    """How a child that touches so much memory ends."""
    pid = os.fork()
    if pid == 0:
        area = mmap.mmap(-1, size)
        for at in range(0, size, 4096):
            area[at] = 1
        os._exit(0)
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def open_files() -> str:
    """As many as can be, having raised the limit as far as it goes; and no farther."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard + 1))
        raise AssertionError("the limit can be raised")
    except ValueError:
        pass
    count = 0
    try:
        while count < 200_000:
            os.open("/dev/null", os.O_RDONLY)
            count += 1
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    return str(count)


def flood(size: int) -> None:
    """Of the log."""
    line = b"x" * 1023 + b"\n"
    for _ in range(size // len(line)):
        try:
            os.write(1, line)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return


def dump_core() -> str:
    pid = os.fork()
    if pid == 0:
        os.chdir("/tmp")
        resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
        os.abort()
    return str(os.WCOREDUMP(os.waitpid(pid, 0)[1]))


def hide_away() -> str:
    """A grandchild in a session of its own, which takes no notice of SIGTERM."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            os.write(writer, str(os.getpid()).encode())
            for fd in range(256):
                try:
                    os.close(fd)
                except OSError:
                    continue
            while True:
                signal.pause()
        os._exit(0)
    return os.read(reader, 100).decode()


def identity() -> str:
    groups = ",".join(map(str, os.getgroups()))
    return f"{os.getuid()} {os.getgid()} {groups}".strip()


ATTACKS: dict[str, Callable[..., str | None]] = {
    name: function
    for name, function in list(globals().items())
    if callable(function)
    and getattr(function, "__module__", "") == __name__
    and name not in ("syscall", "checked", "stack_of", "attached")
}


def attempt(name: str, *args: Any) -> str:
    """In a child, whose answer comes back by a pipe; how it ended if there is none."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            gained = ATTACKS[name](*args)
            answer = f"done {gained or ''}".strip()
        except OSError as error:
            answer = errno.errorcode.get(error.errno or 0, str(error))
        except BaseException as error:  # whatever it is, the test is to see it
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    if not select.select([reader], [], [], TIMEOUT)[0]:
        os.kill(pid, signal.SIGKILL)
    answer = os.read(reader, 65536).decode()
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return answer or f"ended by {status}"


def attempts(text: str) -> str:
    return json.dumps([attempt(*each) for each in json.loads(text)])


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(attempts(line.decode()).encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = True


def leave_secrets() -> None:
    """What the others are not to find: a file, a segment, an abstract socket."""
    secret = os.environ.get("SECRET")
    if not secret:
        return
    with open("/tmp/secret", "w") as file:
        file.write(secret)
    make_segment(int(os.environ["KEY"]), secret)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{secret}")
    listener.listen()

    def tell() -> None:
        while True:
            with listener.accept()[0] as conn:
                conn.sendall(secret.encode())

    threading.Thread(target=tell, daemon=True).start()


if __name__ == "__main__":
    if sys.argv[1] == "try":
        print(attempts(sys.argv[2]))  # noqa: T201  its output is what it is for
    else:
        leave_secrets()
        Server(("::", int(sys.argv[2])), Handler).serve_forever()
