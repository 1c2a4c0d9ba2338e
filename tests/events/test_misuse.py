"""Processors in the hands of code that does what it should not, or at the worst moment."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import create_engine

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events import (
    BackgroundEventProcessor,
    DeadLetterNotFoundError,
    EventRouter,
    GiveUp,
    InMemoryEventStore,
    ProcessorStateError,
    QueueFullError,
    SqlAlchemyEventStore,
    event,
    slots,
)
from araponga_infra.observers import CountingObserver
from tests.events.hosts import Followed, Happened, Host, eventually, settled

pytestmark = pytest.mark.anyio


@event("tests.text")
@dataclass(frozen=True)
class Text:
    text: str


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise OSError("no words")


def noting(seen: list[int]) -> EventRouter:
    router = EventRouter()

    @router.subscribe(Happened)
    def note(happened: Happened) -> None:
        seen.append(happened.number)

    return router


async def is_empty(processor: Any) -> bool:
    stats = await settled(processor.stats())
    return (stats.queued, stats.running, stats.retrying) == (0, 0, 0)


# -- what a handler raises


@pytest.mark.parametrize("name", ["NUL", "surrogate", "unspeakable", "given up"])
async def test_whatever_an_error_says_it_can_be_stored(host: Host, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A text that the store refused would be settled again and again, and nothing after it."""
    caplog.set_level(logging.CRITICAL, "araponga_infra.events")  # half a surrogate in a report ends a pytest worker
    error = {
        "NUL": OSError("a\0b"),
        "surrogate": OSError("half \ud800"),
        "unspeakable": UnspeakableError(),
        "given up": GiveUp("\0 and \ud800"),
    }[name]
    router, seen = EventRouter(), list[int]()

    @router.subscribe(Happened, max_attempts=1)
    def fails(happened: Happened) -> None:
        raise error

    @router.subscribe(Followed)
    def follows(followed: Followed) -> None:
        seen.append(followed.number)

    processor = await host.started(router, max_concurrency=1)
    await settled(processor.publish(Happened(1)))
    await settled(processor.publish(Followed(1)))
    await eventually(lambda: seen == [1])
    await eventually(lambda: is_empty(processor))
    (letter,) = await settled(processor.dead_letters.list())
    assert letter.error.encode()


# -- calls from inside a handler


@pytest.mark.parametrize("call", ["stop", "run_until_idle"])
async def test_a_handler_that_would_wait_for_itself_is_told_so(host: Host, call: str) -> None:
    router, caught = EventRouter(), list[str]()

    @router.subscribe(Happened, max_attempts=1)
    def by_thread(happened: Happened) -> None:
        try:
            outcome = getattr(processor, call)()
            if host.is_async:
                asyncio.run(outcome)
        except ProcessorStateError as error:
            caught.append(f"thread: {error}")

    @router.subscribe(Happened, max_attempts=1)
    async def by_task(happened: Happened) -> None:
        try:
            await settled(getattr(processor, call)())
        except ProcessorStateError as error:
            caught.append(f"task: {error}")

    processor = await host.started(router)
    await settled(processor.publish(Happened(1)))
    await eventually(lambda: len(caught) == 2)
    assert all(f"{call}() was called by a handler" in each for each in caught)
    await eventually(lambda: is_empty(processor))
    await settled(processor.publish(Happened(2)))
    await eventually(lambda: len(caught) == 4)


@pytest.mark.parametrize("host", ["memory-sync", "memory-async"], indirect=True)
async def test_a_handler_does_not_wait_for_room_that_only_handlers_make(host: Host) -> None:
    router, caught = EventRouter(), list[type[BaseException]]()

    @router.subscribe(Happened, max_attempts=1)
    async def fans_out(happened: Happened) -> None:
        async def publish() -> None:
            await settled(processor.publish_many([Followed(number) for number in range(3)]))

        try:
            await (publish() if happened.number == 1 else asyncio.gather(publish()))
        except QueueFullError as error:
            caught.append(type(error))

    router.subscribe(Followed, name="follows")(lambda followed: None)
    processor = await host.started(router, max_queued=3, when_full="wait", max_concurrency=1)
    await settled(processor.publish(Happened(1)))
    await eventually(lambda: caught == [QueueFullError])
    await settled(processor.publish(Happened(2)))
    await eventually(lambda: caught == [QueueFullError] * 2)
    await settled(processor.publish_many([Followed(number) for number in range(3)]))
    await eventually(lambda: is_empty(processor))


@pytest.mark.parametrize("host", ["memory-sync", "memory-async"], indirect=True)
async def test_publishers_wait_for_room_for_every_handler_of_an_event(host: Host) -> None:
    """Room for one delivery is none for an event with two; an event loop that looked again at once stood still."""
    router, seen = EventRouter(), list[str]()

    @router.subscribe(Happened)
    async def one(happened: Happened) -> None:
        await asyncio.sleep(0)
        seen.append(f"one {happened.number}")

    @router.subscribe(Happened)
    async def two(happened: Happened) -> None:
        await asyncio.sleep(0)
        seen.append(f"two {happened.number}")

    processor = await host.started(router, max_queued=5, when_full="wait", max_concurrency=1)

    async def publish(first: int) -> None:
        for number in range(first, first + 10, 2):
            many = [Happened(number), Happened(number + 1)]
            if host.is_async:
                await processor.publish_many(many)
            else:
                await asyncio.to_thread(processor.publish_many, many)

    await asyncio.gather(*(publish(first) for first in range(0, 40, 10)))
    await eventually(lambda: len(seen) == 80)
    assert sorted(seen) == sorted(f"{name} {number}" for name in ("one", "two") for number in range(40))


@pytest.mark.parametrize("host", ["memory-sync", "memory-async"], indirect=True)
async def test_nobody_waits_for_room_that_there_can_never_be(host: Host) -> None:
    router = EventRouter()
    for name in ("one", "two"):
        router.subscribe(Happened, name=name)(lambda happened: None)
    processor = await host.started(router, max_queued=3, when_full="wait")
    with pytest.raises(QueueFullError, match="max_queued=3 deliveries: no room for 4") as caught:
        await settled(processor.publish_many([Happened(1), Happened(2)]))
    assert caught.value.needed == 4
    await settled(processor.publish(Happened(1)))
    await eventually(lambda: is_empty(processor))


async def test_handlers_publish_while_everything_is_busy(host: Host) -> None:
    router, seen = EventRouter(), list[int]()

    @router.subscribe(Happened)
    async def fans_out(happened: Happened) -> None:
        if host.is_async:
            await processor.publish_many([Followed(happened.number * 10 + each) for each in range(3)])
        else:
            processor.publish_many([Followed(happened.number * 10 + each) for each in range(3)])

    @router.subscribe(Followed)
    def follows(followed: Followed) -> None:
        seen.append(followed.number)

    processor = await host.started(router, max_concurrency=2)
    await settled(processor.publish_many([Happened(number) for number in range(10)]))
    await eventually(lambda: len(seen) == 30)
    assert sorted(seen) == sorted(number * 10 + each for number in range(10) for each in range(3))


# -- what is published


async def test_large_and_odd_payloads_arrive_as_they_were(host: Host) -> None:
    router, seen = EventRouter(), list[str]()

    @router.subscribe(Text)
    def note(text: Text) -> None:
        seen.append(text.text)

    texts = ["", "\0", "Saci 🦉 \u202e \N{COMBINING ACUTE ACCENT}", "{\"'; DROP TABLE --", "x" * 5_000_000]
    processor = await host.started(router, consume=False)
    await settled(processor.publish_many([Text(each) for each in texts]))
    await host.run_until_idle(processor)
    assert sorted(seen) == sorted(texts)


async def test_any_moment_can_be_named_in_any_zone(host: Host) -> None:
    seen: list[int] = []
    processor = await host.started(noting(seen), consume=False)
    east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
    past = (datetime.min.replace(tzinfo=east), datetime.min.replace(tzinfo=UTC), datetime.now(west))
    future = (datetime.max.replace(tzinfo=west), datetime.max.replace(tzinfo=UTC), datetime.now(east) + timedelta(1))
    for number, moment in enumerate((*past, *future)):
        await settled(processor.publish(Happened(number), at=moment))
    await host.run_until_idle(processor, skip_delays=False)
    assert sorted(seen) == [0, 1, 2]
    await host.run_until_idle(processor)
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]


# -- dead letters


async def test_what_is_no_dead_letter_yet_or_any_more_cannot_be_acted_on(host: Host) -> None:
    router, gate, is_running = EventRouter(), threading.Event(), threading.Event()

    @router.subscribe(Happened, max_attempts=1)
    def fails(happened: Happened) -> None:
        if happened.number == 2:
            is_running.set()
            gate.wait(20)
            return
        raise OSError("no")

    processor = await host.started(router)
    letters = processor.dead_letters
    await settled(processor.publish(Happened(1)))
    await eventually(lambda: _dead(processor, 1))
    (letter,) = await settled(letters.list())
    await settled(processor.publish(Happened(2)))
    await eventually(is_running.is_set)
    for number in map(str, range(1, 9)):
        if number != letter.id:
            with pytest.raises(DeadLetterNotFoundError):
                await settled(letters.discard(number))
    await settled(letters.redrive(letter.id))
    with pytest.raises(DeadLetterNotFoundError):
        await settled(letters.redrive(letter.id))
    gate.set()
    await eventually(lambda: _dead(processor, 1))
    await eventually(lambda: is_empty(processor))


async def _dead(processor: Any, number: int) -> bool:
    return bool((await settled(processor.stats())).dead == number)


async def test_names_that_no_store_can_hold_are_refused(host: Host) -> None:
    processor = await host.started(consume=False)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: processor.publish(Happened(1), ordering_key="a\0"),
        lambda: processor.publish(Happened(1), idempotency_key="a\0"),
        lambda: processor.dead_letters.list(handler="a\0"),
        lambda: processor.dead_letters.redrive_all(event="a\0"),
        lambda: processor.forget_handler("a\0"),
        lambda: processor.forget_handler(None),
    )
    for call in calls:
        with pytest.raises(InvalidArgumentError, match=r"NUL|handler=|keeps no order"):
            await settled(call())


# -- living and dying


async def test_two_processors_with_different_handlers_share_a_store(host: Host) -> None:
    first, second, seen = EventRouter(), EventRouter(), list[str]()

    @first.subscribe(Happened)
    def one(happened: Happened) -> None:
        seen.append(f"one {happened.number}")

    @second.subscribe(Happened)
    def two(happened: Happened) -> None:
        seen.append(f"two {happened.number}")

    processors = [await host.started(router, poll_interval=0.1) for router in (first, second)]
    for number, processor in enumerate(processors * 5):
        await settled(processor.publish(Happened(number)))
    await eventually(lambda: len(seen) == 20)
    assert sorted(seen) == sorted(f"{name} {number}" for name in ("one", "two") for number in range(10))


async def test_what_is_accepted_while_stopping_is_kept(host: Host) -> None:
    """Publishers and `stop` race: each publish is either refused or, in a durable store, handled later."""
    seen: list[int] = []
    processor, accepted = await host.started(noting(seen)), list[int]()

    def publish(first: int) -> None:
        for number in range(first, first + 10_000):
            try:
                outcome = processor.publish(Happened(number))
                if host.is_async:
                    asyncio.run(outcome)
            except (ProcessorStateError, QueueFullError):
                return
            accepted.append(number)

    publishers = [asyncio.create_task(asyncio.to_thread(publish, number * 10_000)) for number in range(2)]
    await eventually(lambda: len(seen) > 5)
    await host.stop(processor)
    await asyncio.wait_for(asyncio.gather(*publishers), 20)
    if host.source.capabilities.is_durable:
        await host.run_until_idle(await host.started(noting(seen), consume=False))
    assert set(seen) <= set(accepted)
    if host.source.capabilities.is_durable:
        assert set(seen) == set(accepted)


async def test_a_stop_that_is_cancelled_leaves_nothing_running(host: Host) -> None:
    if not host.is_async:
        return
    router, is_running, gate = EventRouter(), asyncio.Event(), asyncio.Event()

    @router.subscribe(Happened)
    async def patient(happened: Happened) -> None:
        is_running.set()
        await gate.wait()

    before = set(threading.enumerate())
    processor = await host.started(router)
    await settled(processor.publish(Happened(1)))
    await is_running.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await processor.stop()
    left = [each.name for each in set(threading.enumerate()) - before]
    assert not [each for each in left if each.startswith("araponga-events")]


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_start_that_fails_leaves_nothing_running(is_closed: bool) -> None:
    store = SqlAlchemyEventStore(create_engine("sqlite://"))
    store.create_schema()
    processor, before = BackgroundEventProcessor(store, routers=[noting([])]), set(threading.enumerate())
    with pytest.raises(InvalidArgumentError, match="in memory"):
        processor.start()
    assert set(threading.enumerate()) <= before
    if is_closed:
        processor.close()
    else:
        processor.publish(Happened(1))


async def test_a_second_event_loop_can_look_and_act(host: Host) -> None:
    if not host.is_async:
        return
    router, is_mended = EventRouter(), list[bool]()

    @router.subscribe(Happened, max_attempts=1)
    async def fails(happened: Happened) -> None:
        if not is_mended:
            raise OSError("no")

    processor = await host.started(router, consume=False)

    async def elsewhere() -> int:
        await processor.publish_many([Happened(1), Happened(2)])
        await processor.run_until_idle(raise_dead=False)
        page = await processor.dead_letters.list()
        assert [each.id async for each in processor.dead_letters] == [each.id for each in page]
        await processor.dead_letters.get(page.items[0].id)
        await processor.dead_letters.discard(page.items[0].id)
        is_mended.append(True)
        assert await processor.dead_letters.redrive_all() == 1
        assert await processor.dead_letters.purge(0) == 0
        return int((await processor.stats()).queued)

    assert await asyncio.to_thread(asyncio.run, elsewhere()) == 1


async def will_not_be_cancelled(gate: threading.Event) -> None:
    while not gate.is_set():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["threads", "tasks"])
async def test_slots_that_hang_are_replaced_up_to_a_bound_and_then_leave_the_work_to_others(
    host: Host, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "UNWINDING_SECONDS", 0.05)
    router, healthy, gate = EventRouter(), EventRouter(), threading.Event()
    hung, done, quick, observer = list[int](), list[int](), list[int](), CountingObserver()

    def hangs(happened: Happened) -> None:
        hung.append(happened.number)
        gate.wait(30)

    async def stays(happened: Happened) -> None:
        hung.append(happened.number)
        await will_not_be_cancelled(gate)

    def follows(followed: Followed) -> None:
        quick.append(followed.number)

    async def follows_async(followed: Followed) -> None:
        quick.append(followed.number)

    hanging, other_kind = (hangs, follows_async) if kind == "threads" else (stays, follows)
    router.subscribe(Happened, name="works", timeout=0.05, max_attempts=1, max_concurrency=2)(hanging)
    router.subscribe(Followed, name="follows")(other_kind)

    @healthy.subscribe(Happened, name="works")
    def works(happened: Happened) -> None:
        done.append(happened.number)

    processor = await host.started(router, max_concurrency=2, poll_interval=0.05, observer=observer)
    await settled(processor.publish_many([Happened(number) for number in range(10)]))
    await eventually(lambda: len(hung) == 4)
    await eventually(lambda: _dead(processor, 4))
    assert observer.snapshot().of("events.handler_stuck", handler="works").times == 4
    await settled(processor.publish(Followed(1)))
    await eventually(lambda: quick == [1])

    async def are_given_back() -> bool:
        """Not held by a process that cannot run them."""
        stats = await settled(processor.stats())
        return (stats.queued, stats.running) == (6, 0)

    await eventually(are_given_back)
    if host.source.capabilities.is_durable:
        other = await host.started(healthy, poll_interval=0.05)
        await eventually(lambda: len(done) == 6)
        await host.stop(other)
    gate.set()
    await settled(processor.publish_many([Happened(99)]))
    await eventually(lambda: 99 in hung)
    await eventually(lambda: is_empty(processor))


async def test_slots_that_come_back_at_the_same_moment_are_as_many_as_before(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "UNWINDING_SECONDS", 0.05)
    router, gate, together = EventRouter(), threading.Event(), list[int]()
    released, loops = asyncio.Event(), list[asyncio.AbstractEventLoop]()

    @router.subscribe(Happened, timeout=0.05, max_attempts=1)
    async def stays(happened: Happened) -> None:
        loops.append(asyncio.get_running_loop())
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()

    @router.subscribe(Followed)
    async def follows(followed: Followed) -> None:
        together.append(followed.number)
        await asyncio.to_thread(gate.wait, 20)

    processor = await host.started(router, max_concurrency=2, poll_interval=0.05)
    await settled(processor.publish_many([Happened(each) for each in range(4)]))
    await eventually(lambda: _dead(processor, 4))
    loops[0].call_soon_threadsafe(released.set)
    await settled(processor.publish_many([Followed(each) for each in range(4)]))
    await eventually(lambda: len(together) == 2)
    gate.set()
    await eventually(lambda: is_empty(processor))


@pytest.mark.parametrize("host", ["memory-sync", "sqlite-sync", "postgres-sync", "redis-sync"], indirect=True)
async def test_an_async_handler_that_blocks_its_loop_is_left_to_another_process(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "UNWINDING_SECONDS", 0.05)
    router, gate = EventRouter(), threading.Event()

    @router.subscribe(Happened, timeout=0.05, max_attempts=1)
    async def blocks(happened: Happened) -> None:
        gate.wait(30)

    processor = await host.started(router, max_concurrency=1)
    await settled(processor.publish(Happened(1)))
    await eventually(lambda: _dead(processor, 1))
    gate.set()


@pytest.mark.parametrize("host", ["memory-sync", "sqlite-sync", "postgres-sync", "redis-sync"], indirect=True)
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_what_a_task_of_a_handler_raises_does_not_end_the_loop_of_all_handlers(
    host: Host, error: type[BaseException]
) -> None:
    """An event loop stops running when a task raises one of these."""
    router, seen = EventRouter(), list[int]()

    async def leave() -> None:
        raise error

    @router.subscribe(Happened, max_attempts=1)
    async def rude(happened: Happened) -> None:
        await asyncio.create_task(leave())

    @router.subscribe(Followed)
    async def polite(followed: Followed) -> None:
        seen.append(followed.number)

    processor = await host.started(router, max_concurrency=1)
    await settled(processor.publish(Happened(1)))
    await eventually(lambda: _dead(processor, 1))
    await settled(processor.publish(Followed(1)))
    await eventually(lambda: seen == [1])


# -- forks


@pytest.mark.parametrize("host", ["memory-sync", "sqlite-sync", "postgres-sync", "redis-sync"], indirect=True)
async def test_a_forked_child_neither_uses_nor_ends_its_parents_processor(host: Host) -> None:
    router, runs, gate = EventRouter(), list[int](), threading.Event()

    @router.subscribe(Happened)
    def slow(happened: Happened) -> None:
        runs.append(happened.number)
        gate.wait(20)

    processor = await host.started(router)
    processor.publish(Happened(1))
    await eventually(lambda: runs == [1])
    assert forked(lambda: _acts_in_a_child(processor)) == 0
    gate.set()
    await eventually(lambda: is_empty(processor))
    assert runs == [1]


def _acts_in_a_child(processor: BackgroundEventProcessor) -> None:
    for call in (lambda: processor.publish(Happened(2)), processor.run_until_idle, processor.start):
        with pytest.raises(ProcessorStateError, match=r"fork|parent"):
            call()
    processor.stop()
    processor.close()
    with BackgroundEventProcessor(InMemoryEventStore(), routers=[noting([])], consume=False) as own:
        own.publish(Happened(3))
        assert own.run_until_idle().completed == 1


def forked(work: Callable[[], object]) -> int:
    """The exit status of a child that did `work`; bounded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest has threads, and so has a processor
        child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + 30
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.01)
