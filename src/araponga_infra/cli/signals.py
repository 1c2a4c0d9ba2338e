"""How a worker is told to stop: SIGTERM or SIGINT asks it to, a second SIGINT insists."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from araponga_infra.errors import ArapongaInfraError

__all__ = ["INTERRUPTED", "NotInMainThreadError", "StopSignals"]

_logger = logging.getLogger("araponga_infra.worker")
_ASKING = (signal.SIGTERM, signal.SIGINT)
INTERRUPTED = 128 + signal.SIGINT
"""The exit status of a process that SIGINT has ended, as shells count it."""


class NotInMainThreadError(ArapongaInfraError, RuntimeError):
    """Signals reach the main thread alone; elsewhere, start and stop a processor yourself."""


class StopSignals:
    """Waits for the request to stop, on a thread or on an event loop.

    The handler only writes to a pipe: whatever takes a lock could wait for the very code that it interrupts. Before
    anybody waits, as while a database that hangs is being opened, there is nothing to drain and the process ends.
    """

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Any] = {}
        self._is_asked = False
        self._is_awaited = False
        self._reader = self._writer = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            raise NotInMainThreadError(
                "a worker listens to signals, which reach the main thread alone: call run_worker there, or start and "
                "stop a BackgroundEventProcessor yourself"
            )
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        for number in _ASKING:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self) -> None:
        """Block until a stop is asked for."""
        self._is_awaited = True
        select.select([self._reader], [], [])
        _logger.info("asked to stop")

    async def async_wait(self) -> None:
        """Suspend this task until a stop is asked for."""
        self._is_awaited = True
        loop, asked = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._reader, asked.set)
        try:
            await asked.wait()
        finally:
            loop.remove_reader(self._reader)
        _logger.info("asked to stop")

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._is_asked and number == signal.SIGINT:
            os._exit(INTERRUPTED)
        if not self._is_asked:
            self._is_asked = True
            if not self._is_awaited:
                raise SystemExit(0)
            os.write(self._writer, b"!")
