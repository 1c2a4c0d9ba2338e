"""Buses and processors are the same to code that only publishes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy.orm import Session

from araponga_infra.events import (
    AsyncBackgroundEventProcessor,
    AsyncInMemoryEventBus,
    BackgroundEventProcessor,
    DeliveryContext,
    EventRouter,
    InMemoryEventBus,
    ProcessorStateError,
    SessionMismatchError,
)
from araponga_infra.testing.events import EventBusContract
from tests.events.hosts import Happened, settled

pytestmark = pytest.mark.anyio


class TestInMemoryBus(EventBusContract):
    @pytest.fixture
    def open_bus(self) -> Callable[[list[EventRouter]], Any]:
        return lambda routers: InMemoryEventBus(routers=routers)


class TestAsyncInMemoryBus(EventBusContract):
    @pytest.fixture
    def open_bus(self) -> Callable[[list[EventRouter]], Any]:
        return lambda routers: AsyncInMemoryEventBus(routers=routers)


class TestProcessorAsBus(EventBusContract):
    @pytest.fixture
    def open_bus(self) -> Iterator[Callable[[list[EventRouter]], Any]]:
        with ExitStack() as stack:
            yield lambda routers: stack.enter_context(BackgroundEventProcessor(routers=routers, consume=False))

    async def settle(self, bus: Any) -> None:
        bus.run_until_idle()


class TestAsyncProcessorAsBus(EventBusContract):
    @pytest.fixture
    def open_bus(self) -> Callable[[list[EventRouter]], Any]:
        return lambda routers: AsyncBackgroundEventProcessor(routers=routers, consume=False)

    async def settle(self, bus: Any) -> None:
        await bus.run_until_idle()


@pytest.mark.parametrize("kind", [InMemoryEventBus, AsyncInMemoryEventBus])
async def test_handlers_run_inside_publish_and_their_errors_reach_the_publisher(kind: Any) -> None:
    router, seen = EventRouter(), list[Any]()

    @router.subscribe(Happened)
    def note(happened: Happened, context: DeliveryContext) -> None:
        seen.append((happened.number, context.attempt, context.handler))

    @router.subscribe(Happened)
    def breaks(happened: Happened) -> None:
        raise OSError("no")

    bus = kind(routers=[router])
    with pytest.raises(OSError, match="no"):
        await settled(bus.publish(Happened(1)))
    assert seen == [(1, 1, "note")]
    assert bus.published == [Happened(1)]


async def test_async_handlers_are_awaited_and_refused_where_they_would_block() -> None:
    router, seen = EventRouter(), list[int]()

    @router.subscribe(Happened)
    async def note(happened: Happened) -> None:
        seen.append(happened.number)

    await AsyncInMemoryEventBus(routers=[router]).publish(Happened(1))
    await asyncio.to_thread(InMemoryEventBus(routers=[router]).publish, Happened(2))
    assert seen == [1, 2]
    with pytest.raises(ProcessorStateError, match="AsyncInMemoryEventBus"):
        InMemoryEventBus(routers=[router]).publish(Happened(3))


def test_a_bus_has_no_sessions() -> None:
    router = EventRouter()

    @router.subscribe(Happened)
    def writes(happened: Happened, session: Session) -> None: ...

    with pytest.raises(SessionMismatchError, match="writes"):
        InMemoryEventBus(routers=[router])
