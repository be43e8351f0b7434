#!/usr/bin/python3
"""Runs a command as root under Debian 12's kernel, in QEMU, and ends with its exit status.

    scripts/vm/vm.py [--timeout SECONDS] COMMAND…

The guest sees this machine's root file system; what it writes is gone with it, but for what it
writes to the directory in VISCUM_VM. Its processor is emulated, 20 to 30 times slower than this
one. 125: the virtual machine itself failed.
"""

from __future__ import annotations

import argparse
import fcntl
import lzma
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "vm"
KERNEL = CACHE / "kernel"
GUEST = "/run/vm"  # where the guest sees the directory that both sides write to
NEEDED = ("virtio_pci", "9p", "9pnet_virtio", "overlay", "virtio_console")
FAILED = 125
MEMORY = 3072  # MiB
KERNEL_WORDS = (
    "console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr audit=0 apparmor=0 "
    "random.trust_cpu=on net.ifnames=0"
)


def unpacked(release: str) -> Path:
    """The kernel without its decompressor, which would take seconds; QEMU starts it by PVH.

    Source: Documentation/x86/boot.rst, payload_offset and payload_length.
    """
    image = CACHE / f"vmlinux-{release}"
    if not image.exists():
        packed = (KERNEL / "boot" / f"vmlinuz-{release}").read_bytes()
        start = (packed[0x1F1] + 1) * 512 + struct.unpack_from("<I", packed, 0x248)[0]
        (length,) = struct.unpack_from("<I", packed, 0x24C)
        write_whole(image, lzma.LZMADecompressor().decompress(packed[start : start + length]))
    return image


def initramfs(release: str) -> Path:
    """busybox, scripts/vm/init and the modules without which there is no root file system."""
    image = CACHE / f"initramfs-{release}"
    init = HERE / "init"
    if image.exists() and image.stat().st_mtime > init.stat().st_mtime:
        return image
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        for directory in ("bin", "modules", "proc", "dev", "lower", "upper", "new"):
            (top / directory).mkdir()
        shutil.copy("/bin/busybox", top / "bin/busybox")
        (top / "bin/sh").symlink_to("busybox")
        shutil.copy(init, top / "init")
        (top / "init").chmod(0o755)
        found = {}  # a dict keeps the order, in which each comes after what it needs
        for module in NEEDED:
            words = ["modprobe", "-d", str(KERNEL), "-S", release, "--show-depends", module]
            for line in output(words).splitlines():
                if line.startswith("insmod "):
                    found[Path(line.split()[1])] = None
        for module_file in found:
            shutil.copy(module_file, top / "modules")
        (top / "modules/list").write_text("".join(f"/modules/{f.name}\n" for f in found))
        names = "\n".join(str(p.relative_to(top)) for p in sorted(top.rglob("*")))
        words = ["cpio", "-o", "-H", "newc", "--quiet"]
        done = subprocess.run(words, input=names.encode(), cwd=top, check=True, capture_output=True)
        write_whole(image, done.stdout)
    return image


def write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.rename(path)


def output(words: list[str]) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def words_for(control: Path, command: list[str]) -> None:
    """What the guest runs: the command, where and in the environment this one was called in."""
    environment = dict(os.environ) | {"VISCUM_VM": GUEST}
    lines = [f"export {k}={shlex.quote(v)}" for k, v in environment.items() if k.isidentifier()]
    lines += [
        f"cd {shlex.quote(os.getcwd())}",
        f"cut -d' ' -f1 /proc/uptime >{GUEST}/booted",
        # setsid: what the command leaves behind must not hold the console
        f"setsid -w {shlex.join(command)}",
        f"echo $? >{GUEST}/status",
        "exec 2>/dev/null",
        "echo o >/proc/sysrq-trigger",
        "sleep 60",
    ]
    (control / "command").write_text("\n".join(lines) + "\n")
    modules = shlex.quote(str(KERNEL / "lib/modules"))
    (control / "settings").write_text(f"MODULES={modules}\nNOW={int(time.time())}\n")


def qemu(release: str, control: Path) -> list[str]:
    shared = "local,security_model=none,multidevs=remap"
    return [
        "setpriv", "--pdeathsig", "KILL",  # whatever becomes of this process
        "qemu-system-x86_64", "-accel", "tcg,tb-size=512", "-cpu", "max", "-smp", "1",
        "-m", str(MEMORY), "-nodefaults", "-display", "none", "-no-reboot",
        "-kernel", str(unpacked(release)), "-initrd", str(initramfs(release)),
        "-append", KERNEL_WORDS,
        "-serial", f"file:{control / 'kernel.log'}",
        "-device", "virtio-serial-pci", "-chardev", "stdio,id=console,signal=off",
        "-device", "virtserialport,chardev=console,nr=1",
        "-virtfs", f"{shared},path=/,mount_tag=root,readonly=on",
        "-virtfs", f"{shared},path={control},mount_tag=control",
    ]  # fmt: skip


def run(command: list[str], timeout: float, control: Path) -> int:
    release = (KERNEL / "complete").read_text().strip()
    words_for(control, command)
    begun = time.monotonic()
    machine = subprocess.Popen(
        qemu(release, control),
        stdin=subprocess.PIPE,  # held open and never written to
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert machine.stdout is not None
    assert machine.stderr is not None
    limit = threading.Timer(timeout, machine.kill)
    limit.start()
    try:
        while piece := os.read(machine.stdout.fileno(), 65536):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        said = machine.stderr.read().decode(errors="replace")
        machine.wait()
    finally:
        limit.cancel()
        machine.kill()
        machine.wait()
    took = time.monotonic() - begun
    try:
        status = int((control / "status").read_text())
        booted = (control / "booted").read_text().strip()
    except (OSError, ValueError):
        log = (control / "kernel.log").read_text(errors="replace").splitlines()[-15:]
        why = f"no exit status within {timeout:.0f} s" if took >= timeout else "no exit status"
        print("\n".join([*log, said.strip(), f"vm: {why} from the guest"]), file=sys.stderr)
        return FAILED
    print(f"vm: Linux {release}, booted in {booted} s, {took:.0f} s in all", file=sys.stderr)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description="run a command under Debian 12's kernel")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.command:
        parser.error("which command?")
    if not (KERNEL / "complete").exists():
        print("vm: no kernel yet: run scripts/vm/setup", file=sys.stderr)
        return FAILED
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and clean up
    with (CACHE / "lock").open("w") as lock, tempfile.TemporaryDirectory() as control:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time: two are slower than one after another
        try:
            return run(options.command, options.timeout, Path(control))
        except KeyboardInterrupt:
            return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
