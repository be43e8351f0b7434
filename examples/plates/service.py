"""What is behind the requests: reads, stores, answers."""

from __future__ import annotations

import base64
import hashlib
import time

from plates.config import Config
from plates.courier import Courier, Database
from plates.intake import Query
from plates.picture import Unreadable
from plates.reader import Plate, Reader
from plates.spool import Spool
from serving.handler import Answer, Refused


class Service:
    """What is behind the requests."""

    def __init__(self, config: Config) -> None:
        """Raises OSError if the spool can't be used."""
        self.config = config
        self.spool = Spool(config.spool, config.spool_limit)
        self.courier = Courier(self.spool, Database(config), config.batch_seconds)
        self.reader = Reader(config.max_decoded, config.threads)
        if config.database:
            self.courier.start()

    def recognize(self, image: bytes, asked: Query) -> Answer:
        """Reads, stores, answers. Raises Refused."""
        began = time.time()
        try:
            reading = self.reader.read(image, asked.state)
        except Unreadable as error:
            raise Refused(400, str(error)) from None
        took = (time.time() - began) * 1000
        self._store(image, asked, reading.plates, began)
        width, height = reading.width, reading.height
        answer: Answer = {
            "version": 2,
            "data_type": "alpr_results",
            "epoch_time": int(began * 1000),
            "img_width": width,
            "img_height": height,
            "processing_time_ms": took,
            "processing_time": {"total": took, "plates": took, "vehicles": 0.0},
            "credit_cost": 0,
            "credits_monthly_used": 0,
            "credits_monthly_total": 0,
            "regions_of_interest": [{"x": 0, "y": 0, "width": width, "height": height}],
            "results": [_result(plate, asked, took) for plate in reading.plates],
        }
        if asked.return_image:
            answer["image_bytes"] = base64.b64encode(image).decode()
        return answer

    def _store(self, image: bytes, asked: Query, plates: tuple[Plate, ...], when: float) -> None:
        """The key says what was seen, so that a photo that is sent twice is one record."""
        records = []
        for number, plate in enumerate(plates):
            seen = f"{number} {plate.best.text} {asked.camera}".encode()
            records.append(
                {
                    "id": hashlib.sha256(image + seen).hexdigest()[:32],
                    "taken": _timestamp(when),
                    "camera": asked.camera,
                    "plate": plate.best.text,
                    "confidence": round(plate.best.confidence, 2),
                    "region": asked.state or asked.country,
                    "site": self.config.site,
                }
            )
        try:
            if records:
                self.spool.append(records)
        except OSError as error:
            words = f"what was read can't be stored ({error.strerror}); nothing was, send it again"
            raise Refused(503, words) from None

    def status(self) -> Answer:
        return {
            "site": self.config.site,
            "database": self._database(),
            "waiting": self.spool.count(),
            "aside": self.spool.count_aside(),
            "delivered": self.courier.delivered,
        }

    def _database(self) -> str:
        """ok: so it was when something was last brought there."""
        if not self.config.database:
            return "none"
        return self.courier.trouble or ("ok" if self.courier.delivered else "not tried yet")


def _timestamp(when: float) -> str:
    """In UTC, with milliseconds, as SQL writes it."""
    seconds = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(when))
    return f"{seconds}.{int(when * 1000) % 1000:03d}"


def _result(plate: Plate, asked: Query, took: float) -> Answer:
    return {
        "plate": plate.best.text,
        "confidence": plate.best.confidence,
        "matches_template": int(plate.best.fits),
        "requested_topn": asked.topn,
        "region": asked.state or asked.country,
        "region_confidence": 0,  # nobody has looked, it is what was asked for
        "processing_time_ms": took,
        "coordinates": [{"x": x, "y": y} for x, y in plate.corners],
        "candidates": [
            {"plate": c.text, "confidence": c.confidence, "matches_template": int(c.fits)}
            for c in plate.candidates[: asked.topn]
        ],
    }
