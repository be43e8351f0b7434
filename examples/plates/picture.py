"""From the bytes of a picture to its pixels. Stands between strangers and the models.

python -m plates.picture DIRECTORY says of each in it that can't be read why.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from plates.client import photos_of
from plates.config import Config

# What is read, and the most bytes that a pixel takes while it is decoded: a progressive JPEG's
# coefficients, RGBA and the same premultiplied, four canvases of libwebp and Pillow.
COST = {"JPEG": 10, "PNG": 10, "WEBP": 18}
# A larger picture is read at a fraction of its size, which JPEG decodes at once.
ENOUGH = 1600
SHRINKS = ("L", "LA", "RGB", "RGBA", "CMYK")  # modes that keep their quality when they are shrunk
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # of EXIF: the camera was held upright


class Unreadable(Exception):
    """Not a picture that can be read; says why."""


def decode(data: bytes, memory: int) -> tuple[Any, int, int]:
    """Upright, BGR, maybe smaller; and the size it was. memory: bytes that it may take. Raises
    Unreadable."""
    try:
        with Image.open(io.BytesIO(data), formats=tuple(COST)) as image:
            width, height = image.size
            most = memory // COST[str(image.format)]
            if width * height > most:
                words = f"at most {most} as {image.format}"
                raise Unreadable(f"the image has {width} x {height} pixels; {words}")
            if min(width, height) < 16:
                raise Unreadable(f"the image has {width} x {height} pixels, too few to read")
            turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
            image.draft("RGB", (ENOUGH, ENOUGH))
            small = image if image.mode in SHRINKS else image.convert("RGB")
            small.thumbnail((ENOUGH, ENOUGH))
            upright = ImageOps.exif_transpose(small).convert("RGB")
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not a JPEG, PNG or WebP image") from None
    except Image.DecompressionBombError as error:
        raise Unreadable(str(error)) from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise Unreadable(f"the image is broken: {error}") from None
    if turned:
        width, height = height, width
    return np.ascontiguousarray(np.asarray(upright)[..., ::-1]), width, height


def main() -> None:
    limits = Config()
    for path in photos_of(Path(sys.argv[1])):
        try:
            if (size := path.stat().st_size) > limits.max_bytes:
                raise Unreadable(f"the file has {size} bytes; at most {limits.max_bytes}")
            decode(path.read_bytes(), limits.max_decoded)
        except OSError as error:
            print(f"{path}: {error.strerror}")
        except Unreadable as error:
            print(f"{path}: {error}")


if __name__ == "__main__":
    main()
