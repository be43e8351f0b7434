"""The worst that strangers can ask for fits into the spec's [limits]."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plates.scene import python, scene
from viscum.lab import CLOUD4

pytestmark = pytest.mark.req("U1")

# The most pixels of the most expensive kinds, in files as large as may be.
DRAW = """
import os, sys; from pathlib import Path; from PIL import Image
from plates.config import Config; from plates.picture import COST
limits = Config()
for kind, mode in (("JPEG", "CMYK"), ("PNG", "RGBA"), ("WEBP", "RGBA")):
    path, side = Path(sys.argv[1], kind), int((limits.max_decoded / COST[kind]) ** 0.5)
    more = {"progressive": True, "subsampling": 0} if kind == "JPEG" else {"method": 0}
    Image.new(mode, (side, side)).save(path, kind, compress_level=1, **more)
    with path.open("ab") as file:
        file.write(os.urandom(limits.max_bytes - 1000 - file.tell()))
"""
URL = f"http://{CLOUD4}/v2/recognize?country=eu&return_image=1"


def test_several_clients_with_the_largest_pictures_of_all(tmp_path: Path) -> None:
    there = Path(__file__).parents[1]
    subprocess.run([python(), "-c", DRAW, tmp_path], cwd=there, check=True)
    with scene(wan_rtt=0, clients=2) as made:
        made.move()
        [pid] = made.processes()

        def insist(role: str, image: Path) -> int:
            """How often it took until it was answered."""
            words = ["curl", "-s", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}"]
            for attempt in range(1, 1000):
                done = made.lab.run(role, [*words, "-F", f"image=@{image}", URL])
                if done.stdout == "200":
                    return attempt
                assert done.stdout == "503", done
            raise AssertionError(f"{role} found no room for {image.name}")

        with ThreadPoolExecutor(6) as pool:
            roles = ("ue", "ue2")
            told = [pool.submit(insist, r, i) for r in roles for i in tmp_path.iterdir()]
            assert sum(attempts.result() for attempts in told) > len(told)  # it was too much
        assert made.processes() == [pid]
