"""What the sync and the async processor have in common: everything that waits for nothing."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, cast
from uuid import UUID, SafeUUID
from weakref import WeakSet

from araponga_infra.backoff import Backoff
from araponga_infra.clock import SYSTEM_CLOCK, Clock, Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events.catalog import Catalog
from araponga_infra.events.dispatch import Dispatch
from araponga_infra.events.errors import (
    ProcessorStateError,
    SessionMismatchError,
    UnsupportedByStoreError,
    time_to_come,
)
from araponga_infra.events.feed import Feed
from araponga_infra.events.handlers import SessionKind
from araponga_infra.events.lifecycle import RetryPolicy, is_text, positive
from araponga_infra.events.protocols import EventStoreSource, TransactionalSource, Wake
from araponga_infra.events.records import EventsPublished
from araponga_infra.events.router import EventRouter, checked_router, checked_routers
from araponga_infra.events.stores.memory import InMemoryEventStore
from araponga_infra.events.types import codec_of
from araponga_infra.events.values import Appended, Message
from araponga_infra.telemetry import Observer, reporter
from araponga_infra.transactions import AnySession

__all__ = ["Phase", "Processor", "WhenFull", "each_event", "existing_handler", "new_event_id", "refuse_waiting"]

F = TypeVar("F", bound=Callable[..., Any])
WhenFull = Literal["raise", "wait"]
ROOM_WAIT_SECONDS = 1.0
_KEY_LENGTH = 200
_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_LOW_BITS = (1 << 62) - 1
_new_uuid = UUID.__new__
_logger = logging.getLogger("araponga_infra.events")
_started: WeakSet[Processor] = WeakSet()
_set = object.__setattr__


class Phase(Enum):
    NEW = "not started"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    INHERITED = "a copy of the parent process's"


class Processor:
    """Configuration, handlers, and how an event becomes a message. The two processors add waiting.

    Args:
        store: where deliveries are kept; an `InMemoryEventStore` of its own when None. It stays the host's.
        routers: their handlers are known from the start.
        consume: whether handlers run in the background. Without, events are published and subscriptions recorded all
            the same, and `run_until_idle` runs handlers when asked to.
        max_concurrency: how many handlers run at a time in this process.
        max_attempts: attempts of a handler in all; the first one counts.
        backoff: the wait after a failed attempt; 1 s doubling to 300 s with full jitter by default.
        timeout: limit of one attempt, a `timedelta` or seconds; None for no limit.
        max_queued: how many deliveries a store in memory takes; durable stores are not bounded.
        when_full: what publishing does then: raise `QueueFullError`, or wait for room.
        fetch_batch: how many deliveries are claimed ahead at most. Slow handlers lead to smaller batches.
        lease: how long after its last sign of life a worker is taken for dead, a `timedelta` or seconds.
        poll_interval: how often a store is looked at that was not heard of, a `timedelta` or seconds.
        idempotency_window: how long an idempotency key is remembered, a `timedelta` or seconds.
        inject_headers: called at each publish for headers to send along, such as trace context.
        clock: the machine's own by default. Due times follow it.
        observer: receives this room's records.
    """

    def __init__(
        self,
        store: EventStoreSource | None = None,
        *,
        routers: Iterable[EventRouter] = (),
        consume: bool = True,
        max_concurrency: int = 5,
        max_attempts: int = 3,
        backoff: Backoff | None = None,
        timeout: Duration | None = 300.0,
        max_queued: int = 10_000,
        when_full: WhenFull = "raise",
        fetch_batch: int = 200,
        lease: Duration = 2.0,
        poll_interval: Duration = 1.0,
        idempotency_window: Duration = 86_400.0,
        inject_headers: Callable[[], Mapping[str, str]] | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        if when_full not in ("raise", "wait"):
            raise InvalidArgumentError(f"when_full={when_full!r} must be 'raise' or 'wait'")
        if inject_headers is not None and not callable(inject_headers):
            raise InvalidArgumentError(f"inject_headers={inject_headers!r} is not a function that returns headers")
        self._source = _checked_store(store)
        self._consume = consume
        self._max_concurrency = positive(max_concurrency, "max_concurrency")
        self._policy = RetryPolicy.of(max_attempts, backoff, timeout)
        self._capacity = None if self._source.capabilities.is_durable else positive(max_queued, "max_queued")
        self._when_full: WhenFull = when_full
        self._fetch_batch = positive(fetch_batch, "fetch_batch")
        self._lease_seconds = to_seconds(lease, "lease", allow_zero=False)
        self._poll_seconds = to_seconds(poll_interval, "poll_interval", allow_zero=False)
        to_seconds(idempotency_window, "idempotency_window", allow_zero=False)
        self._window_seconds = time_to_come(idempotency_window, "idempotency_window")
        self._inject_headers = inject_headers
        self._given_clock = clock
        self._clock = clock or SYSTEM_CLOCK
        self._report = reporter(observer)
        self._catalog = Catalog()
        self._phase = Phase.NEW
        self._has_registered = False
        for router in checked_routers(routers):
            self.include(router)

    # -- handlers

    def include(self, router: EventRouter) -> None:
        """Add the handlers of a router; before `start`.

        Raises:
            DuplicateHandlerError: a handler's name is taken.
            ProcessorStateError: the processor has been started.
        """
        checked_router(router)
        if self._phase is not Phase.NEW or self._has_registered:
            raise ProcessorStateError(
                "handlers are fixed once the processor has started or published: include routers before"
            )
        self._catalog.include(router)

    def subscribe(
        self,
        event_class: type[Any],
        *,
        name: str | None = None,
        aliases: Iterable[str] = (),
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: Duration | None = None,
        max_concurrency: int | None = None,
    ) -> Callable[[F], F]:
        """As `EventRouter.subscribe`, on a router of this processor's own."""

        def add(function: F) -> F:
            router = EventRouter()
            router.subscribe(
                event_class, name=name, aliases=aliases, max_attempts=max_attempts, backoff=backoff, timeout=timeout,
                max_concurrency=max_concurrency,
            )(function)  # fmt: skip
            self.include(router)
            return function

        return add

    # -- publishing

    def _publish_in(
        self,
        wake: Wake,
        session: AnySession,
        event: object,
        delay: Duration | None,
        at: datetime | None,
        ordering_key: str | None,
        idempotency_key: str | None,
        headers: Mapping[str, str] | None,
    ) -> UUID:
        if not self._source.capabilities.transactions:
            raise UnsupportedByStoreError(
                f"{self._source!r} cannot write in a transaction of yours: use a SqlAlchemyEventStore, or publish()"
            )
        self._check_may_publish()
        message = self._message(event, delay, at, ordering_key, idempotency_key, headers)
        note = None if self._report is None else self._note_appended
        cast(TransactionalSource, self._source).append_in(session, message, wake, self._given_clock, note)
        return message.event_id

    def _check_may_publish(self) -> None:
        if self._phase is Phase.STOPPED:
            raise ProcessorStateError("the processor has been stopped: publish before stop(), or on a new processor")
        if self._phase is Phase.INHERITED:
            raise ProcessorStateError(
                "the processor was started before this process was forked, and its workers live in the parent: "
                "make and start one after forking"
            )

    def _message(
        self,
        event: object,
        delay: Duration | None = None,
        at: datetime | None = None,
        ordering_key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        codec = codec_of(type(event))
        payload = codec.checked(event)
        if self._inject_headers is not None:
            headers = {**_checked_headers(self._inject_headers()), **_checked_headers(headers)}
        if delay is None and at is None and ordering_key is None and idempotency_key is None and headers is None:
            return Message(new_event_id(), codec.name, codec.version, payload)
        if delay is not None and at is not None:
            raise InvalidArgumentError(f"delay={delay!r} and at={at!r} both say when: pass one of them")
        if ordering_key is not None and not self._source.capabilities.ordering:
            raise UnsupportedByStoreError(f"{self._source!r} keeps no order: publish without ordering_key")
        return Message(
            event_id=_derived_id(codec.name, idempotency_key) if idempotency_key is not None else new_event_id(),
            name=codec.name,
            version=codec.version,
            payload=payload,
            headers=_checked_headers(headers) or None,
            delay_seconds=0.0 if delay is None else time_to_come(delay, "delay"),
            due_at=None if at is None else _checked_moment(at).timestamp(),
            ordering_key=_checked_key(ordering_key, "ordering_key"),
            window_seconds=0.0 if idempotency_key is None else self._window_seconds,
        )

    def _note_appended(self, messages: int, appended: Appended) -> None:
        if self._report is not None:
            self._report(EventsPublished(messages, appended.deliveries, appended.unsubscribed))

    def _may_wait_for_room(self, needed: int) -> bool:
        return self._when_full == "wait" and self._capacity is not None and needed <= self._capacity

    # -- living

    def _begin(self) -> None:
        """
        Raises:
            SessionMismatchError: a handler asks for a session that the store cannot give.
            ProcessorStateError: started before.
        """
        if self._phase is not Phase.NEW:
            raise ProcessorStateError(f"start() was called on a processor that is {self._phase.value}: make a new one")
        if self._consume:
            self._check_sessions()
        _watch_forks()
        _started.add(self)

    def _note_left(self, deliveries: int) -> None:
        """What a store in memory still holds when its time is up."""
        if deliveries:
            _logger.warning("%d deliveries are left in %r: they are lost with the process", deliveries, self._source)

    @property
    def _is_over(self) -> bool:
        """There is nothing to stop, or somebody does it already."""
        return self._phase in (Phase.STOPPED, Phase.STOPPING, Phase.INHERITED)

    # -- processing

    def _new_dispatch(self, *, max_concurrency: int | None = None) -> Dispatch:
        return Dispatch(
            self._catalog, self._policy, max_concurrency=max_concurrency or self._max_concurrency,
            fetch_batch=self._fetch_batch, clock=self._clock, report=self._report,
        )  # fmt: skip

    def _new_feed(self, dispatch: Dispatch) -> Feed:
        return Feed(dispatch, self._clock, patience_seconds=self._lease_seconds, poll_seconds=self._poll_seconds)

    def _check_sessions(self) -> None:
        """Refuse handlers that ask for a session which the store cannot give."""
        for handler in self._catalog.handlers.values():
            if handler.session_kind is None:
                continue
            if not self._source.capabilities.transactions:
                raise SessionMismatchError(
                    f"handler {handler.name!r} asks for {handler.session_kind}, but {self._source!r} has no sessions: "
                    "give the processor a SqlAlchemyEventStore"
                )
            is_async = cast(TransactionalSource, self._source).is_async
            if is_async != (handler.session_kind is SessionKind.ASYNC):
                raise SessionMismatchError(
                    f"handler {handler.name!r} asks for {handler.session_kind}, which needs "
                    f"{'an AsyncEngine' if handler.session_kind is SessionKind.ASYNC else 'an Engine'}: "
                    f"{self._source!r} has {'an AsyncEngine' if is_async else 'an Engine'}"
                )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._source!r}, handlers={len(self._catalog.handlers)}, {self._phase.value})"


def _orphan() -> None:
    """In a forked child: no thread of the parent's is here, and its lease is not the child's to give back."""
    for each in list(_started):
        each._phase = Phase.INHERITED


@cache
def _watch_forks() -> None:
    """From the first start on; importing the package shall do nothing."""
    os.register_at_fork(after_in_child=_orphan)


def _checked_store(store: EventStoreSource | None) -> EventStoreSource:
    if store is None:
        return InMemoryEventStore()
    if isinstance(store, type):
        raise InvalidArgumentError(f"store is the class {store.__name__}: pass one of it, as in {store.__name__}(...)")
    if not hasattr(store, "sync_store") or not hasattr(store, "capabilities"):
        raise InvalidArgumentError(
            f"store is a {type(store).__name__}: pass an InMemoryEventStore, SqlAlchemyEventStore or "
            "RedisStreamEventStore"
        )
    return store


def each_event(events: Iterable[object]) -> Iterable[object]:
    """
    Raises:
        InvalidArgumentError: not several.
    """
    if not isinstance(events, Iterable):
        raise InvalidArgumentError(
            f"events is a {type(events).__name__}: pass a list of them, or use publish() for one"
        )
    return events


def existing_handler(handler: str) -> str:
    """
    Raises:
        InvalidArgumentError: no handler can have that name.
    """
    if not isinstance(handler, str) or not handler or "\0" in handler:
        raise InvalidArgumentError(f"handler={handler!r} is no name of a handler: pass the one that the store knows")
    return handler


def refuse_waiting(call: str) -> None:
    """
    Raises:
        ProcessorStateError: always; the caller has found itself inside a handler.
    """
    raise ProcessorStateError(
        f"{call} was called by a handler, which it would wait for: call it outside, or let the handler tell somebody "
        "who does"
    )


def _checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise InvalidArgumentError(
            f"headers is a {type(headers).__name__}: pass a dict of texts, such as {{'trace': '1'}}"
        )
    for name, value in headers.items():
        if not is_text(name) or not is_text(value):
            raise InvalidArgumentError(
                f"headers[{name!r}] is a {type(value).__name__} that is no text: headers are texts that UTF-8 can write"
            )
    return dict(headers)


def _checked_key(key: str | None, argument: str) -> str | None:
    if key is not None and (not key or not is_text(key) or "\0" in key or len(key) > _KEY_LENGTH):
        raise InvalidArgumentError(f"{argument} must be a text of 1 to {_KEY_LENGTH} characters, none of them NUL")
    return key


def _checked_moment(at: datetime) -> datetime:
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise InvalidArgumentError(f"at={at!r} must be a timezone-aware datetime, such as datetime.now(UTC)")
    return at


def new_event_id() -> UUID:
    """A UUID version 7: ids of one time lie together in an index (RFC 9562, 2024, section 5.7)."""
    noise = random.getrandbits(74)
    return _uuid(
        (time.time_ns() // 1_000_000) << 80 | _VERSION_7 | (noise >> 62) << 64 | _VARIANT | (noise & _LOW_BITS)
    )


def _uuid(number: int) -> UUID:
    """Without the checks of UUID's constructor, which cost more than all the rest of an id."""
    made = _new_uuid(UUID)
    _set(made, "int", number)
    _set(made, "is_safe", SafeUUID.unknown)
    return made


def _derived_id(event_name: str, idempotency_key: str) -> UUID:
    """The same key gives the same id (RFC 9562, section 5.8: version 8), so that every publisher learns it."""
    _checked_key(idempotency_key, "idempotency_key")
    digest = hashlib.blake2b(f"{event_name}\0{idempotency_key}".encode(), digest_size=16).digest()
    number = int.from_bytes(digest, "big")
    number = number & ~(0xF << 76) & ~(0b11 << 62) | 0x8 << 76 | 0b10 << 62
    return UUID(int=number)
