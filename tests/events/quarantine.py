"""One event for each reason to become a dead letter, and the deploy that mends them all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import redis
from sqlalchemy import NullPool, create_engine

from araponga_infra.events import (
    BackgroundEventProcessor,
    DeadReason,
    EventRouter,
    GiveUp,
    RedisStreamEventStore,
    SqlAlchemyEventStore,
    event,
)
from araponga_infra.events.values import Delivery, Want
from araponga_infra.testing.clock import FakeClock
from araponga_infra.testing.events import awaitable_store
from tests.events.hosts import Followed, Host, settled

_LEASE_SECONDS = 2.0
_URL = "QUARANTINE_URL"


@event("quarantine.placed", version=1)
@dataclass(frozen=True)
class Placed:
    """What is published; its handlers are the reasons that it has to become a dead letter."""

    place: int


@event("quarantine.placed", version=1)
@dataclass(frozen=True)
class PlacedByName:
    place: str


@event("quarantine.moved", version=1)
@dataclass(frozen=True)
class Moved:
    place: str


@event("quarantine.moved", version=2)
@dataclass(frozen=True)
class MovedTo:
    x: int
    y: int


@event("quarantine.grown", version=1)
@dataclass(frozen=True)
class Grown:
    size: int


@event("quarantine.grown", version=2)
@dataclass(frozen=True)
class GrownIn:
    size: int
    unit: str


@event("quarantine.unheard", version=1)
@dataclass(frozen=True)
class Unheard:
    number: int


@event("quarantine.worked", version=1)
@dataclass(frozen=True)
class Worked:
    number: int


BYTES = {
    DeadReason.ATTEMPTS_EXHAUSTED: b'{"number":1}',
    DeadReason.GAVE_UP: b'{"number":1}',
    DeadReason.WORKER_LOST: b'{"number":1}',
    DeadReason.HANDLER_GONE: b'{"number":1}',
    DeadReason.UNKNOWN_EVENT: b'{"number":1}',
    DeadReason.NO_SUBSCRIBER: b'{"number":2}',
    DeadReason.UNDECODABLE: b'{"place":7}',
    DeadReason.NO_UPCASTER: b'{"place":"1,2"}',
    DeadReason.NEWER_VERSION: b'{"size":3,"unit":"m"}',
}
"""What was published, by what becomes of it."""
READ = {
    **dict.fromkeys(list(BYTES)[:5], Worked(1)),
    DeadReason.NO_SUBSCRIBER: Unheard(2),
    DeadReason.UNDECODABLE: Placed(7),
    DeadReason.NO_UPCASTER: MovedTo(1, 2),
    DeadReason.NEWER_VERSION: GrownIn(3, "m"),
}
"""What handlers get in the end."""


def _subscribed(router: EventRouter, kind: type[Any], reason: DeadReason, handle: Callable[[Any], None]) -> None:
    router.subscribe(kind, name=reason.value, max_attempts=1)(handle)


def before() -> EventRouter:
    """The instances that are there when the events are published."""
    router = EventRouter()
    for reason, read in READ.items():
        kind = {DeadReason.NO_UPCASTER: Moved}.get(reason, type(read))
        if reason is not DeadReason.NO_SUBSCRIBER:
            _subscribed(router, kind, reason, lambda _event: None)
    return router


def broken() -> EventRouter:
    """A deploy that can work on none of them."""
    router = EventRouter()

    def fails(worked: Worked) -> None:
        raise OSError("out of order")

    def gives_up(worked: Worked) -> None:
        raise GiveUp("no such number")

    _subscribed(router, Worked, DeadReason.ATTEMPTS_EXHAUSTED, fails)
    _subscribed(router, Worked, DeadReason.GAVE_UP, gives_up)
    _subscribed(router, Worked, DeadReason.WORKER_LOST, fails)
    _subscribed(router, Followed, DeadReason.UNKNOWN_EVENT, lambda _event: None)
    _subscribed(router, PlacedByName, DeadReason.UNDECODABLE, lambda _event: None)
    _subscribed(router, MovedTo, DeadReason.NO_UPCASTER, lambda _event: None)
    _subscribed(router, Grown, DeadReason.NEWER_VERSION, lambda _event: None)
    return router


def mended(seen: list[tuple[DeadReason, Any]]) -> EventRouter:
    """A deploy that notes what it gets."""
    router = EventRouter()

    def noting(reason: DeadReason) -> Callable[[Any], None]:
        return lambda event: seen.append((reason, event))

    for reason, read in READ.items():
        _subscribed(router, type(read), reason, noting(reason))

    @router.upcast(MovedTo, from_version=1)
    def split(content: dict[str, Any]) -> dict[str, Any]:
        x, y = map(int, content["place"].split(","))
        return {"x": x, "y": y}

    return router


async def quarantine(host: Host, clock: FakeClock) -> dict[DeadReason, Any]:
    """Publish them to the store, let each become a dead letter, and give these by their reasons."""
    published = [Worked(1), Unheard(2), Placed(7), Moved("1,2"), GrownIn(3, "m")]
    publisher = await host.started(before(), consume=False, clock=clock)
    await settled(publisher.publish_many(published))
    await _lose_a_worker(host, clock)
    processor = await host.started(broken(), consume=False, clock=clock)
    await settled(processor.forget_handler(DeadReason.HANDLER_GONE.value))
    await host.run_until_idle(processor, raise_dead=False)
    clock.advance(timedelta(hours=1))
    await host.run_until_idle(processor, raise_dead=False)
    return {each.reason: each for each in (await settled(processor.dead_letters.list())).items}


async def _lose_a_worker(host: Host, clock: FakeClock) -> None:
    """Its first worker holds it, its second one runs it, and neither lives to report."""
    store = awaitable_store(host.source.async_store(clock) if host.is_async else host.source.sync_store(clock))
    keeper, handler, claimed = store.lease_keeper(), DeadReason.WORKER_LOST.value, list[Delivery]()
    for is_alone in (False, True):
        owner = uuid4().hex
        await store.join(owner, _LEASE_SECONDS)
        if is_alone:
            claimed += (await store.claim_alone(owner, [handler])).deliveries
        else:
            claimed += (await store.exchange(owner, [], [], [Want(handler, 1)])).deliveries
        clock.advance(_LEASE_SECONDS + 1)
        await asyncio.to_thread(keeper.reap, [handler])
    await asyncio.to_thread(keeper.close)
    assert len(claimed) == 2


def operated() -> BackgroundEventProcessor:
    """What an operator names with `--app`; it knows none of the events."""
    url = os.environ[_URL]
    if url.startswith("redis"):
        return BackgroundEventProcessor(RedisStreamEventStore(redis.Redis.from_url(url)))
    return BackgroundEventProcessor(SqlAlchemyEventStore(create_engine(url, poolclass=NullPool)))


def where(url: str) -> dict[str, str]:
    """The environment that `operated` is told its store by."""
    return {_URL: url}
