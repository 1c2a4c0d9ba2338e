"""Where handlers run: tasks of an event loop, and threads."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from araponga_infra.clock import Clock
from araponga_infra.events.context import PublishIn
from araponga_infra.events.dispatch import Dispatch, Job, SlotKind, outcome_of_error, outcome_of_result
from araponga_infra.events.errors import HandlerSignatureError
from araponga_infra.events.lifecycle import Failed, GivenBack
from araponga_infra.events.records import HandlerStuck
from araponga_infra.events.values import Receipt
from araponga_infra.telemetry import Report

__all__ = ["UNWINDING_SECONDS", "AsyncRunner", "Runner", "TaskSlots", "ThreadSlots"]

UNWINDING_SECONDS = 1.0
"""What a handler that is cancelled by its timeout gets to end."""
_YIELD_AFTER = 32
_logger = logging.getLogger("araponga_infra.events")
_current: ContextVar[Job | None] = ContextVar("araponga_infra.events.job", default=None)
InSession = Callable[[Receipt, Callable[[Any], Any]], Any]
"""Runs work in a transaction that also acknowledges its delivery; gives the work's result."""


class _Stuck:
    """Jobs of one kind that outlived their timeout and cannot be ended: they are retried, and their slots replaced.

    As long as there are fewer than twice as many of them as slots; then nothing is claimed for that kind until one
    returns. Thread-safe.
    """

    def __init__(self, dispatch: Dispatch, kind: SlotKind, size: int, report: Report | None) -> None:
        self._dispatch = dispatch
        self._kind = kind
        self._most = 2 * size
        self._report = report
        self._lock = threading.RLock()
        self._jobs: set[Job] = set()

    def __len__(self) -> int:
        return len(self._jobs)

    def give_up(self, job: Job) -> None:
        with self._lock:
            if job.is_settled:
                return
            self._jobs.add(job)
            stuck = len(self._jobs)
        late = job.timeout_error
        self._dispatch.end(job, outcome_of_error(late), late)
        if self._report is not None:
            self._report(HandlerStuck(job.delivery.name, job.plan.handler.name, stuck))
        if stuck >= self._most:
            _logger.error(
                "all %d slots for %s handlers are stuck: this process runs no more of them",
                stuck, "sync" if self._kind is SlotKind.THREAD else "async",
            )  # fmt: skip
        self._note()

    def returned(self, job: Job) -> bool:
        """Whether it was stuck until now."""
        with self._lock:
            if job not in self._jobs:
                return False
            self._jobs.discard(job)
        self._note()
        return True

    def _note(self) -> None:
        with self._lock:
            self._dispatch.note_slots(self._kind, len(self._jobs) < self._most)


class TaskSlots:
    """A number of tasks that take async handlers; a task lives as long as the processor, not one per event.

    One whose handler outlives its timeout is cancelled. A handler that ignores that, or blocks the loop, is left to
    itself and its task replaced, as long as no more than `size` are in that state.

    Args:
        dispatch: where jobs come from.
        size: how many tasks.
        run: runs one job and settles it.
        report: receives records.
    """

    def __init__(self, dispatch: Dispatch, size: int, run: AsyncRunner, report: Report | None = None) -> None:
        self._dispatch = dispatch
        self._size = size
        self._run = run
        self._stuck = _Stuck(dispatch, SlotKind.TASK, size, report)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._is_notified = False
        self._is_closing = False

    def start(self) -> None:
        """On the loop that will run the handlers."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        for _ in range(self._size):
            self._spawn()

    def _spawn(self) -> None:
        task = asyncio.create_task(self._work(), name=f"araponga-events-{len(self._tasks)}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def notify(self) -> None:
        """There may be jobs; from any thread, and any number of times for one wake-up."""
        if self._is_notified or self._loop is None or not self._idle:
            return
        if threading.get_ident() == self._thread:
            self._wake()
            return
        self._is_notified = True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            self._is_notified = False

    def _wake(self) -> None:
        self._is_notified = False
        idle, self._idle = self._idle, []
        for future in idle:
            if not future.done():
                future.set_result(None)

    async def _work(self) -> None:
        take, run, task, streak = self._dispatch.take, self._run, asyncio.current_task(), 0
        while True:
            job = take(SlotKind.TASK)
            if job is None:
                if self._is_closing:
                    return
                await self._rest()
                continue
            _current.set(job)
            await run(job, task)
            if job.is_timed_out and self._stuck.returned(job) and len(self._tasks) > self._size:
                self._tasks.discard(cast(asyncio.Task[None], task))
                return
            streak += 1
            if streak >= _YIELD_AFTER:
                streak = 0
                await asyncio.sleep(0)

    async def _rest(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        if self._dispatch.ready_count(SlotKind.TASK):
            self._wake()
        await future

    def has_current(self) -> bool:
        """Whether the caller is a handler in one of these slots."""
        try:
            return asyncio.current_task() in self._tasks
        except RuntimeError:
            return False

    def has_current_or_its_tasks(self) -> bool:
        """Whether the caller is a handler in one of these slots, or a task that one has begun and may await."""
        job = _current.get()
        return job is not None and self._dispatch.is_running(job)

    def time_out(self, job: Job) -> None:
        """Cancel an overdue job, and the next time give up on it; from any thread."""
        if job.is_timed_out:
            self._stuck.give_up(job)
            self._call(self._replace)
            return
        job.is_timed_out = True
        job.deadline = self._dispatch.later(UNWINDING_SECONDS)
        self._call(self._cancel, job)

    def _call(self, callback: Callable[..., object], *arguments: Job) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _cancel(self, job: Job) -> None:
        if not job.is_settled and job.task is not None:
            job.task.cancel()

    def _replace(self) -> None:
        if not self._is_closing and len(self._tasks) < self._size + min(len(self._stuck), self._size):
            self._spawn()

    async def close(self, patience_seconds: float) -> None:
        """Cancel what still runs; it is given back. Returns after `patience_seconds` at the latest."""
        self._is_closing = True
        self._wake()
        await asyncio.sleep(0)
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=patience_seconds)
        for job in self._dispatch.running():
            if job.plan.kind is SlotKind.TASK:
                self._dispatch.end(job, GivenBack())


@dataclass(frozen=True)
class Runner:
    """Runs sync handlers in whatever thread it is called from, and settles their jobs whatever they raise."""

    dispatch: Dispatch
    clock: Clock
    publish_in: PublishIn | None
    in_session: InSession | None

    def __call__(self, job: Job) -> None:
        try:
            if not job.plan.wants_session or self.in_session is None:
                result = self._call(job)
            else:
                result = self.in_session(job.receipt, lambda session: self._call(job, session))
        except BaseException as error:
            if _is_for_the_caller(self.dispatch, error):
                self.dispatch.end(job, GivenBack())
                raise
            self.dispatch.end(job, outcome_of_error(error), error)
        else:
            _settle(self.dispatch, job, result)

    def _call(self, job: Job, session: Any = None) -> Any:
        result = job.call(self.clock, self.publish_in, session)
        if result is not None and inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise HandlerSignatureError(
                f"handler {job.plan.handler.name!r} is a plain function and returned something to await, so that "
                "nothing was done: make it an async def"
            )
        return result


@dataclass(frozen=True)
class AsyncRunner:
    """Runs async handlers in the current task, which it is told, and settles their jobs whatever they raise."""

    dispatch: Dispatch
    clock: Clock
    publish_in: PublishIn | None
    in_session: InSession | None

    async def __call__(self, job: Job, task: asyncio.Task[Any] | None) -> None:
        job.task = task
        try:
            if not job.plan.wants_session or self.in_session is None:
                result = await job.call(self.clock, self.publish_in)
            else:
                result = await self.in_session(
                    job.receipt, lambda session: job.call(self.clock, self.publish_in, session)
                )
        except asyncio.CancelledError as error:
            if self._is_ours_to_end(job, task, error):
                raise
        except BaseException as error:
            if _is_closed_from_outside(task, error):
                raise
            if _is_for_the_caller(self.dispatch, error):
                self.dispatch.end(job, GivenBack())
                raise
            self.dispatch.end(job, outcome_of_error(error), error)
        else:
            if result is None:
                self.dispatch.succeed(job)
            else:
                _settle(self.dispatch, job, result)
        finally:
            job.task = None
            if job.is_timed_out and task is not None:
                task.uncancel()

    async def within_timeout(self, job: Job) -> None:
        """Run a job that no pulse watches, with a timer of its own."""

        def late() -> None:
            job.is_timed_out = True
            if job.task is not None:
                job.task.cancel()

        timeout, task = job.plan.policy.timeout_seconds, asyncio.current_task()
        if timeout is None:
            await self(job, task)
            return
        timer = asyncio.get_running_loop().call_later(timeout, late)
        try:
            await self(job, task)
        finally:
            timer.cancel()

    def _is_ours_to_end(self, job: Job, task: asyncio.Task[Any] | None, error: BaseException) -> bool:
        """Settle a cancelled job; True when it is the slot that is cancelled, not the handler."""
        if job.is_timed_out:
            late = job.timeout_error
            self.dispatch.end(job, outcome_of_error(late), late)
            return False
        if task is not None and task.cancelling():
            self.dispatch.end(job, GivenBack())
            return True
        self.dispatch.end(job, Failed("CancelledError: the handler was cancelled from within"), error)
        return False


def _is_closed_from_outside(task: asyncio.Task[Any] | None, error: BaseException) -> bool:
    """A task that is thrown away with its loop is told so by the very exception that a handler may raise."""
    if not isinstance(error, GeneratorExit):
        return False
    try:
        return asyncio.current_task() is not task
    except RuntimeError:
        return True


def _is_for_the_caller(dispatch: Dispatch, error: BaseException) -> bool:
    """Ctrl-C while handlers run in the caller's own thread is meant for the caller."""
    return dispatch.is_reported and isinstance(error, KeyboardInterrupt)


def _settle(dispatch: Dispatch, job: Job, result: object) -> None:
    outcome = outcome_of_result(result)
    if outcome is None:
        dispatch.succeed(job)
    else:
        dispatch.end(job, outcome, result if isinstance(result, Exception) else None)


class ThreadSlots:
    """Threads that take sync handlers; started when there is work, kept until closed.

    A thread whose handler outlives its timeout cannot be interrupted: it is left to itself and replaced, as long as no
    more than `size` are in that state. Once every thread is, nothing is claimed for sync handlers until one returns.
    """

    def __init__(self, dispatch: Dispatch, size: int, run: Runner, report: Report | None = None) -> None:
        self._dispatch = dispatch
        self._size = size
        self._run = run
        self._stuck = _Stuck(dispatch, SlotKind.THREAD, size, report)
        self._changed = threading.Condition()
        self._wakes = 0
        self._idle = 0
        self._threads: set[threading.Thread] = set()
        self._is_closing = False

    def notify(self) -> None:
        """There may be jobs; from any thread."""
        with self._changed:
            if self._is_closing:
                return
            waiting = self._dispatch.ready_count(SlotKind.THREAD)
            self._wakes = min(self._size, max(self._wakes, waiting))
            for _ in range(min(waiting - self._idle, self._allowed() - len(self._threads))):
                self._spawn()
            self._changed.notify(waiting)

    def _allowed(self) -> int:
        return self._size + min(len(self._stuck), self._size)

    def _spawn(self) -> None:
        thread = threading.Thread(target=self._work, name=f"araponga-events-{len(self._threads)}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        try:
            while not self._is_closing:
                job = self._dispatch.take(SlotKind.THREAD)
                if job is None:
                    self._rest()
                    continue
                self._run(job)
                if job.is_timed_out and self._stuck.returned(job) and len(self._threads) > self._size:
                    return
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
                self._changed.notify_all()

    def _rest(self) -> None:
        with self._changed:
            self._idle += 1
            while not self._wakes and not self._is_closing:
                self._changed.wait()
            self._idle -= 1
            self._wakes = max(0, self._wakes - 1)

    def has_current(self) -> bool:
        """Whether the caller is a handler in one of these slots."""
        return threading.current_thread() in self._threads

    def time_out(self, job: Job) -> None:
        """Give up on an overdue job: it is retried, and its thread replaced."""
        job.is_timed_out = True
        self._stuck.give_up(job)
        self.notify()

    def close(self, patience_seconds: float) -> None:
        """Give back what still runs. Threads that do not return within `patience_seconds` are left behind."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._threads) <= len(self._stuck), patience_seconds)
        for job in self._dispatch.running():
            if job.plan.kind is SlotKind.THREAD:
                self._dispatch.end(job, GivenBack())
