"""Wake-ups for a fetcher: any number of calls, from any thread, become one."""

from __future__ import annotations

import asyncio
import threading

__all__ = ["AsyncSignal", "Signal"]


class Signal:
    """For a fetcher in a thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_set = False
        self._is_urgent = False

    def set(self, is_urgent: bool = True) -> None:
        if self._is_urgent or (self._is_set and not is_urgent):
            return
        with self._changed:
            self._is_set = True
            self._is_urgent = self._is_urgent or is_urgent
            self._changed.notify()

    def relax(self) -> None:
        """What was urgent has been done meanwhile; what is left can linger."""
        self._is_urgent = False

    def wait(self, timeout_seconds: float, linger_seconds: float) -> None:
        """Return when set, after a moment more when that was not urgent, or when the time is up."""
        with self._changed:
            if not self._is_set:
                self._changed.wait(timeout_seconds)
            if self._is_set and not self._is_urgent:
                self._changed.wait(linger_seconds)
            self._is_set = self._is_urgent = False


class AsyncSignal:
    """For a fetcher in a task; made on its loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._waiter: asyncio.Future[None] | None = None
        self._is_set = False
        self._is_urgent = False

    def set(self, is_urgent: bool = True) -> None:
        if self._is_urgent or (self._is_set and not is_urgent):
            return
        self._is_set = True
        self._is_urgent = self._is_urgent or is_urgent
        if threading.get_ident() == self._thread:
            self._release()
            return
        try:
            self._loop.call_soon_threadsafe(self._release)
        except RuntimeError:
            return

    def relax(self) -> None:
        """What was urgent has been done meanwhile; what is left can linger."""
        self._is_urgent = False

    def _release(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, timeout_seconds: float, linger_seconds: float) -> None:
        """Return when set, after a moment more when that was not urgent, or when the time is up."""
        if not self._is_set:
            await self._pause(timeout_seconds)
        if self._is_set and not self._is_urgent:
            await self._pause(linger_seconds)
        self._is_set = self._is_urgent = False

    async def _pause(self, seconds: float) -> None:
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._release)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None
