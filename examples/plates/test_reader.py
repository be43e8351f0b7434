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


# Writes a picture of a few bytes: the format, the mode, pixels on each side.
DRAW = """
import sys; from PIL import Image
path, kind, mode, side = sys.argv[1:]
more = {"progressive": True, "subsampling": 0} if kind == "JPEG" else {}
Image.new(mode, (int(side), int(side))).save(path, kind, **more)
"""
# What decoding it takes, in bytes; or why it is not decoded.
DECODE = """
import sys; from pathlib import Path; from plates.picture import Unreadable, decode
data, most = Path(sys.argv[1]).read_bytes(), int(sys.argv[2])
def used():  # not getrusage: that remembers what was before exec
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10
before = used()
try: decode(data, most)
except Unreadable as error: print(error)
else: print(used() - before)
"""


def run(words: str, *arguments: object) -> str:
    argv = [python(), "-c", words, *map(str, arguments)]
    there = example_dir("plates").parent
    return subprocess.run(argv, cwd=there, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("kind", "mode", "pixel"), [("JPEG", "CMYK", 10), ("PNG", "RGBA", 10), ("WEBP", "RGBA", 18)]
)
def test_a_small_file_can_not_take_more_memory_than_it_may(
    tmp_path: Path, kind: str, mode: str, pixel: int
) -> None:
    """However many pixels are in it. pixel: the bytes that one costs."""
    most = 128 << 20
    side = int((most / pixel) ** 0.5)
    run(DRAW, tmp_path / "largest", kind, mode, side)
    run(DRAW, tmp_path / "larger", kind, mode, side + 1)
    assert (tmp_path / "larger").stat().st_size < 2 << 20
    assert most / 2 < int(run(DECODE, tmp_path / "largest", most)) < 1.2 * most
    told = f"at most {most // pixel} as {kind}"
    assert told in run(DECODE, tmp_path / "larger", most)
