"""A check that hangs, and does not even end when it is told to, holds up no answer."""

from __future__ import annotations

import asyncio
import threading

import pytest

from araponga_infra.health import AsyncHealthChecks, HealthChecks, PartHealth, PartState

HEALTHY = PartHealth(PartState.HEALTHY)
SHORT, LONG = 0.05, 30.0


@pytest.mark.anyio
async def test_on_an_event_loop() -> None:
    checks, released, calls = AsyncHealthChecks(), asyncio.Event(), 0

    async def hang() -> PartHealth:
        nonlocal calls
        calls += 1
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return HEALTHY

    async def answer() -> PartHealth:
        return HEALTHY

    for _ in range(2):
        found = await checks.run({"stuck": hang, "well": answer}, SHORT)
        assert (found["stuck"].state, found["well"].state) == (PartState.DOWN, PartState.HEALTHY)
    assert calls == 1
    released.set()
    both = await asyncio.gather(checks.run({"stuck": hang}, LONG), checks.run({"stuck": hang}, LONG))
    assert list(both) == [{"stuck": HEALTHY}, {"stuck": HEALTHY}]
    await checks.aclose()


@pytest.mark.anyio
async def test_what_still_runs_is_ended_at_the_close() -> None:
    checks, is_ended = AsyncHealthChecks(), asyncio.Event()

    async def hang() -> PartHealth:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            is_ended.set()
            raise
        return HEALTHY

    first = asyncio.create_task(checks.run({"stuck": hang}, LONG))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await checks.aclose()
    assert is_ended.is_set()
    assert (await first)["stuck"].state is PartState.DOWN


def test_in_threads() -> None:
    checks, released, calls = HealthChecks(), threading.Event(), 0

    def hang() -> PartHealth:
        nonlocal calls
        calls += 1
        released.wait(LONG)
        return HEALTHY

    for _ in range(2):
        assert checks.run({"stuck": hang}, SHORT)["stuck"].state is PartState.DOWN
    assert calls == 1
    released.set()
    assert checks.run({"stuck": hang}, LONG) == {"stuck": HEALTHY}
