"""What an observer hears of each thing that can become of a delivery, by its stable name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text

from araponga_infra.events import (
    BackgroundEventProcessor,
    EventRouter,
    EventStoreSource,
    GiveUp,
    InMemoryEventStore,
    SqlAlchemyEventStore,
)
from araponga_infra.observers import CountingObserver
from tests.events.hosts import Followed, Happened, Host
from tests.servers.processes import wait_until

pytestmark = pytest.mark.anyio


async def test_completed_retried_and_dead(host: Host) -> None:
    counters, router = CountingObserver(), EventRouter()

    @router.subscribe(Happened)
    def second_time(happened: Happened) -> None:
        if not counters.snapshot()["events.retried"]:
            raise ZeroDivisionError

    @router.subscribe(Followed)
    async def never(followed: Followed) -> None:
        raise GiveUp("no use")

    processor = await host.started(router, consume=False, observer=counters)
    for happening in (Happened(1), Followed(1)):
        published = processor.publish(happening)
        if host.is_async:
            await published
    await host.run_until_idle(processor, raise_dead=False)

    seen = counters.snapshot()
    assert seen.of("events.published").sums["deliveries"] == 2
    assert seen.of("events.retried", handler="second_time", error_type="ZeroDivisionError").times == 1
    assert seen.of("events.completed", event_name="tests.happened", handler="second_time").times == 1
    assert seen.of("events.dead", event_name="tests.followed", handler="never", reason="gave_up").times == 1


def running(source: EventStoreSource, work: Callable[[], Any], **options: Any) -> BackgroundEventProcessor:
    router = EventRouter()

    @router.subscribe(Happened, name="work", timeout=options.pop("timeout", None))
    def run(happened: Happened) -> None:
        work()

    return BackgroundEventProcessor(source, routers=[router], poll_interval=0.05, **options)


def test_a_handler_that_outlives_its_timeout() -> None:
    counters, gate = CountingObserver(), threading.Event()
    with running(InMemoryEventStore(), gate.wait, timeout=0.05, max_attempts=1, observer=counters) as processor:
        processor.publish(Happened(1))
        wait_until(lambda: counters.snapshot().of("events.handler_stuck", handler="work").times > 0, 20, "the timeout")
        gate.set()


def test_a_worker_that_was_taken_for_dead(sqlite_engine: Engine) -> None:
    source = SqlAlchemyEventStore(sqlite_engine)
    source.create_schema()
    counters, begun, gate = CountingObserver(), threading.Event(), threading.Event()

    def first_time_slow() -> None:
        if not begun.is_set():
            begun.set()
            gate.wait(30)

    def heard(name: str) -> None:
        wait_until(lambda: counters.snapshot()[name] > 0, 20, name)

    with running(source, first_time_slow, lease=0.3, observer=counters) as processor:
        processor.publish(Happened(1))
        assert begun.wait(20)
        with sqlite_engine.begin() as connection:
            connection.execute(text("DELETE FROM araponga_workers"))
        heard("events.lease_lost")
        heard("events.rescued")
        gate.set()
        heard("events.fenced")
