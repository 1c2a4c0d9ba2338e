from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from araponga_infra import InvalidArgumentError
from araponga_infra.clock import SYSTEM_CLOCK, Clock, to_seconds
from araponga_infra.testing.clock import FakeClock


def test_the_system_clock_is_aware_and_monotonic() -> None:
    assert SYSTEM_CLOCK.now().tzinfo is UTC
    assert SYSTEM_CLOCK.monotonic() <= SYSTEM_CLOCK.monotonic()


def test_a_fake_clock_moves_only_when_told_to() -> None:
    clock: Clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    before = clock.now(), clock.monotonic()
    assert (clock.now(), clock.monotonic()) == before
    assert isinstance(clock, FakeClock)
    clock.advance(timedelta(minutes=1))
    assert clock.now() - before[0] == timedelta(minutes=1)
    assert clock.monotonic() - before[1] == 60


@pytest.mark.anyio
async def test_sleeping_on_a_fake_clock_moves_it() -> None:
    clock = FakeClock()
    clock.sleep(1)
    await clock.async_sleep(2)
    assert clock.monotonic() == 3


@pytest.mark.parametrize(("duration", "seconds"), [(0, 0), (1.5, 1.5), (timedelta(minutes=2), 120)])
def test_durations_are_timedeltas_or_seconds(duration: float | timedelta, seconds: float) -> None:
    assert to_seconds(duration, "ttl") == seconds


@pytest.mark.parametrize("duration", [-1, float("inf"), float("nan"), "1", None, True, timedelta(seconds=-1)])
def test_a_bad_duration_names_its_argument(duration: float) -> None:
    with pytest.raises(InvalidArgumentError, match="ttl="):
        to_seconds(duration, "ttl")


def test_zero_can_be_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="more than 0"):
        to_seconds(0, "timeout", allow_zero=False)
