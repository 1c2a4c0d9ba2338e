"""A clock that moves only when it is told to."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

from araponga_infra.clock import Duration, to_seconds

__all__ = ["FakeClock"]

_START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """A `Clock` for tests: time stands still until `advance`, and a sleep moves it on at once instead of waiting.

    Args:
        start: the first value of `now()`, timezone-aware; 2026-01-01 00:00 UTC by default.

    Thread-safe.

    Examples:
        >>> clock = FakeClock()
        >>> clock.sleep(90)
        >>> clock.now().isoformat()
        '2026-01-01T00:01:30+00:00'
    """

    def __init__(self, start: datetime = _START) -> None:
        self._start = start.astimezone(UTC)
        self._elapsed_seconds = 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed_seconds)

    def monotonic(self) -> float:
        return self._elapsed_seconds

    def advance(self, duration: Duration) -> None:
        """Move the time on by a `timedelta` or seconds."""
        seconds = to_seconds(duration, "duration")
        with self._lock:
            self._elapsed_seconds += seconds

    def sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))

    async def async_sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))
        await asyncio.sleep(0)

    def __repr__(self) -> str:
        return f"FakeClock({self.now().isoformat()})"
