"""Photos of number plates as a phone takes them, drawn: each kind with one thing that makes reading
hard. The same seed gives the same photos.

    python photos.py --seed 7 --each 4 DIRECTORY

writes DIRECTORY/KIND-NUMBER.jpg and DIRECTORY/plates.json, what is on them.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
from collections.abc import Callable, Iterable
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Picture = Any  # height x width x 3 bytes
Point = tuple[float, float]

WIDTH, HEIGHT = 1600, 1200
QUALITY = 92  # of the JPEG: hundreds of kilobytes, as a phone's

FONTS = {
    "DIN": "/usr/share/fonts/truetype/opendin/OSP-DIN.ttf",
    "highway": "/usr/share/fonts/truetype/roadgeek/RG2014D.ttf",
    "condensed": "/usr/share/fonts/truetype/roboto/unhinted/RobotoCondensed-Bold.ttf",
    "sans": "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf",
}
# As most countries do: no letters that look like a digit or like another letter.
LETTERS, DIGITS = "ABCDEFGHJKLMNPRSTUVWXYZ", "0123456789"
FORMS = ("LL DDD LL", "LLL DDDD", "LL DD LLL", "DDDD LLL")
PAPERS = ((245, 245, 240), (250, 205, 60), (235, 240, 250))


def number(chance: random.Random) -> str:
    """What a plate says, with the gaps between its groups."""
    choices = {"L": LETTERS, "D": DIGITS}
    form = chance.choice(FORMS)
    return "".join(chance.choice(choices[sign]) if sign in choices else sign for sign in form)


def plate(text: str, font: str, chance: random.Random) -> Picture:
    """The plate alone, seen from the front, 520 x 110 mm."""
    width, height = 1040, 220
    image = Image.new("RGB", (width, height), chance.choice(PAPERS))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((4, 4, width - 5, height - 5), 20, outline=(20, 20, 20), width=7)
    draw.rectangle((12, 12, 90, height - 13), fill=(0, 51, 153))
    size = 200
    while True:
        face = ImageFont.truetype(FONTS[font], size)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=face)
        if right - left < width - 170 and bottom - top < height - 60:
            break
        size -= 4
    at = (100 + (width - 115 - (right - left)) / 2 - left, (height - (bottom - top)) / 2 - top)
    draw.text(at, text, font=face, fill=(15, 15, 20))
    return np.asarray(image)


def street(noise: np.random.Generator) -> Picture:
    """What is around the plate: the back of a car, tarmac, a wall; and a fine grain, which keeps
    the file as large as a camera's."""
    coarse = noise.integers(70, 150, (6, 8, 1), dtype=np.uint8)
    wall = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    scene = cv2.cvtColor(wall, cv2.COLOR_GRAY2BGR)
    body = tuple(int(part) for part in noise.integers(40, 200, 3))
    cv2.rectangle(scene, (180, 300), (1420, 980), body, -1)
    cv2.rectangle(scene, (300, 340), (1300, 560), (35, 40, 45), -1)
    cv2.rectangle(scene, (180, 900), (1420, 980), (50, 50, 50), -1)
    for x in (260, 1240):
        cv2.rectangle(scene, (x, 600), (x + 100, 680), (180, 30, 30), -1)
    grain = noise.normal(0, 5, scene.shape)
    return np.clip(scene + grain, 0, 255).astype(np.uint8)


def mount(scene: Picture, sign: Picture, corners: list[Point]) -> Picture:
    """The plate put onto the scene at these corners, clockwise from the top left."""
    height, width = sign.shape[:2]
    source = np.float32([(0, 0), (width, 0), (width, height), (0, height)])
    turn = cv2.getPerspectiveTransform(source, np.float32(corners))
    size = (WIDTH, HEIGHT)
    seen = cv2.warpPerspective(sign, turn, size, flags=cv2.INTER_AREA)
    mask = cv2.warpPerspective(np.full((height, width), 255, np.uint8), turn, size)[..., None] / 255
    return (scene * (1 - mask) + seen * mask).astype(np.uint8)


def front(chance: random.Random, width: float) -> list[Point]:
    """Where a plate of that width is when one stands before it."""
    height = width * 110 / 520
    x = (WIDTH - width) / 2 + chance.uniform(-80, 80)
    y = 700 + chance.uniform(-40, 40)
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def aslant(corners: list[Point], chance: random.Random) -> list[Point]:
    """The same from the side and from above, up to some 40 degrees, with the phone tilted."""
    (x, y), (right, _), _, (_, bottom) = corners
    width, height = right - x, bottom - y
    near = chance.uniform(0.1, 0.22) * height
    lean = chance.uniform(-0.13, 0.13) * width
    short = chance.uniform(0.12, 0.28) * width
    far = x + short
    return [(far, y + near + lean), (right, y), (right, bottom), (far, bottom - near + lean)]


def moved(picture: Picture, hard: float, noise: np.random.Generator) -> Picture:
    """The car or the hand has moved, up to a quarter of a character."""
    length = 9 + 2 * round(4 * hard)
    streak = np.zeros((length, length), np.float32)
    streak[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D((length // 2, length // 2), noise.uniform(-30, 30), 1)
    return cv2.filter2D(picture, -1, cv2.warpAffine(streak, turn, (length, length)))


def blurred(picture: Picture, hard: float, _: np.random.Generator) -> Picture:
    """Out of focus."""
    return cv2.GaussianBlur(picture, (0, 0), 3 + 3 * hard)


def noisy(picture: Picture, hard: float, noise: np.random.Generator) -> Picture:
    """A sensor at its limit."""
    grain = noise.normal(0, 30 + 30 * hard, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def dark(picture: Picture, hard: float, noise: np.random.Generator) -> Picture:
    """Dusk: little light, little contrast, some noise."""
    grain = noise.normal(0, 4, picture.shape)
    return np.clip(picture * (0.16 - 0.1 * hard) + grain + 6, 0, 255).astype(np.uint8)


def glare(picture: Picture, hard: float, noise: np.random.Generator) -> Picture:
    """The sun, reflected somewhere on the plate."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    centre = WIDTH / 2 + noise.uniform(-200, 200), 760 + noise.uniform(-60, 60)
    far = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (120 + 80 * hard) ** 2
    light = (230 * np.exp(-far))[..., None]
    return np.clip(picture + light, 0, 255).astype(np.uint8)


# Each makes a picture harder to read; `hard` from 0 to 1.
Effect = Callable[[Picture, float, np.random.Generator], Picture]
EFFECTS: dict[str, tuple[Effect, ...]] = {
    "plain": (),
    "aslant": (),
    "far": (),
    "blur": (blurred,),
    "motion": (moved,),
    "noise": (noisy,),
    "dark": (dark,),
    "glare": (glare,),
    "all": (moved, noisy, dark),
}


def photo(kind: str, font: str, seed: str) -> tuple[Picture, str]:
    """The picture and what the plate on it says."""
    chance = random.Random(seed)
    noise = np.random.default_rng(chance.getrandbits(64))
    text = number(chance)
    corners = front(chance, 160 if kind == "far" else chance.uniform(480, 620))
    if kind in ("aslant", "all"):
        corners = aslant(corners, chance)
    picture = mount(street(noise), plate(text, font, chance), corners)
    for effect in EFFECTS[kind]:
        picture = effect(picture, chance.uniform(0, 0.5 if kind == "all" else 1), noise)
    return picture, text.replace(" ", "")


def draw(directory: Path, seed: int, kind: str, count: int) -> tuple[str, dict[str, str]]:
    """Writes one, the fonts in turn; its name and what is on it."""
    font = list(FONTS)[count % len(FONTS)]
    picture, text = photo(kind, font, f"{seed} {kind} {count}")
    name = f"{kind}-{count + 1}.jpg"
    Image.fromarray(picture).save(directory / name, quality=QUALITY)
    return name, {"plate": text, "kind": kind, "font": font}


def draw_all(directory: Path, seed: int, each: int, kinds: Iterable[str]) -> None:
    """`each` photos of every kind, on all processors."""
    directory.mkdir(parents=True, exist_ok=True)
    wanted = [(directory, seed, kind, count) for kind in kinds for count in range(each)]
    with Pool() as pool:
        plates = dict(pool.starmap(draw, wanted, chunksize=1))
    (directory / "plates.json").write_text(json.dumps(plates, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws photos of number plates.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--each", type=int, default=4, help="photos of every kind")
    parser.add_argument("--kinds", nargs="+", choices=EFFECTS, default=tuple(EFFECTS))
    words = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback of each process
    draw_all(words.directory, words.seed, words.each, words.kinds)


if __name__ == "__main__":
    main()
