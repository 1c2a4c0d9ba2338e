"""Buses: the handlers of an event run inside `publish`. For tests, and for work that belongs to the caller."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable
from typing import Any, Protocol
from uuid import UUID

from araponga_infra.clock import SYSTEM_CLOCK, Clock
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events.catalog import Catalog
from araponga_infra.events.context import DeliveryContext
from araponga_infra.events.errors import ProcessorStateError, SessionMismatchError
from araponga_infra.events.handlers import Handler
from araponga_infra.events.processor import new_event_id
from araponga_infra.events.router import EventRouter
from araponga_infra.events.types import codec_of
from araponga_infra.events.values import Delivery

__all__ = ["AsyncEventBus", "AsyncInMemoryEventBus", "EventBus", "InMemoryEventBus"]


class EventBus(Protocol):
    """What code that only publishes needs: a processor, or a bus in its tests."""

    def publish(self, event: object, /) -> UUID:
        """Publish an event; returns its id."""
        ...

    def publish_many(self, events: Iterable[object], /) -> list[UUID]:
        """Publish several events; returns their ids."""
        ...


class AsyncEventBus(Protocol):
    """The same for async code."""

    async def publish(self, event: object, /) -> UUID: ...

    async def publish_many(self, events: Iterable[object], /) -> list[UUID]: ...


class _Bus:
    """Handlers by event, and what was published."""

    def __init__(self, *, routers: Iterable[EventRouter] = (), clock: Clock | None = None) -> None:
        self._catalog = Catalog()
        self._clock = clock or SYSTEM_CLOCK
        self.published: list[object] = []
        for router in routers:
            self.include(router)

    def include(self, router: EventRouter) -> None:
        """Add the handlers of a router.

        Raises:
            DuplicateHandlerError: a handler's name is taken.
            SessionMismatchError: a handler asks for a session, which a bus does not have.
        """
        if not isinstance(router, EventRouter):
            raise InvalidArgumentError(f"router is a {type(router).__name__}: pass an EventRouter")
        for handler in router.handlers:
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

    Nothing is retried; the first exception of a handler reaches the publisher. Async handlers are run to their end.

    Attributes:
        published: the events, for assertions.

    Raises:
        ProcessorStateError: an async handler would have to run while this thread's event loop runs.

    Example:
        >>> bus = InMemoryEventBus(routers=[router])
        >>> bus.publish(PostPublished(post_id=7))
        >>> assert bus.published == [PostPublished(post_id=7)]
    """

    def publish(self, event: object, /) -> UUID:
        event_id, handlers, delivery = self._accept(event)
        for handler in handlers:
            result = self._call(handler, event, delivery)
            if inspect.iscoroutine(result):
                _run_to_end(result, handler.name)
        return event_id

    def publish_many(self, events: Iterable[object], /) -> list[UUID]:
        return [self.publish(each) for each in events]


class AsyncInMemoryEventBus(_Bus):
    """The same for async code: async handlers are awaited, sync ones called, in the order of subscription."""

    async def publish(self, event: object, /) -> UUID:
        event_id, handlers, delivery = self._accept(event)
        for handler in handlers:
            result = self._call(handler, event, delivery)
            if inspect.isawaitable(result):
                await result
        return event_id

    async def publish_many(self, events: Iterable[object], /) -> list[UUID]:
        return [await self.publish(each) for each in events]


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
