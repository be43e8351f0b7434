"""Loading compiled BPF objects with libbpf 1.x, by ctypes. Source: bpf/libbpf.h."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from ctypes import c_char_p, c_int, c_uint32, c_void_p

from viscum.kernel.bpf import Map, Program


def library() -> ctypes.CDLL:
    """OSError (ENOENT) if it is not installed."""
    try:
        return ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise OSError(errno.ENOENT, f"libbpf is missing ({error})", "libbpf.so.1") from None


def load(
    path: str,
    *,
    sizes: Mapping[str, int] | None = None,
    reuse: Mapping[str, Map] | None = None,
) -> tuple[dict[str, Program], dict[str, Map]]:
    """Loads an ELF object with libbpf: its programs and maps by name, owned by the caller.

    sizes: max_entries by map instead of the object's. reuse: maps that are there already, which
    keep their size.
    """
    lib = library()
    lib.libbpf_set_print(None)
    lib.bpf_object__open.restype = c_void_p
    lib.bpf_object__open.argtypes = [c_char_p]
    for kind in ("map", "program"):
        following = getattr(lib, f"bpf_object__next_{kind}")
        following.restype, following.argtypes = c_void_p, [c_void_p, c_void_p]
        name = getattr(lib, f"bpf_{kind}__name")
        name.restype, name.argtypes = c_char_p, [c_void_p]
        getattr(lib, f"bpf_{kind}__fd").argtypes = [c_void_p]
    lib.bpf_map__set_max_entries.argtypes = [c_void_p, c_uint32]
    lib.bpf_map__reuse_fd.argtypes = [c_void_p, c_int]
    lib.bpf_object__load.argtypes = lib.bpf_object__close.argtypes = [c_void_p]

    opened = lib.bpf_object__open(os.fsencode(path))
    if not opened:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    try:
        handles: dict[str, dict[str, int]] = {"map": {}, "program": {}}
        for kind, found in handles.items():
            handle = getattr(lib, f"bpf_object__next_{kind}")(opened, None)
            while handle:
                found[getattr(lib, f"bpf_{kind}__name")(handle).decode()] = handle
                handle = getattr(lib, f"bpf_object__next_{kind}")(opened, handle)
        for name, size in (sizes or {}).items():
            _check(lib.bpf_map__set_max_entries(handles["map"][name], size), f"map {name}")
        for name, old in (reuse or {}).items():
            if name in handles["map"]:
                _check(lib.bpf_map__reuse_fd(handles["map"][name], old.fd), f"map {name}")
        _check(lib.bpf_object__load(opened), path)
        programs = {
            name: Program(os.dup(lib.bpf_program__fd(h))) for name, h in handles["program"].items()
        }
        maps = {name: Map(os.dup(lib.bpf_map__fd(h))) for name, h in handles["map"].items()}
    finally:
        lib.bpf_object__close(opened)
    return programs, maps


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result), what)
