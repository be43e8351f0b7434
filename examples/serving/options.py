"""A server's options, each an environment variable as well (for PREFIX `FACES`: $FACES_PORT …)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

Config = TypeVar("Config")


def configured(
    config: type[Config], prefix: str, about: str, words: Sequence[str] | None = None
) -> Config:
    """An object of that dataclass, all of whose fields have defaults. Exits with a usage message if
    something can't be used."""
    parser = argparse.ArgumentParser(prog=prefix.lower(), description=about)
    described: Any = config
    for field in fields(described):
        kind: Any = type(field.default)
        name = f"{prefix}_{field.name.upper()}"
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            default=os.environ.get(name, str(field.default)),  # a string is converted like a word
            metavar=kind.__name__.upper(),
            help=f"${name}, by default {str(field.default) or 'none'}",
        )
    return config(**vars(parser.parse_args(words)))
