"""Ends calls that a network swallowed: a driver waits for an answer for ever, unless its connection is shut down."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from sqlalchemy import Connection

from araponga_infra.events.patience import Patience

__all__ = ["AsyncWatchdog", "Watchdog", "Watching"]

_TICK_SECONDS = 0.1
_logger = logging.getLogger("araponga_infra.events")


class Watching(Protocol):
    """Watches a processor's own short transactions."""

    def start(self) -> None: ...

    def close(self) -> None: ...

    def watch(self, connection: Connection, patience: Patience) -> AbstractContextManager[None]:
        """End what happens on `connection` meanwhile when it takes too long: its caller gets the driver's error."""
        ...


class _Call:
    def __init__(self, connection: Connection, patience: Patience) -> None:
        self.driver: Any = connection.connection.driver_connection
        self.patience = patience
        self.begun = time.monotonic()
        self.ends_at = self.begun + patience.seconds
        self.is_given_up = False

    def give_up(self) -> None:
        self.is_given_up = True
        _shut_down(self.driver)

    def note(self) -> None:
        """Learn from how it went."""
        if self.is_given_up:
            self.patience.gave_up()
        else:
            self.patience.answered(time.monotonic() - self.begun)


class Watchdog:
    """For a sync driver: in a thread of its own while it is started."""

    def __init__(self) -> None:
        self._calls: set[_Call] = set()
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
    def watch(self, connection: Connection, patience: Patience) -> Generator[None, None, None]:
        if self._thread is None:
            yield
            return
        call = _Call(connection, patience)
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)
            call.note()

    def _run(self) -> None:
        while not self._stop.wait(_TICK_SECONDS):
            now = time.monotonic()
            for call in tuple(self._calls):
                if call.ends_at < now:
                    call.give_up()


class AsyncWatchdog:
    """For an async driver, while it is started: by a timer of the loop that runs the call."""

    def __init__(self) -> None:
        self._is_started = False

    def start(self) -> None:
        self._is_started = True

    def close(self) -> None:
        self._is_started = False

    @contextmanager
    def watch(self, connection: Connection, patience: Patience) -> Generator[None, None, None]:
        if not self._is_started:
            yield
            return
        call = _Call(connection, patience)
        timer = asyncio.get_running_loop().call_at(call.ends_at, call.give_up)
        try:
            yield
        finally:
            timer.cancel()
            call.note()


def _shut_down(driver: Any) -> None:
    """Without a word to the other side, which would wait for its answer."""
    try:
        if hasattr(driver, "terminate"):
            driver.terminate()
            return
        with socket.socket(fileno=os.dup(driver.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)
    except Exception as error:
        _logger.debug("a call that took too long has ended by itself: %s", type(error).__name__)
