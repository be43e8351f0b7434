"""Every kind of value a spec has: see `scalars` and `netvalues`, whose front door this is."""

from __future__ import annotations

from viscum.netvalues import (
    EgressRule,
    Port,
    interface,
    network,
    network_text,
    target,
    target_network,
    unusable,
)
from viscum.scalars import (
    CAPABILITIES,
    BadValue,
    Bytes,
    Kind,
    Seconds,
    absolute_path,
    capability,
    did_you_mean,
    environment_key,
    kind_of,
    name,
    shown,
    text,
    user,
)

__all__ = [
    "CAPABILITIES",
    "BadValue",
    "Bytes",
    "EgressRule",
    "Kind",
    "Port",
    "Seconds",
    "absolute_path",
    "capability",
    "did_you_mean",
    "environment_key",
    "interface",
    "kind_of",
    "name",
    "network",
    "network_text",
    "shown",
    "target",
    "target_network",
    "text",
    "unusable",
    "user",
]
