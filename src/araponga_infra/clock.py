"""Time, injectable: every part takes `clock=`, so that tests move time instead of waiting for it."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias

from araponga_infra.errors import InvalidArgumentError

__all__ = ["SYSTEM_CLOCK", "Clock", "Duration", "SystemClock", "to_seconds"]

Duration: TypeAlias = timedelta | float
"""A `timedelta` or a number of seconds."""


class Clock(Protocol):
    """What the parts ask of time. `araponga_infra.testing.FakeClock` is the one for tests."""

    def now(self) -> datetime:
        """The wall clock: an aware datetime in UTC. For due times that other processes read, never for measuring."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start that never step back. For measuring and for expiry within a process."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block this thread for `seconds`."""
        ...

    async def async_sleep(self, seconds: float) -> None:
        """Suspend this task for `seconds`; other tasks go on."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def async_sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def __repr__(self) -> str:
        return "SystemClock()"


SYSTEM_CLOCK = SystemClock()


def to_seconds(duration: Duration, argument: str, *, allow_zero: bool = True) -> float:
    """Read a `Duration` argument as seconds.

    Args:
        duration: a `timedelta` or a number of seconds.
        argument: the name the caller knows it by, for the message.
        allow_zero: whether 0 makes sense there.

    Raises:
        InvalidArgumentError: not a duration, negative, not finite, or zero where that makes no sense.
    """
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, (int, float)) and not isinstance(duration, bool):
        seconds = float(duration)
    else:
        raise InvalidArgumentError(
            f"{argument}={duration!r} is not a duration: pass a timedelta or a number of seconds"
        )
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not allow_zero):
        floor = "0 or more" if allow_zero else "more than 0"
        raise InvalidArgumentError(f"{argument}={duration!r} must be {floor} seconds and finite")
    return seconds
