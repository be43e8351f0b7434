"""What a camera sees that pans over photographs of people: JPEG frames, each kind with one thing
that makes finding faces hard. The same seed gives the same frames.

    PYTHONPATH=examples .cache/examples/faces/bin/python -m faces.frames \\
        --downloads .cache/examples/faces/downloads --seed 4 --shots 4 --size 640x480 DIRECTORY

in the checkout, after `make example-faces`, writes DIRECTORY/KIND-SHOT-NUMBER.jpg and
DIRECTORY/faces.json: for each frame, where the `faces` are, and the `uncounted` ones, less than
nine tenths of them in the picture, or painted.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from faces.pictures import NOBODY, PEOPLE, Box, Photo, Picture

FRAMES = 6  # of a shot
QUALITY = 88  # of the JPEG
GRAIN = 4  # standard deviation of a good sensor's noise, which keeps files as large as a camera's
WHOLE = 0.9  # of a face in the picture: then it counts
NEAR, FAR = (0.2, 0.45), (0.09, 0.13)  # a face's height, of the frame's


def moved(picture: Picture, hard: float, noise: np.random.Generator) -> Picture:
    """The camera was moved while the shutter was open, by up to a fiftieth of the picture."""
    length = 2 * round(picture.shape[1] * (0.004 + 0.006 * hard)) + 1
    streak = np.zeros((length, length), np.float32)
    streak[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D((length // 2, length // 2), noise.uniform(-30, 30), 1)
    return cv2.filter2D(picture, -1, cv2.warpAffine(streak, turn, (length, length)))


def blurred(picture: Picture, hard: float, _: np.random.Generator) -> Picture:
    """Out of focus."""
    return cv2.GaussianBlur(picture, (0, 0), picture.shape[1] * (0.003 + 0.004 * hard))


def noisy(picture: Picture, hard: float, noise: np.random.Generator) -> Picture:
    """A sensor at its limit."""
    grain = noise.normal(0, 20 + 25 * hard, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def dark(picture: Picture, hard: float, _: np.random.Generator) -> Picture:
    """Dusk."""
    return (picture * (0.3 - 0.18 * hard)).astype(np.uint8)


# Each makes a picture harder; `hard` from 0 to 1.
Effect = Callable[[Picture, float, np.random.Generator], Picture]
EFFECTS: dict[str, tuple[Effect, ...]] = {
    "plain": (),
    "far": (),
    "moved": (moved,),
    "blurred": (blurred,),
    "noisy": (noisy,),
    "dark": (dark,),
    "nobody": (),
}


@dataclass(frozen=True)
class Window:
    """What of a photograph the camera sees: centre and height, in the photograph's pixels."""

    x: float
    y: float
    height: float

    def towards(self, other: Window, part: float) -> Window:
        def between(a: float, b: float) -> float:
            return a + (b - a) * part

        return Window(
            between(self.x, other.x), between(self.y, other.y), between(self.height, other.height)
        )


def aimed(photo: Photo, kind: str, chance: random.Random, size: tuple[int, int]) -> Window:
    """At a face; at anything in a photograph without one. size: of the photograph."""
    if not photo.faces:
        x, y = chance.uniform(0.3, 0.7) * size[0], chance.uniform(0.3, 0.7) * size[1]
        return Window(x, y, size[1] * chance.uniform(0.4, 1))
    left, top, width, height = chance.choice(photo.faces)
    seen = height / chance.uniform(*(FAR if kind == "far" else NEAR))
    x = left + width / 2 + chance.uniform(-0.3, 0.3) * seen
    y = top + height / 2 + chance.uniform(-0.2, 0.2) * seen
    return Window(x, y, seen)


def seen(
    photograph: Picture, window: Window, size: tuple[int, int], noise: np.random.Generator
) -> Picture:
    """The photograph hangs on a wall, of which there is more when the camera is far."""
    scale = size[1] / window.height
    shift = (size[0] / 2 - window.x * scale, size[1] / 2 - window.y * scale)
    turn = np.float32([[scale, 0, shift[0]], [0, scale, shift[1]]])
    coarse = noise.integers(80, 150, (5, 7, 3), dtype=np.uint8)
    wall = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    if scale < 1:  # INTER_AREA does nothing in a warp: what is made smaller is smoothed before
        photograph = cv2.GaussianBlur(photograph, (0, 0), 0.5 / scale)
    return cv2.warpAffine(
        photograph, turn, size, wall, flags=flags, borderMode=cv2.BORDER_TRANSPARENT
    )


def within(face: Box, window: Window, size: tuple[int, int]) -> tuple[Box, float]:
    """Where the face is in the frame, and what part of it is."""
    scale = size[1] / window.height
    left = size[0] / 2 + (face[0] - window.x) * scale
    top = size[1] / 2 + (face[1] - window.y) * scale
    width, height = face[2] * scale, face[3] * scale
    across = min(left + width, size[0]) - max(left, 0)
    down = min(top + height, size[1]) - max(top, 0)
    part = max(across, 0) * max(down, 0) / (width * height)
    return (round(left, 1), round(top, 1), round(width, 1), round(height, 1)), part


def draw(downloads: Path, directory: Path, seed: int, shots: int, size: tuple[int, int]) -> None:
    """`shots` of every kind, each of FRAMES frames."""
    directory.mkdir(parents=True, exist_ok=True)
    known = {}
    for kind in EFFECTS:
        photos = NOBODY if kind == "nobody" else PEOPLE
        for shot in range(shots):
            photo = photos[shot % len(photos)]
            photograph = photo.read(downloads)
            chance = random.Random(f"{seed} {kind} {shot}")
            noise = np.random.default_rng(chance.getrandbits(64))
            pixels = (photograph.shape[1], photograph.shape[0])
            start, end = (aimed(photo, kind, chance, pixels) for _ in range(2))
            hard = chance.random()
            for number in range(FRAMES):
                window = start.towards(end, number / (FRAMES - 1))
                picture = seen(photograph, window, size, np.random.default_rng(shot))
                for effect in EFFECTS[kind]:
                    picture = effect(picture, hard, noise)
                grain = noise.normal(0, GRAIN, picture.shape)
                picture = np.clip(picture + grain, 0, 255).astype(np.uint8)
                name = f"{kind}-{shot + 1}-{number + 1}.jpg"
                cv2.imwrite(str(directory / name), picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
                boxes = [within(face, window, size) for face in photo.faces]
                painted = [within(face, window, size) for face in photo.painted]
                known[name] = {
                    "kind": kind,
                    "faces": [box for box, part in boxes if part >= WHOLE],
                    "uncounted": [box for box, part in boxes if 0 < part < WHOLE]
                    + [box for box, part in painted if part],
                }
    (directory / "faces.json").write_text(json.dumps(known, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws what a camera sees.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--downloads", type=Path, required=True, help="where the packages are")
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--shots", type=int, default=4, help="of every kind")
    parser.add_argument("--size", default="640x480")
    words = parser.parse_args()
    width, _, height = words.size.partition("x")
    draw(words.downloads, words.directory, words.seed, words.shots, (int(width), int(height)))


if __name__ == "__main__":
    main()
