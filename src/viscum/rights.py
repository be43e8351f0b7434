"""What a command needs before it looks at anything."""

from __future__ import annotations

import os

from viscum.errors import ViscumError
from viscum.kernel import netns


def need_root() -> None:
    """Also for looking: the records and other namespaces are open to root only."""
    if os.geteuid() != 0:
        raise ViscumError(
            "services and the kernel's networking are root's",
            state="nothing was changed",
            hint="sudo viscum …",
        )


def refuse_if_unable() -> None:
    """Before anything is looked at: root, and a mount namespace whose mounts others see (N3)."""
    need_root()
    if netns.is_private_mount_namespace():
        raise ViscumError(
            "this shell has a mount namespace of its own (`ip netns exec` makes one): it hides the "
            "machine's control groups, and a network namespace made here would be lost with it",
            state="nothing was changed",
            hint="nsenter --net=/run/netns/NAME viscum …",
        )
