"""A Docker of its own in the lab's access point, gone with all that it made when the part ends."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from kit import Stage
from kit.place import PLACES
from paper.processes import below, children

CANNOT = 3  # exit status of a part that cannot run here; its last line says why
IMAGE = "host"
# A container may not ask for more than this box allows us.
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
# Root file system of the box itself, so that both run the same program, byte for byte.
BOX = ("-v", "/usr:/usr:ro", "-v", "/etc:/etc:ro", "--tmpfs", "/tmp")
LINKS = ("bin", "sbin", "lib", "lib64")
CGROUPS = Path("/sys/fs/cgroup")
# Where the box runs a containerd, dockerd would use that one, and our containers would be its.
HIDE = '[ ! -d /run/containerd ] || mount -t tmpfs none /run/containerd; exec "$0" "$@"'


class Docker:
    def __init__(self, scene: Stage, socket: str, daemon: subprocess.Popen[bytes]) -> None:
        self.scene, self.socket, self.daemon = scene, socket, daemon

    def __call__(self, *words: str, data: bytes | None = None) -> str:
        """Raises RuntimeError with its own words."""
        argv = [*self.scene.lab.enter("ap"), "docker", "-H", f"unix://{self.socket}", *words]
        done = subprocess.run(argv, input=data, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"docker {words[0]}: {done.stderr.decode().strip()}")
        return done.stdout.decode().strip()

    def run(self, name: str, ports: str, *command: str, mounts: tuple[str, ...] = ()) -> None:
        options = ("-d", "--name", name, "-p", ports, *LIMITS, *BOX, *mounts)
        self("run", *options, IMAGE, *command)

    def processes(self) -> list[int]:
        """Every process of it, with what runs in its containers."""
        return below(self.daemon.pid)


def _image() -> bytes:
    """A tar of nothing but links into what is mounted."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in LINKS:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(info)
    return buffer.getvalue()


@contextlib.contextmanager
def docker(scene: Stage) -> Iterator[Docker]:
    """Ends the program with CANNOT where there is no Docker, or it does not start.

    In a PID and a mount namespace of its own: with their first process all else ends, and no mount
    stays behind.
    """
    for program in ("dockerd", "docker"):
        if not shutil.which(program):
            print(f"there is no {program}; next: apt-get install docker.io", file=sys.stderr)
            raise SystemExit(CANNOT)
    home = scene.directory / "docker"
    home.mkdir(mode=0o700)
    _clear_up_groups()
    (home / "daemon.json").write_text("{}")  # the box's own would be read otherwise
    places = ["--data-root", f"{home}/data", "--exec-root", f"{home}/run"]
    places += ["--pidfile", f"{home}/pid", "-H", f"unix://{home}/socket"]
    places += ["--config-file", f"{home}/daemon.json", "--storage-driver", "vfs"]
    places += ["--exec-opt", "native.cgroupdriver=cgroupfs"]
    places += ["--cgroup-parent", f"/{scene.directory.name}"]
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    alone += ["sh", "-c", HIDE]
    log = (home / "log").open("wb")
    daemon = subprocess.Popen(
        [*scene.lab.enter("ap"), *alone, "dockerd", *places],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        made = Docker(scene, f"{home}/socket", daemon)
        _await(made, home)
        made("import", "-", IMAGE, data=_image())
        yield made
    finally:
        # the first process of the namespace: all others go with it
        for pid in children(daemon.pid):
            os.kill(pid, signal.SIGKILL)
        daemon.wait()
        log.close()
        _remove_groups(scene.directory.name)


def _await(made: Docker, home: Path) -> None:
    """Until it answers."""
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(RuntimeError):
            made("version")
            return
        if made.daemon.poll() is not None or time.monotonic() > end:
            said = (home / "log").read_text().strip().splitlines()
            print(f"dockerd does not start here: {said[-1] if said else ''}", file=sys.stderr)
            raise SystemExit(CANNOT)
        time.sleep(0.05)


def _remove_groups(name: str) -> None:
    """Control groups of this name and all below them."""
    found = (str(path) for path in CGROUPS.glob(f"**/{name}/**/") if path.is_dir())
    for group in sorted(found, key=len, reverse=True):
        with contextlib.suppress(OSError):
            os.rmdir(group)


def _clear_up_groups() -> None:
    """Those of stages that were killed: their processes and directories are gone already."""
    for name in {path.name for path in CGROUPS.glob("**/vx-compare-*")}:
        if not (PLACES / name).exists():
            _remove_groups(name)
