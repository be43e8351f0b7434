"""The raw door to BPF: bpf(2) by ctypes, for maps, programs and attachments.

Nothing here knows what our programs do. Every function raises OSError, whose `filename` says
what it was about. Source: linux/bpf.h, union bpf_attr.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Iterator
from ctypes import c_void_p
from functools import cache

MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY = 1, 2, 3, 4
PROG_ATTACH, PROG_DETACH, PROG_TEST_RUN = 8, 9, 10
PROG_FD_BY_ID, MAP_FD_BY_ID, INFO_BY_FD, PROG_QUERY = 13, 14, 15, 16
MAP_LOOKUP_BATCH, MAP_UPDATE_BATCH, MAP_DELETE_BATCH = 24, 26, 27

TCX_INGRESS, TCX_EGRESS = 46, 47  # enum bpf_attach_type, since Linux 6.6
F_REPLACE = 1 << 2
_NOEXIST = 1

HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU_HASH, LRU_PERCPU_HASH, LPM_TRIE = 1, 2, 5, 6, 9, 10, 11
_PERCPU = (PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH)
# where reading, writing and deleting in batches works on every kernel from 5.6
_BATCHED = (HASH, LRU_HASH, PERCPU_HASH)

# include/uapi/asm-generic/unistd.h and the architectures' own tables
_NUMBERS = {
    "x86_64": 321, "i686": 357, "i386": 357, "aarch64": 280, "armv6l": 386, "armv7l": 386,
    "riscv64": 280, "loongarch64": 280, "mips": 4355, "mips64": 5315, "ppc": 361, "ppc64": 361,
    "ppc64le": 361, "s390x": 351,
}  # fmt: skip
_ENOTSUPP = 524  # the kernel's own, not in errno

_libc = ctypes.CDLL(None, use_errno=True)


@cache
def _number() -> int:
    machine = platform.machine()
    if machine == "aarch64" and ctypes.sizeof(c_void_p) == 4:
        return 386
    try:
        return _NUMBERS[machine]
    except KeyError:
        raise OSError(errno.ENOSYS, f"no number for bpf(2) on {machine}", "bpf") from None


def call(command: int, attr: bytes, what: str) -> tuple[int, bytes]:
    """bpf(command, attr): (result, attr as the kernel left it). Raises OSError about `what`."""
    buffer = ctypes.create_string_buffer(attr, len(attr))
    result = _libc.syscall(_number(), command, buffer, len(attr))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result, buffer.raw


def _address(data: ctypes.Array[ctypes.c_char] | None) -> int:
    return 0 if data is None else ctypes.addressof(data)


def _buffer(data: bytes | int) -> ctypes.Array[ctypes.c_char]:
    if isinstance(data, int):
        return ctypes.create_string_buffer(data)
    return ctypes.create_string_buffer(data, len(data))


@cache
def possible_cpus() -> int:
    """How many values a per-CPU map holds for a key (Documentation/admin-guide/cputopology)."""
    with open("/sys/devices/system/cpu/possible") as file:
        return int(file.read().strip().replace(",", "-").split("-")[-1]) + 1


class _Owner:
    """Of a file descriptor, until `close` or the object's end."""

    __slots__ = ("fd",)

    fd: int

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


class Map(_Owner):
    """One map, by a file descriptor that this object owns."""

    __slots__ = ("id", "key_size", "kind", "max_entries", "name", "value_size")

    def __init__(self, fd: int) -> None:
        raw = _info(fd, 88, "map info")
        self.fd = fd
        self.kind, self.id, self.key_size, self.value_size, self.max_entries = struct.unpack_from(
            "=5I", raw
        )
        self.name = raw[24:40].split(b"\0")[0].decode()
        if self.kind in _PERCPU:
            self.value_size = (self.value_size + 7 & ~7) * possible_cpus()

    def _call(
        self,
        command: int,
        key: bytes | None,
        value: ctypes.Array[ctypes.c_char] | None,
        flags: int = 0,
    ) -> None:
        where = None if key is None else _buffer(key)
        attr = struct.pack("=IxxxxQQQ", self.fd, _address(where), _address(value), flags)
        call(command, attr, f"map {self.name}")

    def get(self, key: bytes) -> bytes | None:
        """The value (all CPUs' in a row for a per-CPU map), or None."""
        value = _buffer(self.value_size)
        try:
            self._call(MAP_LOOKUP, key, value)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return value.raw

    def set(self, key: bytes, value: bytes) -> None:
        self._call(MAP_UPDATE, key, _buffer(value))

    def add(self, key: bytes, value: bytes) -> bool:
        """Sets a key that is not there yet; False: it was there."""
        try:
            self._call(MAP_UPDATE, key, _buffer(value), _NOEXIST)
        except OSError as error:
            if error.errno == errno.EEXIST:
                return False
            raise
        return True

    def delete(self, key: bytes) -> bool:
        """False: there was no such key."""
        try:
            self._call(MAP_DELETE, key, None)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def keys(self) -> Iterator[bytes]:
        key: bytes | None = None
        while True:
            following = _buffer(self.key_size)
            try:
                self._call(MAP_NEXT_KEY, key, following)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            key = following.raw
            yield key

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key with its value; in batches where the kernel can."""
        if self.kind in _BATCHED:
            try:
                yield from self._batched()
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, _ENOTSUPP):
                    raise
        for key in list(self.keys()):
            value = self.get(key)
            if value is not None:
                yield key, value

    def _batched(self) -> Iterator[tuple[bytes, bytes]]:
        size, token = min(1024, self.max_entries), None
        found: list[tuple[bytes, bytes]] = []
        while True:
            keys, values = _buffer(size * self.key_size), _buffer(size * self.value_size)
            following, end = _buffer(max(4, self.key_size)), False
            attr = bytearray(
                struct.pack("=QQQQIIQQ", _address(token), _address(following), _address(keys),
                            _address(values), size, self.fd, 0, 0)
            )  # fmt: skip
            buffer = (ctypes.c_char * len(attr)).from_buffer(attr)
            if _libc.syscall(_number(), MAP_LOOKUP_BATCH, buffer, len(attr)) < 0:
                code = ctypes.get_errno()
                if code == errno.ENOSPC:  # one bucket holds more than fits
                    size *= 2
                    continue
                if code != errno.ENOENT:
                    raise OSError(code, os.strerror(code), f"map {self.name}")
                end = True
            (count,) = struct.unpack_from("=I", attr, 32)
            k, v = self.key_size, self.value_size
            all_keys, all_values = keys.raw, values.raw
            found += [
                (all_keys[i * k : i * k + k], all_values[i * v : i * v + v]) for i in range(count)
            ]
            if end:
                break
            token = following
        yield from found

    def update(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Sets many keys; in one call where the kernel can."""
        items = list(items)
        if len(items) > 8 and self.kind in _BATCHED:
            keys = _buffer(b"".join(k for k, _ in items))
            values = _buffer(b"".join(v for _, v in items))
            attr = struct.pack("=QQQQIIQQ", 0, 0, _address(keys), _address(values), len(items),
                               self.fd, 0, 0)  # fmt: skip
            try:
                call(MAP_UPDATE_BATCH, attr, f"map {self.name}")
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, _ENOTSUPP):
                    raise
        for key, value in items:
            self.set(key, value)

    def clear(self) -> None:
        self.remove(list(self.keys()))

    def remove(self, keys: Iterable[bytes]) -> None:
        """Deletes many keys; those that are not there do not matter."""
        for key in keys:
            self.delete(key)


def _info(fd: int, size: int, what: str) -> bytes:
    buffer = _buffer(size)
    call(INFO_BY_FD, struct.pack("=IIQ", fd, size, _address(buffer)), what)
    return buffer.raw


def map_by_id(number: int) -> Map:
    fd, _ = call(MAP_FD_BY_ID, struct.pack("=III", number, 0, 0), f"map {number}")
    return Map(fd)


class Program(_Owner):
    """One loaded program, by a file descriptor that this object owns."""

    __slots__ = ("id", "name", "tag")

    def __init__(self, fd: int) -> None:
        raw = _info(fd, 128, "program info")
        self.fd = fd
        (self.id,) = struct.unpack_from("=I", raw, 4)
        self.tag = raw[8:16].hex()
        self.name = raw[64:80].split(b"\0")[0].decode()

    def map_ids(self) -> tuple[int, ...]:
        (count,) = struct.unpack_from("=I", _info(self.fd, 64, "program info"), 52)
        ids = _buffer(4 * max(count, 1))
        info = bytearray(64)
        struct.pack_into("=IQ", info, 52, count, _address(ids))
        buffer = _buffer(bytes(info))
        call(INFO_BY_FD, struct.pack("=IIQ", self.fd, 64, _address(buffer)), "program info")
        return struct.unpack(f"={count}I", ids.raw[: 4 * count])

    def test_run(
        self, packet: bytes, *, ifindex: int = 0, cb: tuple[int, ...] = (), repeat: int = 1
    ) -> tuple[int, int, tuple[int, ...]]:
        """BPF_PROG_TEST_RUN: (return value, ns per run, cb[0..4] afterwards).

        packet begins with an Ethernet header. Sockets are looked up from the calling thread's
        network namespace, in which ifindex must be.
        """
        data, out = _buffer(packet), _buffer(len(packet) + 256)
        context = bytearray(192)  # struct __sk_buff: ifindex at 40, cb at 48
        struct.pack_into("=I", context, 40, ifindex)
        struct.pack_into(f"={len(cb)}I", context, 48, *cb)
        context_in, context_out = _buffer(bytes(context)), _buffer(len(context))
        attr = struct.pack(
            "=IIIIQQIIIIQQIII4x", self.fd, 0, len(packet), len(out), _address(data), _address(out),
            repeat, 0, len(context), len(context), _address(context_in), _address(context_out),
            0, 0, 0,
        )  # fmt: skip
        _, attr = call(PROG_TEST_RUN, attr, f"program {self.name}")
        (value,) = struct.unpack_from("=i", attr, 4)
        (duration,) = struct.unpack_from("=I", attr, 36)
        return value, duration, struct.unpack_from("=5I", context_out.raw, 48)


def program_by_id(number: int) -> Program:
    fd, _ = call(PROG_FD_BY_ID, struct.pack("=III", number, 0, 0), f"program {number}")
    return Program(fd)


# ---- TCX: programs on an interface, without links and without pins -----------------------------


def tcx_query(ifindex: int, where: int = TCX_INGRESS) -> tuple[int, ...]:
    """Ids of the programs there, in the order they run. EINVAL: the kernel has no TCX."""
    room = 64  # BPF_MPROG_MAX
    ids = _buffer(4 * room)
    attr = struct.pack("=IIIIQIIQQQQ", ifindex, where, 0, 0, _address(ids), room, 0, 0, 0, 0, 0)
    _, attr = call(PROG_QUERY, attr, f"tcx on interface {ifindex}")
    (count,) = struct.unpack_from("=I", attr, 24)
    return struct.unpack(f"={count}I", ids.raw[: 4 * count])


def tcx_attach(ifindex: int, program: Program, where: int = TCX_INGRESS) -> None:
    """After the programs that are there. Stays when the process ends."""
    attr = struct.pack("=IIIIIIQ", ifindex, program.fd, where, 0, 0, 0, 0)
    call(PROG_ATTACH, attr, f"tcx on interface {ifindex}")


def tcx_replace(ifindex: int, program: Program, old: Program, where: int = TCX_INGRESS) -> None:
    """Puts program in old's place at once: no packet sees neither, or both."""
    attr = struct.pack("=IIIIIIQ", ifindex, program.fd, where, F_REPLACE, old.fd, 0, 0)
    call(PROG_ATTACH, attr, f"tcx on interface {ifindex}")


def tcx_detach(ifindex: int, program: Program, where: int = TCX_INGRESS) -> None:
    attr = struct.pack("=IIIIIIQ", ifindex, program.fd, where, 0, 0, 0, 0)
    call(PROG_DETACH, attr, f"tcx on interface {ifindex}")
