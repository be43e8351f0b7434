"""An instance's control group and process as commands of the shell, mount, unshare and setpriv.

For a plan that a person reads or runs (`viscum plan --as-shell`); what `service` and `cgroup` do
natively. As close to it as those programs come: an oom_score_adj, a read-only /proc/sys, the
state directory hidden from the server and a minimal /dev in a root file system are left out, and
a root file system has to have setpriv and env.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from shlex import join, quote
from typing import TYPE_CHECKING

from viscum.kernel import cgroup, cgroupfs, identity, knobs, mounts, process, resolver, service
from viscum.names import NETNS_DIR

if TYPE_CHECKING:
    from viscum.ops import StartProcess
    from viscum.spec import Limits


def make_group(path: str) -> Iterator[str]:
    """In every hierarchy, with the controllers switched on down to it."""
    here = cgroupfs.hierarchies()
    yield join(["mkdir", "-p", *(f"{root}/{path}" for root in here.roots)])
    if not here.unified:
        return
    there = knobs.read(f"{here.unified}/cgroup.controllers").split()
    wanted = [c for c in cgroupfs.CONTROLLERS if c in there]
    parent = here.unified
    for step in path.split("/") if wanted else ():
        yield f"echo {' '.join(f'+{c}' for c in wanted)} >{parent}/cgroup.subtree_control"
        parent = f"{parent}/{quote(step)}"


def limit_group(path: str, limits: Limits) -> Iterator[str]:
    """The files of v1 or v2, whichever has the controller here; everything that has none is left
    out, as the limit would have been refused."""
    here = cgroupfs.hierarchies()
    v1 = dict(here.v1)
    available = here.available()
    cpu, memory, processes = cgroup.rounded(
        limits.cpu, None if limits.memory is None else int(limits.memory), limits.processes
    )
    period = cgroup.CPU_PERIOD_USEC
    quota = None if cpu is None else round(cpu * period)
    files: dict[str, tuple[tuple[str, object], ...]] = {
        "cpu": (("cfs_period_us", period), ("cfs_quota_us", -1 if quota is None else quota))
        if "cpu" in v1
        else (("max", f"{_max(quota)} {period}"),),
        "memory": (("limit_in_bytes", -1 if memory is None else memory),)
        if "memory" in v1
        else (("max", _max(memory)),),
        "pids": (("max", _max(processes)),),
    }
    for controller, settings in files.items():
        root = v1.get(controller, here.unified)
        for name, value in settings if controller in available else ():
            yield f"echo {value} >{quote(f'{root}/{path}')}/{controller}.{name}"


def name_again(name: str, group: str) -> Iterator[str]:
    """The namespace of the group's first process gets its name back."""
    home = f"{cgroupfs.hierarchies().roots[0]}/{group}"
    yield f"ip netns attach {name} $(head -n 1 {quote(home)}/cgroup.procs)"


def end_group(path: str) -> Iterator[str]:
    """Kills what is in it, waits until it is empty, removes it."""
    here = cgroupfs.hierarchies()
    home = f"{here.unified}/{path}"
    if here.unified:
        yield f"echo 1 >{quote(home)}/cgroup.kill"
        yield f"while grep -q 'populated 1' {quote(home)}/cgroup.events; do sleep 0.05; done"
    else:
        root = quote(f"{here.roots[0]}/{path}")
        yield f'while pids=$(cat {root}/cgroup.procs) && [ -n "$pids" ]; do kill -9 $pids; done'
    yield join(["rmdir", *(f"{root}/{path}" for root in here.roots)])


def start(op: StartProcess) -> Iterator[str]:
    """The process in its group, namespaces and (append-only) log, in the background."""
    if op.run.sandbox == "strict":
        # Those programs can't filter system calls, and half a sandbox is none.
        yield f"echo {quote(f'{op.service} runs in a sandbox, which only viscum makes')} >&2"
        yield "exit 1"
        return
    yield from make_group(op.cgroup)
    yield from limit_group(op.cgroup, op.limits)
    yield join(["mkdir", "-p", op.log.rpartition("/")[0]])
    yield "("
    for root in cgroupfs.hierarchies().roots:
        yield f"  echo 0 >{quote(f'{root}/{op.cgroup}')}/cgroup.procs"
    inside = "\n".join(_inside(op))
    end = "END"
    while f"\n{end}\n" in inside:
        end += "_"
    yield (
        f"  exec setsid nsenter {quote(f'--net={NETNS_DIR}/{op.netns}')}"
        f" unshare --mount --propagation slave sh -e -s <<'{end}' >>{quote(op.log)} 2>&1"
    )
    yield inside
    yield end
    yield ") &"


def _inside(op: StartProcess) -> Iterator[str]:
    """What a shell does in the instance's own mount namespace before it becomes the server."""
    root = op.run.root
    at = quote(os.path.abspath(root)) if root else ""
    if root:
        yield f"mount --rbind {at} {at}"
        yield f"mount -t proc proc {at}/proc"
        yield f"mount --rbind /dev {at}/dev"
    else:
        yield "umount -l /sys"
        for path in ("/run/netns", "/run"):
            yield f"! mountpoint -q {path} || umount -l {path}"
    yield f"mount -t sysfs -o nosuid,nodev,noexec,ro sysfs {at}/sys"
    sizes = {"/tmp": f"mode=1777,{mounts.TMP_SIZE}", "/run": f"mode=0755,{mounts.RUN_SIZE}"}
    for path, options in sizes.items():
        yield f"mount -t tmpfs -o nosuid,nodev,{options} tmpfs {at}{path}"
    files = {
        service.RESOLV_CONF: resolver.resolv_conf(),
        service.HOSTS: resolver.hosts(op.service, op.own),
    }
    for path, text in files.items():
        scratch = f"{at}/run/.{path.rpartition('/')[2]}"
        yield f"printf %s {quote(text)} >{scratch}"
        yield f"mount --bind {scratch} {at}{path}"
    yield f"cd {at}{quote(op.run.working_directory or '/')}"
    yield f"exec {join(_become(op))} </dev/null"


def _become(op: StartProcess) -> list[str]:
    """setpriv, chroot, env and the server itself, as one command line."""
    run = op.run
    user = identity.look_up(run.user, run.root)
    keep = identity.capabilities(run.capabilities, user.uid)
    kept = [name for name, number in identity.NUMBERS.items() if keep >> number & 1]
    sets = ",".join(["-all", *(f"+{name.replace('-', '_')}" for name in kept)])
    environment = {"PATH": process.PATH, "LANG": "C.UTF-8", "HOME": user.home, "USER": user.name}
    environment |= {"LOGNAME": user.name, **run.environment}
    groups = ",".join(map(str, user.groups))
    into = ["chroot", run.root] if run.root else []
    return [
        *into,
        "setpriv",
        f"--reuid={user.uid}",
        f"--regid={user.gid}",
        f"--groups={groups}" if groups else "--clear-groups",
        f"--inh-caps={sets}",
        f"--ambient-caps={sets}",
        f"--bounding-set={sets}",
        "--no-new-privs",
        "env",
        "-i",
        *(f"{key}={value}" for key, value in environment.items()),
        *op.command,
    ]


def _max(value: int | None) -> int | str:
    return "max" if value is None else value
