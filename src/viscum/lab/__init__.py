"""The lab: a client, an access point and a cloud in namespaces of this machine."""

from __future__ import annotations

from viscum.lab.lab import Lab, LabStatus
from viscum.lab.plan import (
    AP_LAN4,
    AP_LAN6,
    AP_WAN4,
    AP_WAN6,
    CLOUD4,
    CLOUD6,
    CLOUD_NAME,
    CLOUDS4,
    CLOUDS6,
    Firewall,
    Settings,
    ue4,
    ue6,
)

__all__ = [
    "AP_LAN4",
    "AP_LAN6",
    "AP_WAN4",
    "AP_WAN6",
    "CLOUD4",
    "CLOUD6",
    "CLOUDS4",
    "CLOUDS6",
    "CLOUD_NAME",
    "Firewall",
    "Lab",
    "LabStatus",
    "Settings",
    "ue4",
    "ue6",
]
