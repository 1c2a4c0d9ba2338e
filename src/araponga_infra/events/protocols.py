"""What a store must do, sync and async. Everything is in batches; a single event is a batch of one.

`EventStore` and `AsyncEventStore` have the same methods. A host names a *source* of stores, such as
`SqlAlchemyEventStore(engine)`; a processor asks it for the kind it can use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from araponga_infra.clock import Clock
from araponga_infra.events.lifecycle import Decision
from araponga_infra.events.values import (
    Appended,
    Capabilities,
    DeadFilter,
    DeadLetter,
    EventStats,
    Exchange,
    Message,
    Page,
    Reaped,
    Receipt,
    Subscription,
    Want,
)

__all__ = [
    "AsyncEventStore",
    "AsyncTransactionalStore",
    "EventStore",
    "EventStoreSource",
    "LeaseKeeper",
    "Settlement",
    "TransactionalSource",
    "TransactionalStore",
    "Wake",
    "WakeListener",
]

Settlement = tuple[Receipt, Decision]
"""A claimed delivery and what was decided about it, anything but completion."""

Wake = Callable[[], object]


class LeaseKeeper(Protocol):
    """Signs of life of one worker, given from a thread of their own and on a connection of their own."""

    def join(self, owner: str, lease_seconds: float) -> None:
        """Introduce a new identity."""
        ...

    def beat(self, owner: str, lease_seconds: float) -> bool:
        """Extend `owner`'s lease. False: it had expired and was taken; the worker needs a new identity."""
        ...

    def reap(self, handlers: Sequence[str]) -> Reaped:
        """Make deliveries of dead owners available again, each to be claimed alone."""
        ...

    def close(self) -> None: ...


class WakeListener(Protocol):
    """Calls a function, from any thread, when another process has published."""

    def close(self) -> None: ...


class EventStoreSource(Protocol):
    """What a processor is given: names a store and opens nothing until it is used."""

    @property
    def capabilities(self) -> Capabilities: ...

    def sync_store(self, clock: Clock | None = None) -> EventStore:
        """The store for a `BackgroundEventProcessor`.

        Raises:
            InvalidArgumentError: it can serve async code only.
        """
        ...

    def async_store(self, clock: Clock | None = None) -> AsyncEventStore:
        """The store for an `AsyncBackgroundEventProcessor`.

        Raises:
            InvalidArgumentError: it can serve sync code only.
        """
        ...


class EventStore(Protocol):
    """Keeps deliveries. All methods are thread-safe. Errors of the database or of Redis propagate as they are."""

    @property
    def capabilities(self) -> Capabilities: ...

    def register(self, subscriptions: Sequence[Subscription]) -> Mapping[str, str]:
        """Remember subscriptions; say which stored handler names stand for which of the handlers given.

        A name maps to itself; former names (`aliases`) map to the handler that took them over; a handler that another
        process has renamed meanwhile keeps taking deliveries under its new name, too.
        """
        ...

    def forget(self, handler: str) -> None:
        """Drop a subscription: nothing more is delivered to it. What waits for it becomes dead letters, a batch at a
        time; doing it again goes on where an error ended it."""
        ...

    def append(self, messages: Sequence[Message], *, capacity: int | None = None) -> Appended:
        """Fan messages out to the subscriptions, all or none.

        Raises:
            QueueFullError: the store is bounded and has no room for all of them; it says how much they need.
        """
        ...

    def wait_for_room(self, needed: int, capacity: int, timeout_seconds: float) -> None:
        """Return once a bounded store has room for `needed` deliveries, or after `timeout_seconds`."""
        ...

    def exchange(
        self,
        owner: str,
        completed: Sequence[Receipt],
        settlements: Sequence[Settlement],
        wants: Sequence[Want],
        *,
        ignore_due: bool = False,
    ) -> Exchange:
        """Acknowledge, and claim new deliveries, in one step.

        Args:
            owner: who claims. Acknowledgements are checked against the owner in their receipts.
            completed: deliveries that are done and can be forgotten.
            settlements: deliveries with another next state.
            wants: how many of which handler at most; suspects are not handed out here.
            ignore_due: hand out what is due later, as well.
        """
        ...

    def claim_alone(self, owner: str, handlers: Sequence[str]) -> Exchange:
        """Claim one suspect, counting an attempt at once: whoever runs it may not live to report."""
        ...

    def join(self, owner: str, lease_seconds: float) -> None:
        """Introduce a worker, before it claims."""
        ...

    def reconcile(self, owner: str, held: Sequence[str]) -> int:
        """Give back what `owner` holds in the store and does not know of, after an answer to a claim was lost."""
        ...

    def leave(self, owner: str) -> None:
        """A worker is gone; what it still holds is given back."""
        ...

    def lease_keeper(self) -> LeaseKeeper:
        """Signs of life; to be used and closed by one thread."""
        ...

    def listen(self, wake: Wake) -> WakeListener:
        """Call `wake`, from any thread, whenever something may have been published, until closed."""
        ...

    def pending(self, handlers: Sequence[str], *, ignore_due: bool = False) -> int:
        """How many deliveries of these handlers wait (and are due) or are running."""
        ...

    def stats(self) -> EventStats: ...

    def newest_dead(self) -> str | None:
        """An id that no dead letter is beyond: what is redriven from now on, and dies again, gets a greater one.

        None: there is no dead letter.
        """
        ...

    def dead_page(self, wanted: DeadFilter, limit: int, after: str | None) -> Page[DeadLetter]:
        """Dead letters, oldest id first, behind `after`. Does not grow with those that are not `wanted`."""
        ...

    def dead_letter(self, letter: str) -> DeadLetter | None: ...

    def redrive(self, letters: Iterable[str]) -> int:
        """Make dead letters available again with no attempts; one without a handler is fanned out anew.

        Returns how many were. Those that still have no subscriber stay dead letters.
        """
        ...

    def discard(self, letters: Iterable[str]) -> int:
        """Forget dead letters; returns how many there were."""
        ...

    def old_letters(self, wanted: DeadFilter, died_before: datetime, limit: int, after: str | None) -> Page[str]:
        """Ids of dead letters that died before a moment, behind `after`: those that are wanted of `limit` looked at, so
        that a page may have none and others follow."""
        ...

    def close(self) -> None: ...


class AsyncEventStore(Protocol):
    """The same for async code, on the event loop that uses it."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def register(self, subscriptions: Sequence[Subscription]) -> Mapping[str, str]: ...

    async def forget(self, handler: str) -> None: ...

    async def append(self, messages: Sequence[Message], *, capacity: int | None = None) -> Appended: ...

    async def wait_for_room(self, needed: int, capacity: int, timeout_seconds: float) -> None: ...

    async def exchange(
        self,
        owner: str,
        completed: Sequence[Receipt],
        settlements: Sequence[Settlement],
        wants: Sequence[Want],
        *,
        ignore_due: bool = False,
    ) -> Exchange: ...

    async def claim_alone(self, owner: str, handlers: Sequence[str]) -> Exchange: ...

    async def join(self, owner: str, lease_seconds: float) -> None: ...

    async def reconcile(self, owner: str, held: Sequence[str]) -> int: ...

    async def leave(self, owner: str) -> None: ...

    def lease_keeper(self) -> LeaseKeeper: ...

    def listen(self, wake: Wake) -> WakeListener: ...

    async def pending(self, handlers: Sequence[str], *, ignore_due: bool = False) -> int: ...

    async def stats(self) -> EventStats: ...

    async def newest_dead(self) -> str | None: ...

    async def dead_page(self, wanted: DeadFilter, limit: int, after: str | None) -> Page[DeadLetter]: ...

    async def dead_letter(self, letter: str) -> DeadLetter | None: ...

    async def redrive(self, letters: Iterable[str]) -> int: ...

    async def discard(self, letters: Iterable[str]) -> int: ...

    async def old_letters(
        self, wanted: DeadFilter, died_before: datetime, limit: int, after: str | None
    ) -> Page[str]: ...

    async def close(self) -> None: ...


class TransactionalSource(EventStoreSource, Protocol):
    """What a source with `capabilities.transactions` adds."""

    @property
    def is_async(self) -> bool:
        """Whether handlers can have an `AsyncSession`; else they can have a `Session`."""
        ...

    def append_in(
        self,
        session: Any,
        message: Message,
        on_commit: Wake,
        clock: Clock | None = None,
        note: Callable[[int, Appended], None] | None = None,
    ) -> None:
        """Write with `session`'s COMMIT, in its transaction; after it, call `on_commit`, and tell `note` how many
        messages were written and what became of them."""
        ...


class TransactionalStore(EventStore, Protocol):
    """A store whose handlers can have a session."""

    def run_in_session(self, receipt: Receipt, work: Callable[[Session], object]) -> object:
        """Run `work` and acknowledge, in one transaction.

        A `RetryLater` or `GiveUp` that `work` returns rolls back and acknowledges nothing.

        Raises:
            LeaseLostError: another owner holds the delivery by now; everything is rolled back.
            HandlerCommitError: `work` committed by itself.
        """
        ...


class AsyncTransactionalStore(AsyncEventStore, Protocol):
    """The same for async code."""

    async def run_in_session(self, receipt: Receipt, work: Callable[[AsyncSession], Awaitable[object]]) -> object: ...
