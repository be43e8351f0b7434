"""CONFIG_DIR/services: what the next boot starts. A service's name says whose it is."""

from __future__ import annotations

from pathlib import Path

from viscum.tenancy import rules

DIRECTORY = "services"


def files(config_dir: str | Path, tenant: str) -> dict[str, Path]:
    """By service; tenant "": everybody's."""
    paths = (Path(config_dir) / DIRECTORY).glob("*.toml")
    return {
        p.stem: p
        for p in sorted(paths)
        if not p.name.startswith(".") and (not tenant or rules.owns_service(tenant, p.stem))
    }
