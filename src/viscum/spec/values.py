"""Every kind of value a spec has: see `scalars` and `networks`, whose front door this is."""

from __future__ import annotations

from viscum.spec.networks import (
    EgressRule,
    Port,
    interface,
    network,
    network_text,
    target,
    target_network,
    unusable,
)
from viscum.spec.scalars import (
    CAPABILITIES,
    MAX_SECONDS,
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
    nearest,
    shown,
    text,
    user,
)

__all__ = [
    "CAPABILITIES",
    "MAX_SECONDS",
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
    "nearest",
    "network",
    "network_text",
    "shown",
    "target",
    "target_network",
    "text",
    "unusable",
    "user",
]
