"""The processor for sync hosts: its workers live in threads of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, cast
from uuid import UUID

from araponga_infra.clock import Duration, to_seconds
from araponga_infra.events.dispatch import Dispatch, Job, SlotKind
from araponga_infra.events.errors import ProcessorStateError, QueueFullError
from araponga_infra.events.feed import Step, new_owner
from araponga_infra.events.inline import Tally, inline_wants
from araponga_infra.events.letters import DeadLetters
from araponga_infra.events.processor import (
    ROOM_WAIT_SECONDS,
    Phase,
    Processor,
    each_event,
    existing_handler,
    refuse_waiting,
)
from araponga_infra.events.protocols import EventStore, Settlement, TransactionalStore
from araponga_infra.events.signals import Signal
from araponga_infra.events.slots import AsyncRunner, Runner, TaskSlots, ThreadSlots
from araponga_infra.events.values import EventStats, Message, Receipt, RunReport
from araponga_infra.events.worker import LINGER_SECONDS, SETTLE_SECONDS, Worker
from araponga_infra.telemetry import Report
from araponga_infra.transactions import AnySession

__all__ = ["BackgroundEventProcessor"]

_INLINE_LEASE_SECONDS = 60.0
_logger = logging.getLogger("araponga_infra.events")


class BackgroundEventProcessor(Processor):
    """Publishes events and runs their handlers in threads of its own, for sync hosts.

    Both sync and async handlers: async ones run on an event loop in one of those threads. Publishing works from any
    thread, before `start` as well. Belongs to one process: start it after forking.

    While the store is away publishing raises the driver's error, and workers wait and go on when it is back. A handler
    that raises is tried again up to `max_attempts`, then its delivery is a dead letter; what a worker held that died
    runs again elsewhere, so that handlers run at least once.

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

    Raises:
        InvalidArgumentError: an argument out of range, or something other than a store or a router.
        DuplicateHandlerError: two handlers of the routers share a name.

    Examples:
        >>> store = SqlAlchemyEventStore(engine)
        >>> store.create_schema()
        >>> with BackgroundEventProcessor(store, routers=[router]) as events:
        ...     event_id = events.publish(PostPublished(post_id=1))
    """

    _running: _Running | None = None
    _store: EventStore | None = None

    # -- living

    def start(self) -> None:
        """Record the subscriptions, and with `consume` begin to run handlers.

        Raises:
            SessionMismatchError: a handler asks for a session that the store cannot give.
            ProcessorStateError: started before.
        """
        self._begin()
        names = self._register()
        if self._consume:
            self._running = _Running(self, self._opened(), names)
            try:
                self._running.start()
            except BaseException:
                running, self._running = self._running, None
                running.abandon()
                raise
        self._phase = Phase.RUNNING

    def stop(self, grace: Duration = 25.0) -> None:
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
                self._running.stop(grace_seconds)
        finally:
            self._running = None
            self._phase = Phase.STOPPED
            if self._store is not None:
                self._store.close()

    def close(self) -> None:
        """`stop()` with its usual grace."""
        self.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _opened(self) -> EventStore:
        if self._store is None:
            self._store = self._source.sync_store(self._given_clock)
        return self._store

    def _register(self) -> Mapping[str, str]:
        self._has_registered = True
        return self._opened().register(self._catalog.subscriptions)

    # -- publishing

    def publish(
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
        self._append([message])
        return message.event_id

    def publish_many(
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
            self._append(messages)
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

        The row is written right before COMMIT, on the session's connection. The session needs to be on the database of
        the processor's store.

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

    def _append(self, messages: Sequence[Message]) -> None:
        self._check_may_publish()
        if not self._has_registered:
            self._register()
        store = self._opened()
        while True:
            try:
                appended = store.append(messages, capacity=self._capacity)
            except QueueFullError as full:
                if not self._may_wait_for_room(full.needed) or self._is_inside():
                    raise
                store.wait_for_room(full.needed, self._capacity or 0, ROOM_WAIT_SECONDS)
                self._check_may_publish()
            else:
                break
        self._note_appended(len(messages), appended)
        self._wake()

    def _is_inside(self) -> bool:
        """Whether the caller is one of the handlers that run in the background."""
        return self._running is not None and self._running.is_inside()

    def _wake(self) -> None:
        running = self._running
        if running is not None:
            running.signal.set()

    # -- looking

    def stats(self) -> EventStats:
        """How the queue stands, in total and per event and handler."""
        return self._opened().stats()

    @property
    def dead_letters(self) -> DeadLetters:
        """Deliveries that ended without success."""
        return DeadLetters(self._opened, self._clock, self._wake)

    def forget_handler(self, handler: str) -> None:
        """Take a handler that no longer exists out of service: what waits for it becomes dead letters.

        Args:
            handler: its name in the store.
        """
        self._opened().forget(existing_handler(handler))

    # -- tests and scripts

    def run_until_idle(self, *, skip_delays: bool = True, raise_dead: bool = True) -> RunReport:
        """Run handlers until nothing is left to run, in this thread unless the processor consumes already.

        Args:
            skip_delays: treat delayed events and retries as due; otherwise those of later stay.
            raise_dead: raise what a handler raised when that ended in a dead letter; several as an ExceptionGroup.

        Raises:
            SessionMismatchError: a handler asks for a session that the store cannot give.
            ProcessorStateError: after `stop`; called by a handler that runs in the background; or an async handler is
                to be run while this thread's loop runs.
        """
        self._check_may_publish()
        if self._is_inside():
            refuse_waiting("run_until_idle()")
        if self._running is not None:
            tally = self._running.wait_until_idle(skip_delays)
        else:
            self._check_sessions()
            tally = _run_inline(self, self._opened(), self._register(), skip_delays)
        if raise_dead:
            tally.raise_dead()
        return tally.report()

    def _runner(self, dispatch: Dispatch, store: EventStore) -> Runner:
        return Runner(dispatch, self._clock, self._context_publish_in(), _in_session(store))

    def _async_runner(self, dispatch: Dispatch) -> AsyncRunner:
        return AsyncRunner(dispatch, self._clock, self._context_publish_in(), None)

    def _context_publish_in(self) -> Callable[..., UUID] | None:
        return self.publish_in if self._source.capabilities.transactions else None


def _in_session(store: EventStore) -> Callable[[Receipt, Callable[[Any], Any]], Any] | None:
    return cast(TransactionalStore, store).run_in_session if store.capabilities.transactions else None


class _Running(Worker[Signal]):
    """The threads of a consuming processor, from start to stop."""

    def __init__(self, processor: BackgroundEventProcessor, store: EventStore, names: Mapping[str, str]) -> None:
        super().__init__(processor, names, Signal())
        self._processor = processor
        self._store = store
        self._threads = ThreadSlots(
            self._dispatch, processor._max_concurrency, processor._runner(self._dispatch, store), self._report
        )
        self._loop = _LoopThread(
            self._dispatch, processor._max_concurrency, processor._async_runner(self._dispatch), self._report
        )
        self._fetcher = threading.Thread(target=self._fetch, name="araponga-events-fetch", daemon=True)

    def _slots_of(self, kind: SlotKind) -> ThreadSlots | _LoopThread:
        return self._threads if kind is SlotKind.THREAD else self._loop

    def start(self) -> None:
        self._store.join(self._feed.owner, self._lease_seconds)
        self._listener = self._store.listen(self._hear)
        self._loop.start_if_needed()
        self._start_pulse(self._store.lease_keeper)
        self._fetcher.start()

    # -- fetching

    def _fetch(self) -> None:
        while not self._is_done:
            try:
                step = self._round()
            except Exception as error:
                time.sleep(self._note_failure(error))
                continue
            self._note_recovery()
            rest_seconds = self._rest_seconds(step)
            if rest_seconds is not None:
                self.signal.wait(rest_seconds, LINGER_SECONDS)

    def _round(self) -> Step:
        if self._feed.must_reconcile:
            self._store.reconcile(self._feed.owner, self._dispatch.held_by(self._feed.owner))
            self._feed.reconciled()
        if self._is_time_to_refresh():
            self._dispatch.learn(self._processor._register())
        step = self._feed.plan()
        try:
            if step.is_needed:
                self._exchange(step)
        except BaseException:
            self._feed.restore(step)
            raise
        return step

    def _exchange(self, step: Step) -> None:
        if step.is_alone:
            exchange = self._store.claim_alone(step.owner, self._dispatch.names)
        else:
            exchange = self._store.exchange(
                step.owner, step.completed, step.settlements, step.wants, ignore_due=self._ignore_due
            )
        self._took(step, exchange)

    # -- stopping

    def stop(self, grace_seconds: float) -> None:
        deadline = time.monotonic() + grace_seconds
        try:
            self._drain(deadline)
        finally:
            self._is_stopping = True
            self.signal.set()
            self._fetcher.join(max(SETTLE_SECONDS, deadline - time.monotonic()))
            self.abandon()

    def _drain(self, deadline: float) -> None:
        if not self._store.capabilities.is_durable:
            self._wait(lambda: not self._store.pending(self._dispatch.names), deadline)
        self._feed.is_draining = True
        self._dispatch.give_back_buffered()
        self._wait(lambda: self._dispatch.is_idle, deadline)
        self._dispatch.give_back_buffered()
        self._loop.close(SETTLE_SECONDS)
        self._threads.close(0.0 if self._dispatch.is_idle else SETTLE_SECONDS)

    def abandon(self) -> None:
        """End what gives signs of life, and give the lease back."""
        self._is_abandoned = True
        if not self._store.capabilities.is_durable:
            self._processor._note_left(self._store.pending(self._dispatch.names, ignore_due=True))
        self._close_threads()
        try:
            self._store.leave(self._feed.owner)
        except Exception as error:
            self._note_not_left(error)

    def _wait(self, is_done: Callable[[], bool], deadline: float) -> None:
        """Look now and then; what is waited for is other threads' work, which tells nobody."""
        while not is_done() and time.monotonic() < deadline:
            time.sleep(0.005)

    def wait_until_idle(self, skip_delays: bool) -> Tally:
        tally = Tally(self._dispatch, self._processor._clock)
        self._ignore_due = skip_delays
        try:
            while not self._is_idle(skip_delays):
                self.signal.set()
                time.sleep(0.005)
        finally:
            self._ignore_due = False
        return tally

    def _is_idle(self, skip_delays: bool) -> bool:
        if self._store.pending(self._dispatch.names, ignore_due=skip_delays):
            return False
        return self._has_settled


class _LoopThread:
    """An event loop in a thread, for the async handlers of a sync processor."""

    def __init__(self, dispatch: Dispatch, size: int, runner: AsyncRunner, report: Report | None) -> None:
        self._dispatch = dispatch
        self._slots = TaskSlots(dispatch, size, runner, report)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._patience_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="araponga-events-loop", daemon=True)

    def start_if_needed(self) -> None:
        if SlotKind.TASK in self._dispatch.kinds():
            self._thread.start()
            self._ready.wait()

    def notify(self) -> None:
        self._slots.notify()

    def time_out(self, job: Job) -> None:
        self._slots.time_out(job)

    def has_current(self) -> bool:
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        """To its end, whatever is raised in a task that a handler has begun: SystemExit ends a run of the loop."""
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            life = loop.create_task(self._live())
            while not life.done():
                try:
                    loop.run_until_complete(life)
                except BaseException as error:
                    _logger.exception("a task of an async handler raised %s", type(error).__name__)

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._slots.start()
        self._ready.set()
        await self._stop.wait()
        await self._slots.close(self._patience_seconds)

    def close(self, patience_seconds: float) -> None:
        if self._loop is None or self._stop is None:
            return
        self._patience_seconds = patience_seconds
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(2 * patience_seconds)


def _run_inline(
    processor: BackgroundEventProcessor, store: EventStore, names: Mapping[str, str], skip_delays: bool
) -> Tally:
    """Claim and run in this thread, one delivery after the other."""
    dispatch = processor._new_dispatch(max_concurrency=1)
    dispatch.is_reported = True
    dispatch.learn(names)
    tally = Tally(dispatch, processor._clock)
    run = _InlineThread(dispatch, processor._runner(dispatch, store), processor._async_runner(dispatch))
    owner, completed, settlements = new_owner(), list[Receipt](), list[Settlement]()
    store.join(owner, _INLINE_LEASE_SECONDS)
    try:
        while True:
            alone = store.claim_alone(owner, dispatch.names)
            exchange = store.exchange(owner, completed, settlements, inline_wants(dispatch), ignore_due=skip_delays)
            completed, settlements = [], []
            if not alone.deliveries and tally.is_over(exchange):
                return tally
            dispatch.add(owner, alone.deliveries, is_alone=True)
            dispatch.add(owner, exchange.deliveries)
            run.all()
            completed, settlements = dispatch.outcome_batch()
    finally:
        run.close()
        store.exchange(owner, completed, settlements, ())
        store.leave(owner)


class _InlineThread:
    """Runs jobs in this thread; async handlers on a loop that exists only when there are some."""

    def __init__(self, dispatch: Dispatch, runner: Runner, async_runner: AsyncRunner) -> None:
        self._dispatch = dispatch
        self._runner = runner
        self._async_runner = async_runner
        self._loop: asyncio.Runner | None = None

    def all(self) -> None:
        while True:
            if (job := self._dispatch.take(SlotKind.THREAD)) is not None:
                self._runner(job)
            elif (job := self._dispatch.take(SlotKind.TASK)) is not None:
                self._opened().run(self._async_runner.within_timeout(job))
            else:
                return

    def _opened(self) -> asyncio.Runner:
        if self._loop is None:
            _refuse_running_loop()
            self._loop = asyncio.Runner()
        return self._loop

    def close(self) -> None:
        if self._loop is not None:
            self._loop.close()


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ProcessorStateError(
        "run_until_idle() would run an async handler inside a running event loop, which it would block for ever: "
        "use AsyncBackgroundEventProcessor there"
    )
