"""From the bytes of a picture to the plates on it: RapidOCR finds and reads lines of text, and what
looks like a number plate is one."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from plates.picture import decode

# onnxruntime tells its makers what it runs (from 1.29 on, also on Linux) and keeps a number for the
# machine in ~/.cache, unless this is set before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from rapidocr import RapidOCR

# The longer side that text is looked for at; more is slower and finds smaller plates.
SIGHT = 640
# What tells plates from other text when nothing is known of the country.
PLATE = re.compile(r"(?=.*[0-9])(?=.*[A-Z])[A-Z0-9]{4,10}")
TEMPLATES = {
    "de": r"[A-Z]{2,5}[0-9]{1,4}[EH]?",
    "es": r"[0-9]{4}[B-DF-HJ-NPR-TV-Z]{3}",
    "fr": r"[A-Z]{2}[0-9]{3}[A-Z]{2}",
    "gb": r"[A-Z]{2}[0-9]{2}[A-Z]{3}",
    "it": r"[A-Z]{2}[0-9]{3}[A-Z]{2}",
}
TWINS = {"0": "O", "O": "0", "1": "I", "I": "1", "8": "B", "B": "8", "5": "S", "S": "5", "2": "Z",
         "Z": "2", "6": "G", "G": "6"}  # fmt: skip
Corner = tuple[int, int]


@dataclass(frozen=True)
class Candidate:
    text: str
    confidence: float  # percent
    fits: bool  # the template of the region


@dataclass(frozen=True)
class Plate:
    """corners: clockwise from the top left, in the picture's own pixels."""

    candidates: tuple[Candidate, ...]
    corners: tuple[Corner, ...]

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


@dataclass(frozen=True)
class Reading:
    width: int
    height: int
    plates: tuple[Plate, ...]


class Reader:
    """Loads the models when it is made: about a second and 250 MB. One picture at
    a time, decoding too, which bounds what strangers can make it use."""

    def __init__(self, memory: int, threads: int = 1) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._engine = RapidOCR(
            params={
                "Global.use_cls": False,  # plates are not upside down
                "Global.log_level": "error",
                "Det.limit_type": "max",
                "Det.limit_side_len": SIGHT,
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            }
        )
        self._engine(np.zeros((480, SIGHT, 3), np.uint8))  # the first time takes longer

    def read(self, data: bytes, region: str = "") -> Reading:
        """region: of the templates, whose fit decides between candidates. Raises Unreadable."""
        with self._lock:
            picture, width, height = decode(data, self._memory)
            found = self._engine(picture)
        scale = width / picture.shape[1]
        plates = []
        lines = zip(found.boxes, found.txts, found.scores, strict=True) if found.txts else ()
        for box, text, score in lines:
            plate = re.sub("[^A-Z0-9]", "", text.upper())
            if PLATE.fullmatch(plate):
                corners = tuple((round(x * scale), round(y * scale)) for x, y in box.tolist())
                ranked = _candidates(plate, 100 * float(score), TEMPLATES.get(region, ""))
                plates.append(Plate(ranked, corners))
        plates.sort(key=lambda plate: -plate.best.confidence)
        return Reading(width, height, tuple(plates))


def _candidates(text: str, confidence: float, template: str) -> tuple[Candidate, ...]:
    """What was read, and the same with one sign taken for its twin: those that fit come first."""
    ranked = [Candidate(text, confidence, _fits(text, template))]
    for other in _twins(text):
        if PLATE.fullmatch(other):
            ranked.append(Candidate(other, confidence * 0.8, _fits(other, template)))
    ranked.sort(key=lambda candidate: (not candidate.fits, -candidate.confidence))
    return tuple(ranked)


def _fits(text: str, template: str) -> bool:
    return bool(template and re.fullmatch(template, text))


def _twins(text: str) -> Iterator[str]:
    for place, sign in enumerate(text):
        if sign in TWINS:
            yield text[:place] + TWINS[sign] + text[place + 1 :]
