"""What conntrack.py and nft.py share: the netfilter netlink socket.

Source: linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import errno

from viscum.kernel.netlink import Netlink

_NETLINK_NETFILTER = 12
HEADER_SIZE = 4  # struct nfgenmsg
_UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


def header(family: int, resource: int = 0) -> bytes:
    """struct nfgenmsg: family (NFPROTO_*), version 0, resource id."""
    return bytes((family, 0)) + resource.to_bytes(2, "big")


def is_unsupported(error: OSError) -> bool:
    """Says the error that the kernel does not have this part of netfilter?"""
    return error.errno in _UNSUPPORTED


class Netfilter(Netlink):
    """One NETLINK_NETFILTER socket in the caller's namespace or in `netns_fd`."""

    def __init__(self, netns_fd: int | None = None) -> None:
        super().__init__(_NETLINK_NETFILTER, netns_fd)
