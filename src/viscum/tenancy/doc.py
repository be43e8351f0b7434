"""The keys of a tenant's file for docs/tenants.md, from the types; a test keeps them up to date."""

from __future__ import annotations

from viscum.spec.doc import keys
from viscum.tenancy.types import Tenant


def document() -> str:
    """All but the name, which is the file's."""
    return "".join(keys(Tenant, frozenset({"name"}), depth=3))


if __name__ == "__main__":
    import sys

    sys.stdout.write(document())
