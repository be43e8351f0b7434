"""The link between host and instance, made again where one has just been taken away."""

from __future__ import annotations

import os

from kernel.conftest import Space
from viscum.kernel import link, netns
from viscum.kernel.syscalls import in_netns


def test_a_slot_can_be_used_again_at_once(space: Space) -> None:
    """The namespace before it is taken apart by a kernel worker, some 10 ms after its end."""
    name = f"vt-{os.getpid()}-again"

    def connect() -> None:
        for _ in range(5):
            fd = netns.create(name)
            try:
                link.connect(fd, 7, "vt", 1500, ("100.127.0.14/31",), ("100.127.0.15",))
                link.delete("vs7")
            finally:
                netns.delete(name)
                os.close(fd)

    in_netns(space.fd, connect)
