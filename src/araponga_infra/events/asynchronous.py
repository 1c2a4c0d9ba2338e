"""The processor for async hosts: its workers are tasks of the host's event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from uuid import UUID

from araponga_infra.clock import Duration, to_seconds
from araponga_infra.events.dispatch import Dispatch, SlotKind
from araponga_infra.events.errors import QueueFullError
from araponga_infra.events.feed import Step, new_owner
from araponga_infra.events.inline import Tally, inline_wants
from araponga_infra.events.letters import AsyncDeadLetters
from araponga_infra.events.processor import (
    ROOM_WAIT_SECONDS,
    Phase,
    Processor,
    each_event,
    existing_handler,
    refuse_waiting,
)
from araponga_infra.events.protocols import (
    AsyncEventStore,
    AsyncTransactionalStore,
    Settlement,
)
from araponga_infra.events.signals import AsyncSignal
from araponga_infra.events.slots import AsyncRunner, Runner, TaskSlots, ThreadSlots
from araponga_infra.events.values import EventStats, Message, Receipt, RunReport
from araponga_infra.events.worker import LINGER_SECONDS, SETTLE_SECONDS, Worker
from araponga_infra.transactions import AnySession

__all__ = ["AsyncBackgroundEventProcessor"]

T = TypeVar("T")
_INLINE_LEASE_SECONDS = 60.0
_logger = logging.getLogger("araponga_infra.events")


class AsyncBackgroundEventProcessor(Processor):
    """Publishes events and runs their handlers as tasks of the event loop it was started on, for async hosts.

    Takes the arguments of `BackgroundEventProcessor`. Both async and sync handlers: sync ones run in threads.
    Publishing works from any thread and any event loop once started, and before on the loop that will start it. Belongs
    to one event loop and one process: start it after forking.

    While the store is away publishing raises the driver's error, and workers wait and go on when it is back. A handler
    that raises is tried again up to `max_attempts`, then its delivery is a dead letter; what a worker held that died
    runs again elsewhere, so that handlers run at least once.

    Examples:
        >>> async def main() -> None:
        ...     engine = create_async_engine("sqlite+aiosqlite:///community.db")
        ...     store = SqlAlchemyEventStore(engine)
        ...     await store.create_schema()
        ...     async with AsyncBackgroundEventProcessor(store, routers=[router]) as events:
        ...         event_id = await events.publish(PostPublished(post_id=1))
        ...     await engine.dispose()
        >>> asyncio.run(main())
    """

    _running: _Running | None = None
    _store: AsyncEventStore | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    # -- living

    async def start(self) -> None:
        """Record the subscriptions, and with `consume` begin to run handlers.

        Raises:
            SessionMismatchError: a handler asks for a session that the store cannot give.
            ProcessorStateError: started before.
        """
        self._begin()
        self._loop = asyncio.get_running_loop()
        names = await self._register()
        if self._consume:
            self._running = _Running(self, self._opened(), names)
            try:
                await self._running.start()
            except BaseException:
                running, self._running = self._running, None
                await running.abandon()
                raise
        self._phase = Phase.RUNNING

    async def stop(self, grace: Duration = 25.0) -> None:
        """Stop: running handlers have the grace to finish; the rest is given back.

        A store in memory is worked off within that time as far as possible: what it still holds then is lost with the
        process. Events can be published until this returns. Calling it again does nothing.

        Args:
            grace: a `timedelta` or seconds.

        Raises:
            ProcessorStateError: called by one of its own handlers, which it would wait for.
        """
        grace_seconds = to_seconds(grace, "grace")
        if self._is_over:
            return
        if self._is_inside():
            refuse_waiting("stop()")
        self._phase = Phase.STOPPING
        try:
            if self._running is not None:
                await self._running.stop(grace_seconds)
        finally:
            self._running = None
            self._phase = Phase.STOPPED
            if self._store is not None:
                await self._store.close()

    async def aclose(self) -> None:
        """`stop()` with its usual grace."""
        await self.stop()

    close = aclose

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _opened(self) -> AsyncEventStore:
        if self._store is None:
            self._store = self._source.async_store(self._given_clock)
        return self._store

    async def _register(self) -> Mapping[str, str]:
        self._has_registered = True
        return await self._opened().register(self._catalog.subscriptions)

    async def _at_home(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop that the store's connections belong to."""
        home = self._loop
        if home is None or home is asyncio.get_running_loop() or not home.is_running():
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, home))

    # -- publishing

    async def publish(
        self,
        event: object,
        *,
        delay: Duration | None = None,
        at: datetime | None = None,
        ordering_key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> UUID:
        """Hand an event to the store; handlers run later and elsewhere.

        Args:
            event: of a class with `@event`.
            delay: not before so long from now, a `timedelta` or seconds.
            at: not before this moment, timezone-aware.
            ordering_key: events of one key reach each handler one at a time, in the order of COMMIT.
            idempotency_key: a second event of this name and key is not accepted within the window; its id is the
                first one's.
            headers: texts for `DeliveryContext.headers`.

        Returns:
            The event's id.

        Raises:
            UnknownEventError, PayloadError: not an event, or fields of wrong types.
            UnsupportedByStoreError: the store keeps no order.
            QueueFullError: a store in memory is full, and `when_full="raise"`; or the event has more handlers than
                `max_queued`; or a handler of this processor's publishes, which alone could make the room that it would
                wait for.
            ProcessorStateError: after `stop`.
        """
        message = self._message(event, delay, at, ordering_key, idempotency_key, headers)
        if self._loop is None or self._loop is asyncio.get_running_loop():
            await self._append([message])
        else:
            await self._at_home(self._append([message]))
        return message.event_id

    async def publish_many(
        self,
        events: Iterable[object],
        *,
        delay: Duration | None = None,
        at: datetime | None = None,
        ordering_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[UUID]:
        """Hand many events to the store at once, all or none.

        Args:
            events: of classes with `@event`.
            delay: as for `publish`, for each of them; and so are the others.
            at: not before this moment, timezone-aware.
            ordering_key: events of one key reach each handler one at a time, in the order of COMMIT.
            headers: texts for `DeliveryContext.headers`.

        Returns:
            The events' ids, in their order.

        Raises:
            UnknownEventError, PayloadError: one is not an event, or has fields of wrong types; none is published.
            UnsupportedByStoreError: the store keeps no order.
            QueueFullError: a store in memory has no room for all, and `when_full="raise"`; or it never could have, or a
                handler of this processor's publishes.
            ProcessorStateError: after `stop`.
        """
        messages = [self._message(each, delay, at, ordering_key, None, headers) for each in each_event(events)]
        if messages:
            await self._at_home(self._append(messages))
        return [each.event_id for each in messages]

    def publish_in(
        self,
        session: AnySession,
        event: object,
        *,
        delay: Duration | None = None,
        at: datetime | None = None,
        ordering_key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> UUID:
        """Publish with a transaction: the event is written by `session`'s COMMIT, and not without it.

        A plain call, as `session.add`. The row is written right before COMMIT, on the session's connection. The session
        needs to be on the database of the processor's store.

        Args:
            session: a `Session`, `AsyncSession` or a scoped form.
            event: as for `publish`, and so are the others.
            delay: not before so long from now, a `timedelta` or seconds.
            at: not before this moment, timezone-aware.
            ordering_key: events of one key reach each handler one at a time, in the order of COMMIT.
            idempotency_key: a second event of this name and key is not accepted within the window.
            headers: texts for `DeliveryContext.headers`.

        Returns:
            The event's id.

        Raises:
            UnsupportedByStoreError: not a SQL store.
            InvalidArgumentError: a session without an engine, or on another database.
        """
        return self._publish_in(self._wake, session, event, delay, at, ordering_key, idempotency_key, headers)

    async def _append(self, messages: Sequence[Message]) -> None:
        self._check_may_publish()
        if not self._has_registered:
            await self._register()
        store = self._opened()
        while True:
            try:
                appended = await store.append(messages, capacity=self._capacity)
            except QueueFullError as full:
                if not self._may_wait_for_room(full.needed) or self._is_awaited_by_a_handler():
                    raise
                await store.wait_for_room(full.needed, self._capacity or 0, ROOM_WAIT_SECONDS)
                self._check_may_publish()
            else:
                break
        self._note_appended(len(messages), appended)
        self._wake()

    def _is_inside(self) -> bool:
        """Whether the caller is one of the handlers that run in the background."""
        return self._running is not None and self._running.is_inside()

    def _is_awaited_by_a_handler(self) -> bool:
        return self._running is not None and self._running.is_awaited_by_a_handler()

    def _wake(self) -> None:
        running = self._running
        if running is not None:
            running.signal.set()

    # -- looking

    async def stats(self) -> EventStats:
        """How the queue stands, in total and per event and handler."""
        return await self._at_home(self._opened().stats())

    @property
    def dead_letters(self) -> AsyncDeadLetters:
        """Deliveries that ended without success."""
        return AsyncDeadLetters(self._opened, self._clock, self._wake, self._at_home)

    async def forget_handler(self, handler: str) -> None:
        """Take a handler that no longer exists out of service: what waits for it becomes dead letters.

        Args:
            handler: its name in the store.
        """
        await self._at_home(self._opened().forget(existing_handler(handler)))

    # -- tests and scripts

    async def run_until_idle(self, *, skip_delays: bool = True, raise_dead: bool = True) -> RunReport:
        """Run handlers until nothing is left to run, in this task unless the processor consumes already.

        Sync handlers then run in this thread as well and hold up the event loop.

        Args:
            skip_delays: treat delayed events and retries as due; otherwise those of later stay.
            raise_dead: raise what a handler raised when that ended in a dead letter; several as an ExceptionGroup.

        Raises:
            SessionMismatchError: a handler asks for a session that the store cannot give.
            ProcessorStateError: after `stop`; or called by a handler that runs in the background.
        """
        self._check_may_publish()
        if self._is_inside():
            refuse_waiting("run_until_idle()")
        if self._running is not None:
            tally = await self._at_home(self._running.wait_until_idle(skip_delays))
        else:
            self._check_sessions()
            tally = await self._at_home(self._run_inline(skip_delays))
        if raise_dead:
            tally.raise_dead()
        return tally.report()

    async def _run_inline(self, skip_delays: bool) -> Tally:
        return await _run_inline(self, self._opened(), await self._register(), skip_delays)

    def _runner(self, dispatch: Dispatch) -> Runner:
        return Runner(dispatch, self._clock, self._context_publish_in(), None)

    def _async_runner(self, dispatch: Dispatch, store: AsyncEventStore) -> AsyncRunner:
        return AsyncRunner(dispatch, self._clock, self._context_publish_in(), _in_session(store))

    def _context_publish_in(self) -> Callable[..., UUID] | None:
        return self.publish_in if self._source.capabilities.transactions else None


def _in_session(store: AsyncEventStore) -> Callable[[Receipt, Callable[[Any], Any]], Any] | None:
    return cast(AsyncTransactionalStore, store).run_in_session if store.capabilities.transactions else None


class _Running(Worker[AsyncSignal]):
    """The tasks and threads of a consuming processor, from start to stop."""

    def __init__(
        self, processor: AsyncBackgroundEventProcessor, store: AsyncEventStore, names: Mapping[str, str]
    ) -> None:
        super().__init__(processor, names, AsyncSignal())
        self._processor = processor
        self._store = store
        size = processor._max_concurrency
        self._tasks = TaskSlots(self._dispatch, size, processor._async_runner(self._dispatch, store), self._report)
        self._threads = ThreadSlots(self._dispatch, size, processor._runner(self._dispatch), self._report)
        self._fetcher: asyncio.Task[None] | None = None

    def _slots_of(self, kind: SlotKind) -> ThreadSlots | TaskSlots:
        return self._threads if kind is SlotKind.THREAD else self._tasks

    async def start(self) -> None:
        await self._store.join(self._feed.owner, self._lease_seconds)
        self._listener = self._store.listen(self._hear)
        self._tasks.start()
        self._start_pulse(self._store.lease_keeper)
        self._fetcher = asyncio.create_task(self._fetch(), name="araponga-events-fetch")

    # -- fetching

    async def _fetch(self) -> None:
        while not self._is_done:
            try:
                step = await self._round()
            except Exception as error:
                await asyncio.sleep(self._note_failure(error))
                continue
            self._note_recovery()
            rest_seconds = self._rest_seconds(step)
            if rest_seconds is not None:
                await self.signal.wait(rest_seconds, LINGER_SECONDS)
            else:
                await asyncio.sleep(0)

    async def _round(self) -> Step:
        if self._feed.must_reconcile:
            await self._store.reconcile(self._feed.owner, self._dispatch.held_by(self._feed.owner))
            self._feed.reconciled()
        if self._is_time_to_refresh():
            self._dispatch.learn(await self._processor._register())
        step = self._feed.plan()
        try:
            if step.is_needed:
                await self._exchange(step)
        except BaseException:
            self._feed.restore(step)
            raise
        return step

    async def _exchange(self, step: Step) -> None:
        if step.is_alone:
            exchange = await self._store.claim_alone(step.owner, self._dispatch.names)
        else:
            exchange = await self._store.exchange(
                step.owner, step.completed, step.settlements, step.wants, ignore_due=self._ignore_due
            )
        self._took(step, exchange)

    # -- stopping

    async def stop(self, grace_seconds: float) -> None:
        deadline = time.monotonic() + grace_seconds
        try:
            await self._drain(deadline)
            await self._flush(deadline)
        finally:
            await self.abandon()

    async def _drain(self, deadline: float) -> None:
        if not self._store.capabilities.is_durable:
            await self._wait_for_empty_store(deadline)
        self._feed.is_draining = True
        self._dispatch.give_back_buffered()
        await self._wait_for_handlers(deadline)
        self._dispatch.give_back_buffered()
        await self._tasks.close(SETTLE_SECONDS)
        await asyncio.to_thread(self._threads.close, 0.0 if self._dispatch.is_idle else SETTLE_SECONDS)

    async def _flush(self, deadline: float) -> None:
        self._is_stopping = True
        self.signal.set()
        if self._fetcher is not None:
            await asyncio.wait([self._fetcher], timeout=max(SETTLE_SECONDS, deadline - time.monotonic()))

    async def _wait_for_handlers(self, deadline: float) -> None:
        """Look now and then; what is waited for is partly other threads' work, which tells nobody."""
        while not self._dispatch.is_idle and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def _wait_for_empty_store(self, deadline: float) -> None:
        while time.monotonic() < deadline and await self._store.pending(self._dispatch.names):  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def abandon(self) -> None:
        """End what gives signs of life, and give the lease back."""
        if self._fetcher is not None:
            self._fetcher.cancel()
        if not self._store.capabilities.is_durable:
            self._processor._note_left(await self._store.pending(self._dispatch.names, ignore_due=True))
        await asyncio.to_thread(self._close_threads)
        try:
            await self._store.leave(self._feed.owner)
        except Exception as error:
            self._note_not_left(error)

    def is_awaited_by_a_handler(self) -> bool:
        return self._threads.has_current() or self._tasks.has_current_or_its_tasks()

    async def wait_until_idle(self, skip_delays: bool) -> Tally:
        tally = Tally(self._dispatch, self._processor._clock)
        self._ignore_due = skip_delays
        try:
            while not await self._is_idle(skip_delays):
                self.signal.set()
                await asyncio.sleep(0.005)
        finally:
            self._ignore_due = False
        return tally

    async def _is_idle(self, skip_delays: bool) -> bool:
        if await self._store.pending(self._dispatch.names, ignore_due=skip_delays):
            return False
        return self._has_settled


async def _run_inline(
    processor: AsyncBackgroundEventProcessor, store: AsyncEventStore, names: Mapping[str, str], skip_delays: bool
) -> Tally:
    """Claim and run in this task, one delivery after the other."""
    dispatch = processor._new_dispatch(max_concurrency=1)
    dispatch.is_reported = True
    dispatch.learn(names)
    tally = Tally(dispatch, processor._clock)
    runner, async_runner = processor._runner(dispatch), processor._async_runner(dispatch, store)
    owner, completed, settlements = new_owner(), list[Receipt](), list[Settlement]()
    await store.join(owner, _INLINE_LEASE_SECONDS)
    try:
        while True:
            alone = await store.claim_alone(owner, dispatch.names)
            exchange = await store.exchange(
                owner, completed, settlements, inline_wants(dispatch), ignore_due=skip_delays
            )
            completed, settlements = [], []
            if not alone.deliveries and tally.is_over(exchange):
                return tally
            dispatch.add(owner, alone.deliveries, is_alone=True)
            dispatch.add(owner, exchange.deliveries)
            await _run_all(dispatch, runner, async_runner)
            completed, settlements = dispatch.outcome_batch()
    finally:
        await store.exchange(owner, completed, settlements, ())
        await store.leave(owner)


async def _run_all(dispatch: Dispatch, runner: Runner, async_runner: AsyncRunner) -> None:
    while True:
        if (job := dispatch.take(SlotKind.TASK)) is not None:
            await async_runner.within_timeout(job)
        elif (job := dispatch.take(SlotKind.THREAD)) is not None:
            runner(job)
        else:
            return
