"""Brings what is in the spool to the database: in batches, again and again until it is there.

A record's key is the table's primary key and what is there stays as it is, so that a batch of which
nobody knows whether it arrived can be sent once more.
"""

from __future__ import annotations

import contextlib
import ssl
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pymysql

from plates.config import Config
from plates.spool import Record, Spool

COLUMNS = ("id", "taken", "camera", "plate", "confidence", "region", "site")
INSERT = (
    f"INSERT IGNORE INTO plates ({', '.join(COLUMNS)}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"
)
BATCH = 100
LOOK = 5.0  # s until it looks whether another server has died and left something
FIRST_DELAY, LAST_DELAY = 1.0, 4.0  # s between two tries


def fits(record: Record) -> bool:
    """Whether the table takes it. One that does not must not hold up those behind it."""
    return all(isinstance(record.get(column), str | int | float) for column in COLUMNS)


class Database:
    """A connection that is made when it is needed, and kept: a TLS handshake costs more bytes than
    a day's quiet. The certificate must be of `database_ca` and for the host."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._connection: Any = None

    def insert(self, records: Sequence[Record]) -> None:
        """All of them or none; they `fit`. Raises what pymysql does, OSError."""
        if self._connection is None:
            self._connection = self._connect()
        with self._connection.cursor() as cursor:
            cursor.executemany(INSERT, [[r[column] for column in COLUMNS] for r in records])

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it may be broken already
                connection.close()

    def _connect(self) -> Any:
        config = self._config
        host, _, port = config.database.rpartition(":")
        if config.database_ca:
            Path(config.database_ca).stat()  # ssl would not say what is missing
        seconds = config.database_seconds
        password = ""
        if config.database_password_file:
            password = Path(config.database_password_file).read_text().strip()
        return pymysql.connect(
            host=host.strip("[]"), port=int(port), user=config.database_user, password=password,
            database="plates", autocommit=True, charset="utf8mb4",
            connect_timeout=seconds, read_timeout=seconds, write_timeout=seconds,
            ssl=ssl.create_default_context(cafile=config.database_ca or None),
        )  # fmt: skip


class Courier(threading.Thread):
    """trouble: why nothing can be delivered at the moment, or nothing."""

    def __init__(self, spool: Spool, database: Database, wait: float) -> None:
        super().__init__(name="courier", daemon=True)
        self.delivered = 0
        self.trouble = ""
        self._spool = spool
        self._database = database
        self._wait = wait
        self._ending = threading.Event()
        self._delay = FIRST_DELAY

    def run(self) -> None:
        while not self._ending.is_set():
            self._spool.filled.wait(LOOK)
            self._spool.filled.clear()
            self._ending.wait(self._wait)  # what comes meanwhile goes along
            if not self.deliver():
                self._spool.filled.set()
                self._ending.wait(self._delay)
                self._delay = min(2 * self._delay, LAST_DELAY)

    def deliver(self) -> bool:
        """All that is there. False if it could not be; `trouble` says why."""
        try:
            while segment := self._spool.take():
                with segment:
                    found = segment.records()
                    records = [r for r in found if fits(r)]
                    for start in range(0, len(records), BATCH):
                        self._database.insert(records[start : start + BATCH])
                    if strange := [r for r in found if not fits(r)]:
                        path = segment.put_aside(strange)
                        print(f"{len(strange)} records are not of this version's kind and are put "
                              f"aside: {path}", file=sys.stderr, flush=True)  # fmt: skip
                    segment.delivered()
                    self.delivered += len(records)
        except Exception as error:  # whatever it is, it is tried again
            self._database.close()
            words = f"{type(error).__name__}: {error}"
            if words != self.trouble:
                print(f"the database can't be reached, what is recognised waits: {words}",
                      file=sys.stderr, flush=True)  # fmt: skip
            self.trouble = words
            return False
        if self.trouble:
            print("the database is there again", file=sys.stderr, flush=True)
        self.trouble = ""
        self._delay = FIRST_DELAY
        return True

    def end(self, seconds: float) -> None:
        """One more try, for so long; the rest waits on disk for the next start."""
        self._ending.set()
        self._spool.filled.set()
        if self.is_alive():
            self.join(seconds)
