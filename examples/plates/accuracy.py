"""How well drawn photos are read, and what that lets expect of others.

    python photos.py --seed 7 --each 40 DIRECTORY; python -m plates.accuracy DIRECTORY

says for every kind how many were read without a mistake, and the rate that is exceeded with 95 %
confidence (Clopper and Pearson's lower bound).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from math import comb
from pathlib import Path


def at_most(right: int, asked: int, rate: float) -> float:
    """The probability of so many or fewer, if each is read with this probability."""
    return sum(comb(asked, k) * rate**k * (1 - rate) ** (asked - k) for k in range(right + 1))


def lower_bound(right: int, asked: int, confidence: float = 0.95) -> float:
    """The least rate at which so many or more are not improbable; to four digits."""
    low, high = 0.0, 1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        if 1 - at_most(right - 1, asked, middle) < 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def main() -> None:
    from plates.config import Config
    from plates.reader import Reader

    reader = Reader(Config().max_decoded, threads=2)
    directory = Path(sys.argv[1])
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for name, truth in json.loads((directory / "plates.json").read_text()).items():
        plates = reader.read((directory / name).read_bytes()).plates
        for kind in (truth["kind"], "of all kinds"):
            asked[kind] += 1
            right[kind] += bool(plates) and plates[0].best.text == truth["plate"]
    for kind, count in asked.items():
        bound = lower_bound(right[kind], count)
        print(f"{kind}: {right[kind]} of {count}, expect {bound:.3f}")


if __name__ == "__main__":
    main()
