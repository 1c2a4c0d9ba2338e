"""What processors promise, over every store, sync and async."""

from __future__ import annotations

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from araponga_infra.backoff import Backoff
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events import (
    DeadLetterNotFoundError,
    DeadReason,
    DeliveryContext,
    EventRouter,
    GiveUp,
    HandlerSignatureError,
    HandlerTimeoutError,
    ProcessorStateError,
    RetryLater,
    UnsupportedByStoreError,
    event,
)
from araponga_infra.testing.clock import FakeClock
from tests.events.hosts import Followed, Happened, Host, eventually, settled

pytestmark = pytest.mark.anyio
QUICK = Backoff(initial=0.001, maximum=0.001)


def both(router: EventRouter, seen: list[Any], **options: Any) -> None:
    """A sync and an async handler that note what they see."""

    @router.subscribe(Happened, **options)
    def by_thread(happened: Happened) -> None:
        seen.append(("thread", happened.number))

    @router.subscribe(Happened, **options)
    async def by_task(happened: Happened) -> None:
        seen.append(("task", happened.number))


async def test_sync_and_async_handlers_run_in_the_background(host: Host) -> None:
    router, seen = EventRouter(), list[Any]()
    both(router, seen)
    processor = await host.started(router)
    await settled(processor.publish_many([Happened(each) for each in range(50)]))
    await eventually(lambda: len(seen) == 100)
    assert sorted(seen) == sorted((kind, each) for kind in ("task", "thread") for each in range(50))
    await eventually(lambda: _is_empty(processor))


async def _is_empty(processor: Any) -> bool:
    stats = await settled(processor.stats())
    return (stats.queued, stats.running, stats.retrying, stats.dead) == (0, 0, 0, 0)


async def test_run_until_idle_runs_in_the_callers_thread(host: Host) -> None:
    router, threads = EventRouter(), set[int]()

    @router.subscribe(Happened)
    def by_thread(happened: Happened) -> None:
        threads.add(threading.get_ident())

    processor = await host.started(router, consume=False)
    await settled(processor.publish(Happened(1)))
    assert (await settled(processor.run_until_idle())).completed == 1
    assert threads == {threading.get_ident()}


def traced(function: Any) -> Any:
    """A plain decorator, as hosts write them."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


async def test_a_plain_decorator_around_an_async_handler_does_not_swallow_it(host: Host) -> None:
    router, seen = EventRouter(), list[Any]()

    async def waits(happened: Happened, context: DeliveryContext) -> None:
        await asyncio.sleep(0)
        seen.append((context.handler, happened.number))

    class Mailer:
        @traced
        async def send(self, happened: Happened, context: DeliveryContext) -> None:
            await waits(happened, context)

    router.subscribe(Happened, name="function")(traced(waits))
    router.subscribe(Happened, name="method")(Mailer().send)
    router.subscribe(Happened, name="partial")(functools.partial(traced(waits)))
    processor = await host.started(router, consume=False)
    await settled(processor.publish(Happened(1)))
    assert (await host.run_until_idle(processor)).completed == 3
    assert sorted(seen) == [("function", 1), ("method", 1), ("partial", 1)]


async def test_a_plain_handler_that_returns_something_to_await_has_not_done_its_work(host: Host) -> None:
    router, seen = EventRouter(), list[int]()

    async def waits(happened: Happened) -> None:
        seen.append(happened.number)

    router.subscribe(Happened, name="hidden", max_attempts=1)(lambda happened: waits(happened))
    processor = await host.started(router, consume=False)
    await settled(processor.publish(Happened(1)))
    with pytest.raises(HandlerSignatureError, match="'hidden' is a plain function and returned something to await"):
        await host.run_until_idle(processor)
    assert seen == []


async def test_a_failing_handler_is_tried_again_and_only_that_one(host: Host, clock: FakeClock) -> None:
    router, attempts, others = EventRouter(), list[int](), list[int]()

    @router.subscribe(Happened)
    def fails_twice(happened: Happened, context: DeliveryContext) -> None:
        attempts.append(context.attempt)
        if context.attempt < 3:
            raise OSError("no")

    @router.subscribe(Happened)
    def works(happened: Happened) -> None:
        others.append(happened.number)

    processor = await host.started(router, consume=False, clock=clock)
    await settled(processor.publish(Happened(7)))
    report = await host.run_until_idle(processor)
    assert (attempts, others) == ([1, 2, 3], [7])
    assert (report.completed, report.retried, report.dead) == (2, 2, ())


async def test_delays_and_retries_wait_for_the_clock(host: Host, clock: FakeClock) -> None:
    router, attempts = EventRouter(), list[int]()

    @router.subscribe(Happened, backoff=Backoff(initial=60, maximum=60, jitter=False))
    def fails_once(happened: Happened, context: DeliveryContext) -> None:
        attempts.append(context.attempt)
        if context.attempt == 1:
            raise OSError("no")

    processor = await host.started(router, consume=False, clock=clock)
    await settled(processor.publish(Happened(1), at=clock.now() + timedelta(hours=1)))

    async def run() -> list[int]:
        await host.run_until_idle(processor, skip_delays=False)
        return list(attempts)

    assert await run() == []
    clock.advance(timedelta(hours=1))
    assert await run() == [1]
    clock.advance(59)
    assert await run() == [1]
    clock.advance(1)
    assert await run() == [1, 2]


async def test_what_a_handler_raised_in_the_end_is_raised(host: Host) -> None:
    router = EventRouter()

    @router.subscribe(Happened)
    async def broken(happened: Happened) -> None:
        raise OSError(f"no {happened.number}")

    processor = await host.started(router, consume=False)
    await settled(processor.publish(Happened(1)))
    with pytest.raises(OSError, match="no 1"):
        await host.run_until_idle(processor)
    await settled(processor.publish_many([Happened(2), Happened(3)]))
    with pytest.raises(ExceptionGroup, match="2 deliveries"):
        await host.run_until_idle(processor)


async def test_dead_letters_are_listed_redriven_and_discarded(host: Host) -> None:
    router, is_mended = EventRouter(prefix="shop."), list[bool]()

    @router.subscribe(Happened, max_attempts=2)
    def broken(happened: Happened) -> None:
        if not is_mended:
            raise OSError("printer on fire")

    processor = await host.started(router, consume=False)
    await settled(processor.publish_many([Happened(1), Happened(2), Happened(3)]))
    report = await host.run_until_idle(processor, raise_dead=False)
    assert (report.completed, report.retried, len(report.dead)) == (0, 3, 3)
    page = await settled(processor.dead_letters.list(handler="shop.broken", limit=2))
    assert (len(page), page.next is not None) == (2, True)
    letter = page.items[0]
    assert (letter.handler, letter.event_name, letter.attempts) == ("shop.broken", "tests.happened", 2)
    assert (letter.reason, letter.error) == (DeadReason.ATTEMPTS_EXHAUSTED, "OSError: printer on fire")
    is_mended.append(True)
    await settled(processor.dead_letters.discard(page.items[1].id))
    await settled(processor.dead_letters.redrive(letter.id))
    assert await settled(processor.dead_letters.redrive_all(reason="attempts_exhausted")) == 1
    assert (await host.run_until_idle(processor)).completed == 2
    assert len(await settled(processor.dead_letters.list())) == 0
    with pytest.raises(DeadLetterNotFoundError, match=letter.id):
        await settled(processor.dead_letters.redrive(letter.id))


@pytest.mark.parametrize("is_raised", [True, False])
@pytest.mark.parametrize("by", ["thread", "task"])
async def test_a_handler_gives_up_or_asks_for_later(host: Host, clock: FakeClock, is_raised: bool, by: str) -> None:
    router, calls = EventRouter(), list[int]()

    def signals(happened: Happened, context: DeliveryContext) -> RetryLater | GiveUp | None:
        calls.append(context.attempt)
        signal = RetryLater(30) if context.attempt == 1 else GiveUp("no such post")
        if is_raised:
            raise signal
        return signal

    async def signals_async(happened: Happened, context: DeliveryContext) -> RetryLater | GiveUp | None:
        return signals(happened, context)

    router.subscribe(Happened)(signals if by == "thread" else signals_async)
    processor = await host.started(router, consume=False, clock=clock)
    await settled(processor.publish(Happened(1)))
    await host.run_until_idle(processor, skip_delays=False)
    assert calls == [1]
    clock.advance(30)
    (dead,) = (await host.run_until_idle(processor, skip_delays=False, raise_dead=False)).dead
    assert (calls, dead.reason, dead.error, dead.attempts) == ([1, 2], DeadReason.GAVE_UP, "no such post", 2)


async def test_a_handler_learns_of_its_delivery(host: Host, clock: FakeClock) -> None:
    router, seen = EventRouter(), list[Any]()

    @router.subscribe(Happened, timeout=timedelta(seconds=30))
    def looks(happened: Happened, context: DeliveryContext) -> None:
        seen.append((context.event_id, context.attempt, context.deadline, dict(context.headers), context.event_name))
        context.logger.info("seen")

    processor = await host.started(router, consume=False, clock=clock, inject_headers=lambda: {"traceparent": "00-a"})
    event_id = await settled(processor.publish(Happened(1), headers={"tenant": "x"}))
    await host.run_until_idle(processor)
    deadline = clock.now() + timedelta(seconds=30)
    assert seen == [(event_id, 1, deadline, {"traceparent": "00-a", "tenant": "x"}, "tests.happened")]


async def test_an_idempotency_key_is_accepted_once(host: Host) -> None:
    router, seen = EventRouter(), list[Any]()
    both(router, seen)
    processor = await host.started(router, consume=False)
    first = await settled(processor.publish(Happened(1), idempotency_key="order-7"))
    second = await settled(processor.publish(Happened(1), idempotency_key="order-7"))
    other = await settled(processor.publish(Happened(1), idempotency_key="order-8"))
    assert first == second != other
    assert (await host.run_until_idle(processor)).completed == 4
    assert await settled(processor.publish(Followed(1), idempotency_key="order-7")) != first


async def test_an_idempotency_key_is_accepted_once_of_many_publishers_at_the_same_time(host: Host) -> None:
    router, seen = EventRouter(), list[Any]()
    both(router, seen)
    processor = await host.started(router, consume=False)
    barrier = threading.Barrier(8)

    def elsewhere(number: int) -> UUID:
        barrier.wait(20)
        published: Any = processor.publish(Happened(number), idempotency_key="order-7")
        event_id: UUID = asyncio.run(published) if host.is_async else published
        return event_id

    with ThreadPoolExecutor(8) as pool:
        loop = asyncio.get_running_loop()
        ids = await asyncio.gather(*(loop.run_in_executor(pool, elsewhere, number) for number in range(8)))
    assert len(set(ids)) == 1
    assert (await host.run_until_idle(processor)).completed == 2


async def test_an_idempotency_key_is_forgotten_after_its_window(host: Host, clock: FakeClock) -> None:
    router, seen = EventRouter(), list[Any]()
    both(router, seen)
    processor = await host.started(router, consume=False, clock=clock, idempotency_window=timedelta(minutes=1))
    for seconds in (0, 59, 1):
        clock.advance(seconds)
        await settled(processor.publish(Happened(seconds), idempotency_key="order-7"))
    await host.run_until_idle(processor)
    assert sorted(seen) == [("task", 0), ("task", 1), ("thread", 0), ("thread", 1)]


async def test_events_of_a_key_run_in_order_with_many_slots(host: Host) -> None:
    router, seen = EventRouter(), dict[int, list[int]]()
    lock, running = threading.Lock(), set[int]()

    @router.subscribe(Happened, backoff=QUICK)
    def note(happened: Happened, context: DeliveryContext) -> None:
        key = happened.number % 3
        with lock:
            assert key not in running
            running.add(key)
        try:
            if happened.number % 5 == 0 and context.attempt == 1:
                raise OSError("once")
            seen.setdefault(key, []).append(happened.number)
        finally:
            with lock:
                running.discard(key)

    processor = await host.started(router, poll_interval=0.02)
    if not host.source.capabilities.ordering:
        with pytest.raises(UnsupportedByStoreError, match="keeps no order"):
            await settled(processor.publish(Happened(1), ordering_key="key"))
        return
    for number in range(30):
        await settled(processor.publish(Happened(number), ordering_key=f"key-{number % 3}"))
    await eventually(lambda: sum(map(len, seen.values())) == 30)
    assert seen == {key: list(range(key, 30, 3)) for key in range(3)}


async def test_a_dead_letter_in_the_middle_of_a_key_lets_two_instances_go_on_in_order(host: Host) -> None:
    if not host.source.capabilities.ordering:
        return
    lock, running, seen = threading.Lock(), list[int](), list[int]()

    def instance() -> EventRouter:
        router = EventRouter()

        @router.subscribe(Happened, name="note", max_attempts=1)
        def note(happened: Happened) -> None:
            with lock:
                assert running == []
                running.append(happened.number)
            try:
                if happened.number == 7:
                    raise OSError("always")
                seen.append(happened.number)
            finally:
                running.clear()

        return router

    first = await host.started(instance(), poll_interval=0.02)
    await host.started(instance(), poll_interval=0.02)
    await settled(first.publish_many([Happened(number) for number in range(20)], ordering_key="key"))
    await eventually(lambda: len(seen) == 19)
    assert seen == [number for number in range(20) if number != 7]
    (letter,) = (await settled(first.dead_letters.list())).items
    assert (letter.ordering_key, letter.reason) == ("key", DeadReason.ATTEMPTS_EXHAUSTED)


async def test_no_more_than_max_concurrency_run_at_once(host: Host) -> None:
    router, lock = EventRouter(), threading.Lock()
    now, most, done = 0, dict[str, int](), list[int]()
    gate = threading.Event()

    def enter(kind: str) -> None:
        nonlocal now
        with lock:
            now += 1
            most[kind] = max(most.get(kind, 0), now)

    def leave() -> None:
        nonlocal now
        with lock:
            now -= 1
            done.append(1)

    @router.subscribe(Happened)
    def by_thread(happened: Happened) -> None:
        enter("all")
        gate.wait(0.01)
        leave()

    @router.subscribe(Happened)
    async def by_task(happened: Happened) -> None:
        enter("all")
        await asyncio.sleep(0.01)
        leave()

    processor = await host.started(router, max_concurrency=3)
    await settled(processor.publish_many([Happened(each) for each in range(20)]))
    await eventually(lambda: len(done) == 40)
    assert most["all"] == 3


async def test_a_handlers_own_limit_holds_and_blocks_no_other(host: Host) -> None:
    router, lock, running, most, quick = EventRouter(), threading.Lock(), [0], [0], list[int]()
    gate = threading.Event()

    @router.subscribe(Happened, max_concurrency=1)
    def slow(happened: Happened) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        gate.wait(10)
        with lock:
            running[0] -= 1

    @router.subscribe(Followed)
    def fast(followed: Followed) -> None:
        quick.append(followed.number)

    processor = await host.started(router, poll_interval=0.02)
    await settled(processor.publish_many([Happened(each) for each in range(5)]))
    await eventually(lambda: running[0] == 1)
    await settled(processor.publish_many([Followed(each) for each in range(50)]))
    await eventually(lambda: len(quick) == 50)
    gate.set()
    await eventually(lambda: _is_empty(processor))
    assert most == [1]


async def test_a_hanging_handler_is_timed_out_and_tried_again(host: Host) -> None:
    router, calls, gate = EventRouter(), list[str](), threading.Event()

    @router.subscribe(Happened, timeout=0.1, backoff=QUICK)
    def hangs_in_a_thread(happened: Happened, context: DeliveryContext) -> None:
        calls.append(f"thread {context.attempt}")
        if context.attempt == 1:
            gate.wait(20)

    @router.subscribe(Happened, timeout=0.1, backoff=QUICK)
    async def hangs_in_a_task(happened: Happened, context: DeliveryContext) -> None:
        calls.append(f"task {context.attempt}")
        if context.attempt == 1:
            await asyncio.sleep(20)

    processor = await host.started(router, max_concurrency=2, poll_interval=0.02)
    await settled(processor.publish(Happened(1)))
    await eventually(lambda: len(calls) == 4)
    assert sorted(calls) == ["task 1", "task 2", "thread 1", "thread 2"]
    await eventually(lambda: _is_empty(processor))
    gate.set()


async def test_a_hanging_handler_is_timed_out_without_background_as_well(host: Host) -> None:
    router = EventRouter()

    @router.subscribe(Happened, timeout=0.01, max_attempts=1)
    async def hangs(happened: Happened) -> None:
        await asyncio.sleep(20)

    if not host.is_async:
        return
    processor = await host.started(router, consume=False)
    await settled(processor.publish(Happened(1)))
    with pytest.raises(HandlerTimeoutError, match=r"0\.01 s"):
        await host.run_until_idle(processor)


class Unheard(BaseException):
    """What no `except Exception` catches."""


@pytest.mark.parametrize(
    "error",
    [
        SystemExit, KeyboardInterrupt, MemoryError, RecursionError, asyncio.CancelledError,
        GeneratorExit, StopIteration, StopAsyncIteration, Unheard,
    ],
)  # fmt: skip
async def test_whatever_a_handler_raises_the_processor_lives(host: Host, error: type[BaseException]) -> None:
    router, seen = EventRouter(), list[int]()

    @router.subscribe(Happened, max_attempts=1)
    async def rude(happened: Happened) -> None:
        raise error

    @router.subscribe(Happened, max_attempts=1)
    def greedy(happened: Happened) -> None:
        bytearray(1 << 50)

    @router.subscribe(Happened, max_attempts=1)
    def rude_too(happened: Happened) -> None:
        raise error

    @router.subscribe(Followed)
    async def polite(followed: Followed) -> None:
        seen.append(followed.number)

    processor = await host.started(router, max_concurrency=1)
    await settled(processor.publish_many([Happened(1), Followed(1)]))
    await eventually(lambda: seen == [1])
    await eventually(lambda: _has_dead(processor, 3))


async def _has_dead(processor: Any, number: int) -> bool:
    return bool((await settled(processor.stats())).dead == number)


async def test_ctrl_c_during_run_until_idle_reaches_the_caller_and_costs_nothing(host: Host) -> None:
    router, is_pressed = EventRouter(), [True]

    @router.subscribe(Happened, max_attempts=1)
    def interrupted(happened: Happened) -> None:
        if is_pressed.pop() if is_pressed else False:
            raise KeyboardInterrupt

    processor = await host.started(router, consume=False)
    await settled(processor.publish(Happened(1)))
    with pytest.raises(KeyboardInterrupt):
        await settled(processor.run_until_idle())
    assert (await settled(processor.run_until_idle())).completed == 1


async def test_stopping_lets_handlers_finish_and_loses_nothing(host: Host) -> None:
    router, started, done, gate = EventRouter(), list[int](), list[int](), threading.Event()

    @router.subscribe(Happened)
    def slow(happened: Happened) -> None:
        started.append(happened.number)
        gate.wait(0.05)
        done.append(happened.number)

    processor = await host.started(router, max_concurrency=2)
    await settled(processor.publish_many([Happened(each) for each in range(20)]))
    await eventually(lambda: len(started) > 0)
    await host.stop(processor)
    assert sorted(started) == sorted(done)
    with pytest.raises(ProcessorStateError, match="stopped"):
        await settled(processor.publish(Happened(99)))
    if host.source.capabilities.is_durable:
        again = await host.started(router, consume=False)
        await host.run_until_idle(again)
    assert sorted(done) == list(range(20))


async def test_stopping_gives_back_what_outlasts_the_grace(host: Host) -> None:
    if not host.source.capabilities.is_durable:
        return
    router, calls, gate, is_hanging = EventRouter(), list[int](), threading.Event(), [True]

    @router.subscribe(Happened)
    def stubborn(happened: Happened, context: DeliveryContext) -> None:
        calls.append(context.attempt)
        if is_hanging:
            gate.wait(20)

    @router.subscribe(Happened)
    async def patient(happened: Happened, context: DeliveryContext) -> None:
        calls.append(context.attempt)
        if is_hanging:
            await asyncio.sleep(20)

    processor = await host.started(router)
    await settled(processor.publish(Happened(1)))
    await eventually(lambda: len(calls) == 2)
    await host.stop(processor, grace=0.05)
    is_hanging.clear()
    gate.set()
    again = await host.started(router, consume=False)
    assert (await host.run_until_idle(again)).completed == 2
    assert calls == [1, 1, 1, 1], "giving back is no attempt"


async def test_a_process_that_only_publishes_loses_nothing(host: Host) -> None:
    router, seen = EventRouter(), list[Any]()
    both(router, seen)
    worker = await host.started(router, consume=False)
    web = await host.started(consume=False)
    await settled(web.publish(Happened(1)))
    assert (await host.run_until_idle(worker)).completed == 2


async def test_what_is_published_before_any_handler_was_known_is_kept_for_it(host: Host) -> None:
    router, seen = EventRouter(), list[Any]()
    both(router, seen)
    web = await host.started(consume=False)
    await settled(web.publish(Happened(1)))
    worker = await host.started(router, consume=False)
    assert (await host.run_until_idle(worker)).completed == 0
    redriven = await settled(worker.dead_letters.redrive_all(reason=DeadReason.NO_SUBSCRIBER))
    assert redriven == (1 if host.source.capabilities.is_durable else 0)
    await host.run_until_idle(worker)
    assert sorted(seen) == ([("task", 1), ("thread", 1)] if host.source.capabilities.is_durable else [])


async def test_publishing_before_start_reaches_the_own_handlers(host: Host) -> None:
    router, seen = EventRouter(), list[Any]()
    both(router, seen)
    processor = host.make(router)
    await settled(processor.publish(Happened(1)))
    await settled(processor.start())
    await eventually(lambda: len(seen) == 2)
    await host.stop(processor)


async def test_publishing_from_other_threads_and_loops(host: Host) -> None:
    router, seen = EventRouter(), list[Any]()
    both(router, seen)
    processor = await host.started(router)

    def elsewhere(number: int) -> None:
        if host.is_async:
            asyncio.run(processor.publish(Happened(number)))
        else:
            processor.publish(Happened(number))

    await asyncio.gather(*(asyncio.to_thread(elsewhere, number) for number in range(8)))
    await eventually(lambda: len(seen) == 16)


async def test_run_until_idle_waits_for_a_processor_that_consumes(host: Host) -> None:
    router, seen = EventRouter(), list[Any]()
    both(router, seen)
    processor = await host.started(router)
    await settled(processor.publish(Happened(1), delay=3600))
    await settled(processor.publish_many([Happened(each) for each in range(20)]))
    report = await host.run_until_idle(processor)
    assert len(seen) == 42
    assert 2 <= report.completed <= 42


async def test_a_renamed_handler_in_a_rolling_deploy(host: Host) -> None:
    old, new, seen = EventRouter(), EventRouter(), list[str]()

    @old.subscribe(Happened, name="mail")
    def before(happened: Happened) -> None:
        seen.append("old")

    @new.subscribe(Happened, name="post", aliases=["mail"])
    def after(happened: Happened) -> None:
        seen.append("new")

    @new.subscribe(Happened, name="added")
    def added(happened: Happened) -> None:
        seen.append("added")

    old_one = await host.started(old, consume=False)
    await settled(old_one.publish(Happened(1)))
    new_one = await host.started(new, consume=False)
    old_two = await host.started(old, consume=False)
    await settled(new_one.publish(Happened(2)))
    await host.run_until_idle(new_one)
    assert sorted(seen) == ["added", "new", "new"]
    await settled(new_one.publish(Happened(3)))
    await host.run_until_idle(old_two)
    assert sorted(seen) == ["added", "new", "new", "old"]
    await host.run_until_idle(new_one)
    assert sorted(seen) == ["added", "added", "new", "new", "old"]


async def test_a_removed_handler_in_a_rolling_deploy(host: Host) -> None:
    """What waits for it is kept as a dead letter, and an old instance that runs on breaks nothing."""
    old, new, seen = EventRouter(), EventRouter(), list[str]()
    for router, names in ((old, ("mail", "index")), (new, ("mail",))):
        for name in names:
            router.subscribe(Happened, name=name)(lambda happened, name=name: seen.append(f"{name} {happened.number}"))

    old_one = await host.started(old, consume=False)
    await settled(old_one.publish(Happened(1)))
    new_one = await host.started(new, consume=False)
    await settled(new_one.forget_handler("index"))
    await settled(new_one.publish(Happened(2)))
    await host.run_until_idle(new_one)
    assert sorted(seen) == ["mail 1", "mail 2"]
    (letter,) = (await settled(new_one.dead_letters.list())).items
    assert (letter.handler, letter.reason) == ("index", DeadReason.HANDLER_GONE)
    await settled(new_one.publish(Happened(3)))
    await host.run_until_idle(old_one)
    await settled(old_one.dead_letters.redrive(letter.id))
    await host.run_until_idle(old_one)
    assert sorted(seen) == ["index 1", "mail 1", "mail 2", "mail 3"]


async def test_a_raised_event_version_in_a_rolling_deploy(host: Host) -> None:
    """Old and new instances publish and consume side by side: the new read both shapes, the old leave the new one."""

    @event("tests.moved", version=1)
    @dataclass(frozen=True)
    class Moved:
        place: str

    @event("tests.moved", version=3)
    @dataclass(frozen=True)
    class MovedTo:
        x: int
        y: int

    old, new, seen = EventRouter(), EventRouter(), list[Any]()
    old.subscribe(Moved, name="moves")(seen.append)
    new.subscribe(MovedTo, name="moves")(seen.append)

    @new.upcast(MovedTo, from_version=1)
    def split(content: dict[str, Any]) -> dict[str, Any]:
        x, y = content["place"].split(",")
        return {"x": x, "y": y}

    @new.upcast(MovedTo, from_version=2)
    def to_numbers(content: dict[str, Any]) -> dict[str, Any]:
        return {name: int(value) for name, value in content.items()}

    old_one = await host.started(old, consume=False)
    await settled(old_one.publish(Moved("1,2")))
    await host.run_until_idle(old_one)
    new_one = await host.started(new, consume=False)
    await settled(new_one.publish(MovedTo(3, 4)))
    assert (await host.run_until_idle(old_one)).completed == 0
    assert seen == [Moved("1,2")]
    old_two = await host.started(old, consume=False)
    await settled(old_two.publish(Moved("5,6")))
    assert (await host.run_until_idle(new_one)).completed == 2
    assert sorted(seen[1:], key=str) == [MovedTo(3, 4), MovedTo(5, 6)]
    assert (await settled(new_one.stats())).dead == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_attempts": 0}, "max_attempts=0"),
        ({"max_concurrency": -1}, "max_concurrency=-1"),
        ({"when_full": "drop"}, "when_full='drop'"),
        ({"timeout": 0}, "timeout=0"),
        ({"lease": -1}, "lease=-1"),
        ({"idempotency_window": 0}, "idempotency_window=0"),
    ],
)
async def test_bad_options_are_refused_at_the_call(host: Host, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        host.make(**options)


async def test_bad_publishing_is_refused_at_the_call(host: Host) -> None:
    processor = await host.started(consume=False)
    for options, message in (
        ({"delay": -1}, "delay=-1"),
        ({"at": datetime(2026, 1, 1)}, "timezone-aware"),  # noqa: DTZ001
        ({"at": datetime.now(UTC), "delay": 1}, "both say when"),
        ({"ordering_key": ""}, "ordering_key"),
        ({"headers": {"a": 1}}, "headers"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            await settled(processor.publish(Happened(1), **options))
    with pytest.raises(ProcessorStateError):
        processor.include(EventRouter())
