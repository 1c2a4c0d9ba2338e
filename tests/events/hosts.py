"""Processors over each store, sync and async, behind one way to call them."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from araponga_infra.events import (
    AsyncBackgroundEventProcessor,
    BackgroundEventProcessor,
    EventRouter,
    EventStoreSource,
    event,
)

HOSTS = tuple(f"{store}-{kind}" for store in ("memory", "sqlite", "postgres", "redis") for kind in ("sync", "async"))

RESUMED_WITHIN_SECONDS = 2.0
BUSY_SECONDS = 1.0
"""What a machine under load may take on top."""


@event("tests.happened", version=1)
@dataclass(frozen=True)
class Happened:
    number: int


@event("tests.followed", version=1)
@dataclass(frozen=True)
class Followed:
    number: int


async def settled(result: Any) -> Any:
    """What a sync method gave, or an async one after awaiting it."""
    return await result if inspect.isawaitable(result) else result


async def eventually(is_true: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait, within bounds, until something holds."""
    deadline = time.monotonic() + seconds
    while not await settled(is_true()):
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.01)


async def resumed(is_true: Callable[[], Any]) -> None:
    """From the moment on that the store is back."""
    await eventually(is_true, seconds=RESUMED_WITHIN_SECONDS + BUSY_SECONDS)


class Host:
    """One store, and processors of one kind on it."""

    def __init__(self, source: EventStoreSource, *, is_async: bool, engine: Any, stack: AsyncExitStack) -> None:
        self.source = source
        self.is_async = is_async
        self.engine = engine
        self._stack = stack

    def make(self, *routers: EventRouter, **options: Any) -> Any:
        kind = AsyncBackgroundEventProcessor if self.is_async else BackgroundEventProcessor
        return kind(self.source, routers=routers, **options)

    async def started(self, *routers: EventRouter, **options: Any) -> Any:
        processor = self.make(*routers, **options)
        await settled(processor.start())
        self._stack.push_async_callback(self.stop, processor)
        return processor

    async def run_until_idle(self, processor: Any, **options: Any) -> Any:
        """A sync processor's run belongs into a thread without an event loop."""
        if self.is_async:
            return await processor.run_until_idle(**options)
        return await asyncio.to_thread(processor.run_until_idle, **options)

    async def stop(self, processor: Any, grace: float = 5.0) -> None:
        await settled(processor.stop(grace))
