"""Starting and stopping an instance's process as an Op describes it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from viscum.kernel import identity, journal, logs, netns, process, resolver
from viscum.kernel.cgroup import Group
from viscum.kernel.rtnl import Rtnl

if TYPE_CHECKING:
    from viscum.ops import StartProcess

RESOLV_CONF, HOSTS = "/etc/resolv.conf", "/etc/hosts"


def start(op: StartProcess) -> None:
    """Makes the cgroup with its limits and starts the server in it. Raises OSError."""
    sandbox = op.uid if op.run.sandbox == "strict" else None
    if sandbox is not None and (holder := identity.holder(sandbox)):
        raise OSError(errno.EEXIST, f"belongs to {holder} already", f"uid {sandbox}")
    group = Group(op.cgroup)
    group.create()
    group.set_limits(cpu=op.limits.cpu, memory=op.limits.memory, processes=op.limits.processes)
    if journal.present():
        output = journal.connect(
            f"{op.service}.{op.label}", unit=f"viscum-{op.service}", levels=sandbox is None
        )
    else:
        # The bound is kept from outside, by every command; should none come for long, a tmpfs of
        # its own keeps a chatty server from filling the router's memory (docs/decisions.md).
        logs.mount_dir(os.path.dirname(op.log), max(logs.HARD_STOP, 16 * op.limits.log))
        output = logs.open_log(op.log)
    try:
        with netns.opened(op.netns) as fd:
            process.start(
                process.Launch(
                    argv=op.command,
                    group=group,
                    netns_fd=fd,
                    output=output,
                    environment=op.run.environment,
                    user=op.run.user,
                    working_directory=op.run.working_directory or "/",
                    root=op.run.root,
                    files={
                        RESOLV_CONF: resolver.resolv_conf(),
                        HOSTS: resolver.hosts(op.service, op.own),
                    },
                    hide=op.hide,
                    capabilities=op.run.capabilities,
                    sandbox=sandbox,
                ),
                foreground=op.foreground,
            )
    finally:
        os.close(output)


def name_again(name: str, cgroup: str, nsid: int) -> None:
    """Gives the namespace with the id `nsid`, which processes of the cgroup are in, its name back;
    if none is in it (any more), the name is of a new one. Raises OSError."""
    with Rtnl() as host:
        for pid in Group(cgroup).pids():
            try:
                fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                continue
            try:
                if host.nsid_of(fd) == nsid:
                    netns.attach(name, fd)
                    return
            finally:
                os.close(fd)
    os.close(netns.create(name))


def stop(cgroup: str, timeout: float) -> None:
    """Ends every process of the cgroup and removes it; nothing if it is not there."""
    group = Group(cgroup)
    if group.exists():
        process.stop(group, timeout)
        group.remove()
