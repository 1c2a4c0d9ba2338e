"""SQLite for a service: what a file shared by threads and processes wants, and a file that comes and goes."""

from __future__ import annotations

import logging
import os
import shutil
import time
import weakref
from pathlib import Path
from sqlite3 import OperationalError
from tempfile import mkdtemp
from typing import Any

from sqlalchemy import Engine, event

__all__ = ["EmbeddedDatabase", "tune_sqlite"]

_logger = logging.getLogger("araponga_infra.infrastructure")
_BUSY_TIMEOUT_MS = 5000
_WAL_RETRY_SECONDS = 0.005


def tune_sqlite(engine: Engine) -> None:
    """Readers beside a writer (WAL), foreign keys that are checked, and a bounded wait for the one writer."""

    def on_connect(dbapi_connection: Any, _record: object) -> None:
        cursor = dbapi_connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        _use_wal(cursor)
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    event.listen(engine, "connect", on_connect)


def _use_wal(cursor: Any) -> None:
    """Switch once; the file remembers. SQLite does not wait here, however long the busy timeout, so we do."""
    give_up_at = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except OperationalError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(_WAL_RETRY_SECONDS)
        else:
            return


class EmbeddedDatabase:
    """A SQLite file in a temporary folder, gone at `close` or with the process.

    Processes forked after it was made share the file; only the one that made it removes it.
    """

    def __init__(self) -> None:
        folder = mkdtemp(prefix="araponga-")
        self.url: str = f"sqlite:///{Path(folder) / 'araponga.db'}"
        self._finalizer = weakref.finalize(self, _remove, folder, os.getpid())
        _logger.warning(
            "no database is named: embedded SQLite in %s, gone at close; set ARAPONGA_DATABASE_URL to keep data", folder
        )

    def close(self) -> None:
        self._finalizer()


def _remove(folder: str, owner_pid: int) -> None:
    if os.getpid() == owner_pid:
        shutil.rmtree(folder, ignore_errors=True)
