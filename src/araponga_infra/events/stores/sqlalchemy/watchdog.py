"""Ends calls that a network swallowed: a sync driver waits for an answer for ever, unless its socket is shut down."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

__all__ = ["Watchdog"]

_TICK_SECONDS = 0.25
_logger = logging.getLogger("araponga_infra.events")


class Watchdog:
    """Watches a processor's own short transactions, in a thread of its own while it is started.

    Args:
        limit_seconds: how long one may take. Its connection is then shut down, and its caller gets the driver's error.
    """

    def __init__(self, limit_seconds: float = 3.0) -> None:
        self._limit_seconds = limit_seconds
        self._busy: dict[int, tuple[float, Any]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="araponga-events-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2 * _TICK_SECONDS)
            self._thread = None

    @contextmanager
    def watch(self, connection: Connection) -> Generator[None, None, None]:
        """End what happens on `connection` meanwhile when it takes too long."""
        if self._thread is None:
            yield
            return
        key = id(connection)
        self._busy[key] = time.monotonic(), connection.connection.driver_connection
        try:
            yield
        finally:
            del self._busy[key]

    def _run(self) -> None:
        while not self._stop.wait(_TICK_SECONDS):
            begun_before = time.monotonic() - self._limit_seconds
            for begun, driver in list(self._busy.values()):
                if begun < begun_before:
                    _shut_down(driver)


def _shut_down(driver: Any) -> None:
    try:
        with socket.socket(fileno=os.dup(driver.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)
    except Exception as error:
        _logger.debug("a call that took too long has ended by itself: %s", type(error).__name__)
