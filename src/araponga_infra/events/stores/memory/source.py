"""The store that hosts make."""

from __future__ import annotations

import threading

from araponga_infra.clock import SYSTEM_CLOCK, Clock
from araponga_infra.events.lifecycle import positive
from araponga_infra.events.protocols import AsyncEventStore, EventStore
from araponga_infra.events.stores.memory.queues import CAPABILITIES, MemoryStore
from araponga_infra.events.stores.memory.shells import AsyncMemoryStore
from araponga_infra.events.values import Capabilities

__all__ = ["InMemoryEventStore"]


class InMemoryEventStore:
    """Keeps deliveries in this process: for embedded use, for tests, and where losing events with it is acceptable.

    Serves sync and async processors, several of them at once, from any thread. How many deliveries it takes is the
    processor's `max_queued`. An event without a subscriber is counted and logged, not kept.

    It fails only when it is full: `QueueFullError`, or waiting, as the processor's `when_full` says. What it holds when
    the process ends is lost, and `stop()` works it off as far as the grace allows.

    Args:
        max_dead: dead letters kept; beyond it the oldest goes.

    Examples:
        >>> processor = BackgroundEventProcessor(InMemoryEventStore(), routers=[router])
    """

    capabilities: Capabilities = CAPABILITIES

    def __init__(self, *, max_dead: int = 10_000) -> None:
        self._max_dead = positive(max_dead, "max_dead")
        self._store: MemoryStore | None = None
        self._lock = threading.Lock()

    def sync_store(self, clock: Clock | None = None) -> EventStore:
        return self._shared(clock)

    def async_store(self, clock: Clock | None = None) -> AsyncEventStore:
        return AsyncMemoryStore(self._shared(clock))

    def _shared(self, clock: Clock | None) -> MemoryStore:
        """One set of queues, on the clock of whoever came first."""
        with self._lock:
            if self._store is None:
                self._store = MemoryStore(clock or SYSTEM_CLOCK, self._max_dead)
            return self._store

    def __repr__(self) -> str:
        return "InMemoryEventStore()"
