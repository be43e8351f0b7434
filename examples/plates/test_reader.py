"""What reads, alone: loading its models."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kit import example_dir
from plates.scene import python

pytestmark = pytest.mark.req("U1")


def test_it_reports_to_nobody(tmp_path: Path) -> None:
    """onnxruntime would, and would mark the machine with a number in its user's home for that."""
    words = [python(), "-c", "from plates.reader import Reader; Reader(1_000_000)"]
    there = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    subprocess.run(words, env=there, cwd=example_dir("plates").parent, check=True)
    assert list(tmp_path.iterdir()) == []
