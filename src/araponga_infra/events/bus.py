"""Buses: the handlers of an event run inside `publish`. For tests, and for work that belongs to the caller."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable
from typing import Any, Protocol
from uuid import UUID

from araponga_infra.clock import SYSTEM_CLOCK, Clock
from araponga_infra.events.catalog import Catalog
from araponga_infra.events.context import DeliveryContext
from araponga_infra.events.errors import ProcessorStateError, SessionMismatchError
from araponga_infra.events.handlers import Handler
from araponga_infra.events.processor import each_event, new_event_id
from araponga_infra.events.router import EventRouter, checked_router, checked_routers
from araponga_infra.events.types import codec_of
from araponga_infra.events.values import Delivery

__all__ = ["AsyncEventBus", "AsyncInMemoryEventBus", "EventBus", "InMemoryEventBus"]


class EventBus(Protocol):
    """What code that only publishes needs: a processor, or a bus in its tests.

    What does not arrive raises: an event that is none, a store that is away, and on a bus the error of a handler.
    """

    def publish(self, event: object, /) -> UUID:
        """Publish an event; returns its id."""
        ...

    def publish_many(self, events: Iterable[object], /) -> list[UUID]:
        """Publish several events; returns their ids."""
        ...


class AsyncEventBus(Protocol):
    """The same for async code."""

    async def publish(self, event: object, /) -> UUID:
        """As `EventBus.publish`."""
        ...

    async def publish_many(self, events: Iterable[object], /) -> list[UUID]:
        """As `EventBus.publish_many`."""
        ...


class _Bus:
    """Handlers by event, and what was published."""

    def __init__(self, *, routers: Iterable[EventRouter] = (), clock: Clock | None = None) -> None:
        self._catalog = Catalog()
        self._clock = clock or SYSTEM_CLOCK
        self.published: list[object] = []
        for router in checked_routers(routers):
            self.include(router)

    def include(self, router: EventRouter) -> None:
        """Add the handlers of a router.

        Raises:
            DuplicateHandlerError: a handler's name is taken.
            SessionMismatchError: a handler asks for a session, which a bus does not have.
        """
        for handler in checked_router(router).handlers:
            if handler.session_kind is not None:
                raise SessionMismatchError(
                    f"handler {handler.name!r} asks for {handler.session_kind}, which a bus in memory does not have: "
                    "use a processor on a SqlAlchemyEventStore and run_until_idle()"
                )
        self._catalog.include(router)

    def _accept(self, event: object) -> tuple[UUID, list[Handler], Delivery]:
        codec = codec_of(type(event))
        event_id, now = new_event_id(), self._clock.now().timestamp()
        delivery = Delivery("", "", event_id, codec.name, codec.version, codec.checked(event), None, now)
        self.published.append(event)
        return event_id, list(self._catalog.of_event(codec.name)), delivery

    def _call(self, handler: Handler, event: object, delivery: Delivery) -> Any:
        if handler.context_parameter is None:
            return handler.function(event)
        named = Delivery(
            "", handler.name, delivery.event_id, delivery.name, delivery.version, delivery.payload, None,
            delivery.published_at,
        )  # fmt: skip
        return handler.function(event, **{handler.context_parameter: DeliveryContext(named, attempt=1, deadline=None)})


class InMemoryEventBus(_Bus):
    """Runs every handler of an event inside `publish`, once, in the order of subscription.

    Nothing is retried; the first exception of a handler reaches the publisher, and the handlers after it do not run.
    Async handlers are run to their end. A bus has no time and no transactions: it knows neither `delay` nor
    `publish_in`, for which a processor on an `InMemoryEventStore` or a SQL store is there.

    Attributes:
        published: the events, for assertions.

    Raises:
        ProcessorStateError: an async handler would have to run while this thread's event loop runs.

    Examples:
        >>> bus = InMemoryEventBus(routers=[router])
        >>> event_id = bus.publish(PostPublished(post_id=7))
        >>> bus.published
        [PostPublished(post_id=7)]
    """

    def publish(self, event: object, /) -> UUID:
        """Run the handlers of an event now; returns its id.

        Raises:
            UnknownEventError, PayloadError: not an event, or fields of wrong types; no handler has run.
            Exception: the first one that a handler raises.
        """
        event_id, handlers, delivery = self._accept(event)
        for handler in handlers:
            result = self._call(handler, event, delivery)
            if inspect.iscoroutine(result):
                _run_to_end(result, handler.name)
        return event_id

    def publish_many(self, events: Iterable[object], /) -> list[UUID]:
        """Run the handlers of several events now, event by event, up to the first exception; returns their ids."""
        return [self.publish(each) for each in each_event(events)]


class AsyncInMemoryEventBus(_Bus):
    """The same for async code: async handlers are awaited, sync ones called, in the order of subscription.

    The first exception reaches the publisher, as with `InMemoryEventBus`; it has no `delay` and no `publish_in` either.
    """

    async def publish(self, event: object, /) -> UUID:
        """Run the handlers of an event now; returns its id.

        Raises:
            UnknownEventError, PayloadError: not an event, or fields of wrong types; no handler has run.
            Exception: the first one that a handler raises.
        """
        event_id, handlers, delivery = self._accept(event)
        for handler in handlers:
            result = self._call(handler, event, delivery)
            if inspect.isawaitable(result):
                await result
        return event_id

    async def publish_many(self, events: Iterable[object], /) -> list[UUID]:
        """Run the handlers of several events now, event by event, up to the first exception; returns their ids."""
        return [await self.publish(each) for each in each_event(events)]


def _run_to_end(work: Any, handler: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    work.close()
    raise ProcessorStateError(
        f"async handler {handler!r} cannot be run to its end inside a running event loop: use AsyncInMemoryEventBus"
    )
