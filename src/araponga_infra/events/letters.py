"""Dead letters, for people: look, try again, throw away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from araponga_infra.clock import Clock, Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events.errors import DeadLetterNotFoundError
from araponga_infra.events.lifecycle import is_text, positive
from araponga_infra.events.protocols import AsyncEventStore, EventStore
from araponga_infra.events.values import DeadFilter, DeadLetter, DeadReason, Page

__all__ = ["AsyncDeadLetters", "DeadLetters"]

_BATCH = 200
_PURGE_BATCH = 500
OnProgress = Callable[[int], object]
T = TypeVar("T")


class AtHome(Protocol):
    """Runs what an async store does on the event loop that its connections belong to."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> Awaitable[T]: ...


class DeadLetters:
    """The dead letters of a store. Iterable, oldest first; letters that are redriven meanwhile do not come again, also
    when they die again.

    Errors of the database or of Redis reach the caller. `redrive_all` and `purge` have then done whole batches and no
    half of one; calling them again goes on. So does an exception that `on_progress` raises, which ends them between two
    batches. Thread-safe.
    """

    def __init__(self, store: Callable[[], EventStore], clock: Clock, wake: Callable[[], object]) -> None:
        self._open = store
        self._clock = clock
        self._wake = wake

    def list(
        self,
        *,
        event: str | None = None,
        handler: str | None = None,
        reason: DeadReason | str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page[DeadLetter]:
        """Some dead letters, oldest first.

        Args:
            event: only of this event's name.
            handler: only of this handler's name in the store.
            reason: only with this reason.
            limit: at most so many.
            after: the `next` of the page before.

        Raises:
            InvalidArgumentError: a reason that there is not, or an `after` that no page gave.
        """
        wanted = _filter(event, handler, reason)
        return self._open().dead_page(wanted, positive(limit, "limit"), after)

    def get(self, id: str) -> DeadLetter:
        """One dead letter, by its id.

        Raises:
            DeadLetterNotFoundError: there is none of that id.
        """
        return _found(self._open().dead_letter(_checked_id(id)), id)

    def redrive(self, id: str) -> None:
        """Try one again, with all its attempts ahead of it.

        Raises:
            DeadLetterNotFoundError: there is none of that id, or it still has no subscriber.
        """
        if not self._open().redrive([_checked_id(id)]):
            raise _missing(id)
        self._wake()

    def redrive_all(
        self,
        *,
        event: str | None = None,
        handler: str | None = None,
        reason: DeadReason | str | None = None,
        on_progress: OnProgress | None = None,
    ) -> int:
        """Try again all that match, with all attempts ahead of them, and each one once: one that dies again meanwhile
        is left for the next call.

        Args:
            event: only of this event's name.
            handler: only of this handler's name in the store.
            reason: only with this reason.
            on_progress: called with the number of those done as it grows.

        Returns:
            How many.

        Raises:
            InvalidArgumentError: a reason that there is not.
        """
        wanted = _up_to(self._open().newest_dead(), _filter(event, handler, reason))
        after, done = None, 0
        while True:
            page = self._open().dead_page(wanted, _BATCH, after)
            if page.items:
                done += self._open().redrive([each.id for each in page.items])
                self._wake()
                _tell(on_progress, done)
            if page.next is None:
                return done
            after = page.next

    def discard(self, id: str) -> None:
        """Forget one for good.

        Raises:
            DeadLetterNotFoundError: there is none of that id.
        """
        if not self._open().discard([_checked_id(id)]):
            raise _missing(id)

    def purge(
        self,
        older_than: Duration,
        *,
        event: str | None = None,
        handler: str | None = None,
        reason: DeadReason | str | None = None,
        on_progress: OnProgress | None = None,
    ) -> int:
        """Forget all that died long ago.

        Args:
            older_than: how long ago at least, a `timedelta` or seconds.
            event: only of this event's name.
            handler: only of this handler's name in the store.
            reason: only with this reason.
            on_progress: called with the number of those done as it grows.

        Returns:
            How many.

        Raises:
            InvalidArgumentError: a reason that there is not, or a negative duration.
        """
        before = self._clock.now() - timedelta(seconds=to_seconds(older_than, "older_than"))
        wanted, after, done = _filter(event, handler, reason), None, 0
        while True:
            page = self._open().old_letters(wanted, before, _PURGE_BATCH, after)
            if page.items:
                done += self._open().discard(page.items)
                _tell(on_progress, done)
            if page.next is None:
                return done
            after = page.next

    def __iter__(self) -> Iterator[DeadLetter]:
        wanted, after = _up_to(self._open().newest_dead(), DeadFilter()), None
        while True:
            page = self._open().dead_page(wanted, _BATCH, after)
            yield from page.items
            if page.next is None:
                return
            after = page.next


class AsyncDeadLetters:
    """The same for async code, errors included; iterated with `async for`."""

    def __init__(
        self, store: Callable[[], AsyncEventStore], clock: Clock, wake: Callable[[], object], at_home: AtHome
    ) -> None:
        self._open = store
        self._clock = clock
        self._wake = wake
        self._at_home = at_home

    async def list(
        self,
        *,
        event: str | None = None,
        handler: str | None = None,
        reason: DeadReason | str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page[DeadLetter]:
        """As `DeadLetters.list`."""
        wanted = _filter(event, handler, reason)
        return await self._at_home(self._open().dead_page(wanted, positive(limit, "limit"), after))

    async def get(self, id: str) -> DeadLetter:
        """As `DeadLetters.get`."""
        return _found(await self._at_home(self._open().dead_letter(_checked_id(id))), id)

    async def redrive(self, id: str) -> None:
        """As `DeadLetters.redrive`."""
        if not await self._at_home(self._open().redrive([_checked_id(id)])):
            raise _missing(id)
        self._wake()

    async def redrive_all(
        self,
        *,
        event: str | None = None,
        handler: str | None = None,
        reason: DeadReason | str | None = None,
        on_progress: OnProgress | None = None,
    ) -> int:
        """As `DeadLetters.redrive_all`."""
        wanted = _up_to(await self._at_home(self._open().newest_dead()), _filter(event, handler, reason))
        after, done = None, 0
        while True:
            page = await self._at_home(self._open().dead_page(wanted, _BATCH, after))
            if page.items:
                done += await self._at_home(self._open().redrive([each.id for each in page.items]))
                self._wake()
                _tell(on_progress, done)
            if page.next is None:
                return done
            after = page.next

    async def discard(self, id: str) -> None:
        """As `DeadLetters.discard`."""
        if not await self._at_home(self._open().discard([_checked_id(id)])):
            raise _missing(id)

    async def purge(
        self,
        older_than: Duration,
        *,
        event: str | None = None,
        handler: str | None = None,
        reason: DeadReason | str | None = None,
        on_progress: OnProgress | None = None,
    ) -> int:
        """As `DeadLetters.purge`."""
        before = self._clock.now() - timedelta(seconds=to_seconds(older_than, "older_than"))
        wanted, after, done = _filter(event, handler, reason), None, 0
        while True:
            page = await self._at_home(self._open().old_letters(wanted, before, _PURGE_BATCH, after))
            if page.items:
                done += await self._at_home(self._open().discard(page.items))
                _tell(on_progress, done)
            if page.next is None:
                return done
            after = page.next

    async def __aiter__(self) -> AsyncIterator[DeadLetter]:
        wanted, after = _up_to(await self._at_home(self._open().newest_dead()), DeadFilter()), None
        while True:
            page = await self._at_home(self._open().dead_page(wanted, _BATCH, after))
            for letter in page.items:
                yield letter
            if page.next is None:
                return
            after = page.next


def _filter(event: str | None, handler: str | None, reason: DeadReason | str | None) -> DeadFilter:
    for argument, name in (("event", event), ("handler", handler)):
        if name is not None and (not is_text(name) or "\0" in name):
            raise InvalidArgumentError(f"{argument}={name!r} is no name that a store keeps: pass a text without NUL")
    try:
        return DeadFilter(event, handler, None if reason is None else DeadReason(reason))
    except ValueError:
        known = ", ".join(DeadReason)
        raise InvalidArgumentError(f"reason={reason!r} is none that there is: pass one of {known}") from None


def _up_to(newest: str | None, wanted: DeadFilter) -> DeadFilter:
    """What is redriven from now on has another id when it dies again; without a dead letter by now, none is meant."""
    return replace(wanted, until=newest or "0")


def _tell(on_progress: OnProgress | None, done: int) -> None:
    if on_progress is not None:
        on_progress(done)


def _checked_id(id: str) -> str:
    if not isinstance(id, str):
        raise InvalidArgumentError(f"id is a {type(id).__name__}: pass the id of a dead letter, a text")
    return id


def _found(letter: DeadLetter | None, wanted: str) -> DeadLetter:
    if letter is None:
        raise _missing(wanted)
    return letter


def _missing(letter: str) -> DeadLetterNotFoundError:
    return DeadLetterNotFoundError(
        f"no dead letter with id {letter!r} can be acted on: list() shows those there are; "
        "one without a subscriber waits for a handler"
    )
