"""The queues as async code asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from araponga_infra.events.protocols import Settlement, Wake
from araponga_infra.events.stores.memory.queues import CAPABILITIES, MemoryLeaseKeeper, MemoryListener, MemoryStore
from araponga_infra.events.values import (
    Appended,
    DeadFilter,
    DeadLetter,
    EventStats,
    Exchange,
    Message,
    Page,
    Receipt,
    Subscription,
    Want,
)

__all__ = ["AsyncMemoryStore"]


class AsyncMemoryStore:
    """The same queues for async code: nothing here blocks, so nothing is awaited."""

    capabilities = CAPABILITIES

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def register(self, subscriptions: Sequence[Subscription]) -> Mapping[str, str]:
        return self._store.register(subscriptions)

    async def forget(self, handler: str) -> None:
        self._store.forget(handler)

    async def append(self, messages: Sequence[Message], *, capacity: int | None = None) -> Appended:
        return self._store.append(messages, capacity=capacity)

    async def wait_for_room(self, needed: int, capacity: int, timeout_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        freed = asyncio.Event()

        def from_any_thread() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(freed.set)

        if self._store.await_room(needed, capacity, from_any_thread):
            try:
                await asyncio.wait_for(freed.wait(), timeout_seconds)
            except TimeoutError:
                return

    async def exchange(
        self,
        owner: str,
        completed: Sequence[Receipt],
        settlements: Sequence[Settlement],
        wants: Sequence[Want],
        *,
        ignore_due: bool = False,
    ) -> Exchange:
        return self._store.exchange(owner, completed, settlements, wants, ignore_due=ignore_due)

    async def claim_alone(self, owner: str, handlers: Sequence[str]) -> Exchange:
        return self._store.claim_alone(owner, handlers)

    async def join(self, owner: str, lease_seconds: float) -> None:
        self._store.join(owner, lease_seconds)

    async def reconcile(self, owner: str, held: Sequence[str]) -> int:
        return self._store.reconcile(owner, held)

    async def leave(self, owner: str) -> None:
        self._store.leave(owner)

    def lease_keeper(self) -> MemoryLeaseKeeper:
        return self._store.lease_keeper()

    def listen(self, wake: Wake) -> MemoryListener:
        return self._store.listen(wake)

    async def pending(self, handlers: Sequence[str], *, ignore_due: bool = False) -> int:
        return self._store.pending(handlers, ignore_due=ignore_due)

    async def stats(self) -> EventStats:
        return self._store.stats()

    async def newest_dead(self) -> str | None:
        return self._store.newest_dead()

    async def dead_page(self, wanted: DeadFilter, limit: int, after: str | None) -> Page[DeadLetter]:
        return self._store.dead_page(wanted, limit, after)

    async def dead_letter(self, letter: str) -> DeadLetter | None:
        return self._store.dead_letter(letter)

    async def redrive(self, letters: Iterable[str]) -> int:
        return self._store.redrive(letters)

    async def discard(self, letters: Iterable[str]) -> int:
        return self._store.discard(letters)

    async def old_letters(self, wanted: DeadFilter, died_before: datetime, limit: int, after: str | None) -> Page[str]:
        return self._store.old_letters(wanted, died_before, limit, after)

    async def close(self) -> None:
        self._store.close()
