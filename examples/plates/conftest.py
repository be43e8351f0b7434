"""Photos that several files of tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from plates.scene import draw


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Called KIND-1.jpg; plates.json says what is on them."""
    directory = tmp_path_factory.mktemp("photos")
    draw(directory, 1, kinds=("plain", "aslant", "noise"))
    return directory


@pytest.fixture(scope="session")
def photo(photos: Path) -> Path:
    """One that is easy to read."""
    return photos / "plain-1.jpg"
