"""What an operator does with events: the same over a sync and an async processor, which is used but never started."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from araponga_infra.cli.targets import Target, TargetError
from araponga_infra.events import (
    AsyncBackgroundEventProcessor,
    BackgroundEventProcessor,
    DeadLetter,
    DeadReason,
    EventRouter,
    EventStats,
    Page,
)
from araponga_infra.infrastructure import AsyncInfrastructure, Infrastructure
from araponga_infra.settings import InfraSettings

__all__ = ["Operator", "Wanted", "operator"]

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """Which dead letters are meant; None matches every one."""

    event: str | None = None
    handler: str | None = None
    reason: DeadReason | None = None

    def count_in(self, stats: EventStats) -> int | None:
        """How many there are, or None where the figures do not tell reasons apart."""
        if self.reason is not None:
            return None
        return sum(
            each.dead
            for each in stats.handlers
            if self.event in (None, each.event) and self.handler in (None, each.handler)
        )


class Operator:
    """Statistics and dead letters of one processor's store."""

    def __init__(self, events: BackgroundEventProcessor | AsyncBackgroundEventProcessor) -> None:
        self._events = events

    async def stats(self) -> EventStats:
        return await _settled(self._events.stats())

    async def page(self, wanted: Wanted, *, limit: int, after: str | None = None) -> Page[DeadLetter]:
        listed = self._events.dead_letters.list(
            event=wanted.event, handler=wanted.handler, reason=wanted.reason, limit=limit, after=after
        )
        return await _settled(listed)

    async def get(self, letter: str) -> DeadLetter:
        return await _settled(self._events.dead_letters.get(letter))

    async def redrive(self, letter: str) -> None:
        await _settled(self._events.dead_letters.redrive(letter))

    async def redrive_all(self, wanted: Wanted, on_progress: Callable[[int], object]) -> int:
        """Try again all that match; `on_progress` is called with their number as it grows."""
        redriven = self._events.dead_letters.redrive_all(
            event=wanted.event, handler=wanted.handler, reason=wanted.reason, on_progress=on_progress
        )
        return await _settled(redriven)

    async def discard(self, letter: str) -> None:
        await _settled(self._events.dead_letters.discard(letter))

    async def discard_all(self, wanted: Wanted, older_than_seconds: float, on_progress: Callable[[int], object]) -> int:
        """Forget all that match and died longer ago than that; `on_progress` as for `redrive_all`."""
        discarded = self._events.dead_letters.purge(
            older_than_seconds,
            event=wanted.event,
            handler=wanted.handler,
            reason=wanted.reason,
            on_progress=on_progress,
        )
        return await _settled(discarded)


@asynccontextmanager
async def operator(target: Target | None) -> AsyncGenerator[Operator, None]:
    """An operator of the store that `target` uses, or that the environment names; no handler runs meanwhile."""
    async with AsyncExitStack() as closing:
        if isinstance(target, EventRouter):
            raise TargetError("a router has no store: name a processor or an Infrastructure, or leave --app out")
        if isinstance(target, BackgroundEventProcessor):
            closing.callback(target.stop)
            yield Operator(target)
        elif isinstance(target, AsyncBackgroundEventProcessor):
            closing.push_async_callback(target.stop)
            yield Operator(target)
        elif isinstance(target, AsyncInfrastructure):
            infra = await closing.enter_async_context(AsyncInfrastructure(target.settings, consume=False))
            yield Operator(infra.events)
        else:
            settings = InfraSettings.from_env() if target is None else target.settings
            yield Operator(closing.enter_context(Infrastructure(settings, consume=False)).events)


async def _settled(value: T | Awaitable[T]) -> T:
    """The value itself, from a sync part or an async one."""
    either: Any = value
    settled: T = await either if inspect.isawaitable(either) else either
    return settled
