"""What one processor holds between its store and its handlers: fetched, running, waiting to be acknowledged.

No I/O and no waiting: the sync and the async shell both drive this from their own threads and tasks.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any

from araponga_infra.clock import Clock
from araponga_infra.events.catalog import Catalog
from araponga_infra.events.context import DeliveryContext, PublishIn
from araponga_infra.events.errors import GiveUp, HandlerTimeoutError, RetryLater
from araponga_infra.events.handlers import Handler
from araponga_infra.events.lifecycle import (
    Decision,
    Failed,
    GaveUp,
    GivenBack,
    Outcome,
    Postponed,
    Quarantined,
    RetryAsked,
    RetryPolicy,
    decide,
)
from araponga_infra.events.prefetch import next_batch, shares
from araponga_infra.events.protocols import Settlement
from araponga_infra.events.records import DeliveryCompleted, DeliveryDied, DeliveryRetried
from araponga_infra.events.values import DeadReason, Delivery, Receipt, State, Want
from araponga_infra.telemetry import Report

__all__ = ["Dispatch", "Job", "Plan", "SlotKind", "outcome_of_error", "outcome_of_result"]

_logger = logging.getLogger("araponga_infra.events")


class SlotKind(IntEnum):
    TASK = 0
    THREAD = 1


@dataclass(frozen=True)
class Plan:
    """How to run one handler, with everything resolved that does not depend on the delivery."""

    handler: Handler
    policy: RetryPolicy
    kind: SlotKind
    wants_session: bool
    wants_nothing: bool
    """Only the event."""

    @classmethod
    def of(cls, handler: Handler, default: RetryPolicy) -> Plan:
        wants_session = handler.session_parameter is not None
        return cls(
            handler,
            handler.policy(default),
            SlotKind.TASK if handler.is_async else SlotKind.THREAD,
            wants_session,
            wants_nothing=handler.context_parameter is None and not wants_session,
        )


class Job:
    """A delivery that was read and waits for a slot, or runs in one."""

    __slots__ = (
        "deadline",
        "delivery",
        "error",
        "event",
        "is_settled",
        "is_timed_out",
        "owner",
        "plan",
        "started",
        "task",
    )

    def __init__(self, owner: str, delivery: Delivery, plan: Plan, event: Any) -> None:
        self.owner: str = owner
        self.delivery: Delivery = delivery
        self.plan: Plan = plan
        self.event: Any = event
        self.started: float = 0.0
        self.deadline: float | None = None
        self.is_settled: bool = False
        self.is_timed_out: bool = False
        self.task: Any = None
        self.error: BaseException | None = None

    @property
    def receipt(self) -> Receipt:
        return self.owner, self.delivery

    @property
    def attempt(self) -> int:
        return self.delivery.attempts + 1

    @property
    def timeout_error(self) -> HandlerTimeoutError:
        seconds = self.plan.policy.timeout_seconds or 0.0
        return HandlerTimeoutError(f"handler {self.plan.handler.name!r} ran longer than its timeout of {seconds:g} s")

    def call(self, clock: Clock, publish_in: PublishIn | None, session: Any = None) -> Any:
        """Call the handler with what it asks for; an async one gives an awaitable."""
        handler = self.plan.handler
        if self.plan.wants_nothing:
            return handler.function(self.event)
        asked: dict[str, Any] = {}
        if handler.context_parameter is not None:
            asked[handler.context_parameter] = self.context(clock, publish_in)
        if handler.session_parameter is not None:
            asked[handler.session_parameter] = session
        return handler.function(self.event, **asked)

    def context(self, clock: Clock, publish_in: PublishIn | None) -> DeliveryContext:
        timeout = self.plan.policy.timeout_seconds
        deadline = None if timeout is None else clock.now() + timedelta(seconds=timeout)
        return DeliveryContext(self.delivery, attempt=self.attempt, deadline=deadline, publish_in=publish_in)


def outcome_of_result(result: object) -> Outcome | None:
    """What a handler's return value asks for; None when it simply succeeded."""
    if isinstance(result, RetryLater):
        return RetryAsked(result.delay_seconds)
    return GaveUp(result.reason) if isinstance(result, GiveUp) else None


def outcome_of_error(error: BaseException) -> Outcome:
    if isinstance(error, RetryLater):
        return RetryAsked(error.delay_seconds)
    if isinstance(error, GiveUp):
        return GaveUp(error.reason)
    return Failed(_described(error))


def _described(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception as broken:
        return f"{type(error).__name__}, whose own message raised {type(broken).__name__}"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class Dispatch:
    """Jobs of one processor. Thread-safe; never blocks for longer than a few assignments.

    Args:
        catalog: handlers and events.
        default: policy of handlers without their own.
        max_concurrency: how many jobs run at a time.
        fetch_batch: how many deliveries are claimed ahead at most.

    Attributes:
        is_reported: whether somebody is handed what failed, so that it need not be logged.
        on_ready: called, outside the lock, when jobs of a kind can be taken.
        on_settled: called, outside the lock, when there is something to acknowledge or to fetch; True when urgent.
        on_decision: called, outside the lock, with whatever did not simply complete.
    """

    def __init__(
        self,
        catalog: Catalog,
        default: RetryPolicy,
        *,
        max_concurrency: int,
        fetch_batch: int,
        clock: Clock,
        report: Report | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._catalog = catalog
        self._default = default
        self._max_concurrency = max_concurrency
        self._fetch_batch = max(fetch_batch, max_concurrency)
        self._clock = clock
        self._report = report
        self._rng = rng
        self._lock = threading.Lock()
        self._plans: dict[str, Plan] = {}
        self._limited: set[str] = set()
        self._ready: tuple[deque[Job], deque[Job]] = (deque(), deque())
        self._parked: dict[str, deque[Job]] = {}
        self._held: dict[str, int] = {}
        self._busy: dict[str, int] = {}
        self._running: set[Job] = set()
        self._buffered = 0
        self._completed: list[Receipt] = []
        self._settlements: list[Settlement] = []
        self._batch = (
            self._fetch_batch if fetch_batch < max_concurrency else min(self._fetch_batch, 2 * max_concurrency)
        )
        self._fetched_at = float("-inf")
        self._last_busy: set[str] = set()
        self._is_dry = False
        self._shut: set[SlotKind] = set()
        self.completed: int = 0
        self.is_reported = False
        self.on_ready: Callable[[SlotKind], object] = _nothing
        self.on_settled: Callable[[bool], object] = _nothing
        self.on_decision: Callable[[Delivery, Decision, BaseException | None], object] = _no_decision

    # -- what is claimed

    def learn(self, names: Mapping[str, str]) -> None:
        """Take deliveries under these stored names, each for the handler it stands for."""
        with self._lock:
            self._plans = {name: Plan.of(self._catalog.handlers[own], self._default) for name, own in names.items()}
            self._limited = {name for name, plan in self._plans.items() if plan.handler.max_concurrency is not None}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._plans)

    def plan(self, name: str) -> Plan | None:
        return self._plans.get(name)

    def kinds(self) -> set[SlotKind]:
        return {plan.kind for plan in self._plans.values()}

    def wants(self) -> list[Want]:
        """What there is room for; empty while at least half of the last batch still waits for a slot."""
        with self._lock:
            room = self._batch - self._buffered
            if self._buffered > self._batch // 2 or room <= 0:
                return []
            names = self._plans if not self._shut else self._open_names()
            open_names = [each for each in names if each not in self._limited]
            wanted = shares(room, open_names, self._last_busy) if open_names else {}
            for name in self._limited.intersection(names):
                limit = 2 * (self._plans[name].handler.max_concurrency or 1) - self._held.get(name, 0)
                if limit > 0:
                    wanted[name] = limit
            return [Want(name, limit) for name, limit in wanted.items()]

    def _open_names(self) -> list[str]:
        return [name for name, plan in self._plans.items() if plan.kind not in self._shut]

    def note_slots(self, kind: SlotKind, has_slots: bool) -> None:
        """Whether any slot of a kind is left; without one the deliveries for it are other instances' to run."""
        if has_slots:
            self._shut.discard(kind)
        else:
            self._shut.add(kind)
            self.give_back_buffered(kind)
        self.on_settled(True)

    def add(self, owner: str, deliveries: Iterable[Delivery], *, is_alone: bool = False) -> None:
        """Take claimed deliveries; those that cannot be read are settled at once."""
        now = self._clock.now().timestamp()
        jobs = [job for each in deliveries if (job := self._job(owner, each, now, is_alone)) is not None]
        with self._lock:
            self._note_fetch(jobs)
            for job in jobs:
                self._ready[job.plan.kind].append(job)
                self._buffered += 1
                if job.delivery.handler in self._limited:
                    self._held[job.delivery.handler] = self._held.get(job.delivery.handler, 0) + 1
        for kind in {job.plan.kind for job in jobs}:
            self.on_ready(kind)
        for kind in tuple(self._shut):
            self.give_back_buffered(kind)

    def _note_fetch(self, jobs: list[Job]) -> None:
        self._is_dry = not jobs
        if not jobs:
            return
        now = self._clock.monotonic()
        self._batch = next_batch(self._batch, now - self._fetched_at, 2 * self._max_concurrency, self._fetch_batch)
        self._fetched_at = now
        self._last_busy = {job.delivery.handler for job in jobs}

    def _job(self, owner: str, delivery: Delivery, now: float, is_alone: bool) -> Job | None:
        plan = self._plans.get(delivery.handler)
        if plan is None:
            self._settle_unstarted(owner, delivery, GivenBack(), self._default)
            return None
        if is_alone and delivery.attempts >= plan.policy.max_attempts:
            lost = Quarantined(DeadReason.WORKER_LOST, f"{delivery.losses} workers were lost while it ran, or was held")
            self._settle_unstarted(owner, delivery, lost, plan.policy)
            return None
        event = self._catalog.read(delivery, plan.handler, now)
        if isinstance(event, (Quarantined, Postponed)):
            self._settle_unstarted(owner, delivery, event, plan.policy)
            return None
        return Job(owner, delivery, plan, event)

    def _settle_unstarted(self, owner: str, delivery: Delivery, outcome: Outcome, policy: RetryPolicy) -> None:
        decision = decide(delivery.attempts, delivery.losses, outcome, policy, self._rng)
        with self._lock:
            self._settlements.append(((owner, delivery), decision))
        self.on_decision(delivery, decision, None)
        if decision.state is State.DEAD:
            self._tell(delivery, decision, None)
        self.on_settled(True)

    # -- what runs

    def take(self, kind: SlotKind) -> Job | None:
        """The next job for a slot of this kind; it counts as started."""
        ready = self._ready[kind]
        with self._lock:
            if len(self._running) >= self._max_concurrency:
                return None
            while ready:
                job = ready.popleft()
                if self._limited and not self._may_start(job):
                    continue
                self._buffered -= 1
                self._running.add(job)
                job.started = now = self._clock.monotonic()
                timeout = job.plan.policy.timeout_seconds
                if timeout is not None:
                    job.deadline = now + timeout
                return job
        return None

    def _may_start(self, job: Job) -> bool:
        name = job.delivery.handler
        limit = job.plan.handler.max_concurrency
        if limit is None:
            return True
        if self._busy.get(name, 0) >= limit:
            self._parked.setdefault(name, deque()).append(job)
            return False
        self._busy[name] = self._busy.get(name, 0) + 1
        return True

    def succeed(self, job: Job) -> None:
        """The handler returned. Where it had a session, the store knows already, by the handler's own transaction."""
        plan, delivery = job.plan, job.delivery
        with self._lock:
            if job.is_settled:
                return
            self._end(job)
            self.completed += 1
            if not plan.wants_session:
                self._completed.append((job.owner, delivery))
            urgency = self._urgency()
            others = self._ready[1 - plan.kind]
        if self._report is not None:
            seconds = self._clock.monotonic() - job.started
            self._report(DeliveryCompleted(delivery.name, plan.handler.name, delivery.attempts + 1, seconds))
        if urgency is not None:
            self.on_settled(urgency)
        if others:
            self.on_ready(SlotKind(1 - plan.kind))

    def end(self, job: Job, outcome: Outcome, error: BaseException | None = None) -> None:
        """The handler did not succeed; decide what follows. A job that was settled before stays as it was."""
        delivery = job.delivery
        decision = decide(delivery.attempts, delivery.losses, outcome, job.plan.policy, self._rng)
        with self._lock:
            if job.is_settled:
                return
            self._end(job)
            job.error = error
            self._settlements.append(((job.owner, delivery), decision))
        self.on_decision(delivery, decision, error)
        if not isinstance(outcome, GivenBack):
            self._tell(delivery, decision, error)
        self.on_settled(True)
        for kind in SlotKind:
            if self._ready[kind]:
                self.on_ready(kind)

    def _end(self, job: Job) -> None:
        job.is_settled = True
        self._running.discard(job)
        if self._limited and job.delivery.handler in self._limited:
            self._make_way(job)

    def _make_way(self, job: Job) -> None:
        """Let the next delivery of a handler with a limit of its own start."""
        name = job.delivery.handler
        self._held[name] -= 1
        self._busy[name] = self._busy.get(name, 0) - 1
        parked = self._parked.get(name)
        if parked:
            self._ready[job.plan.kind].appendleft(parked.popleft())

    def _urgency(self) -> bool | None:
        """Whether to tell the fetcher now (True), soon (False), or not at all, since it was told before."""
        waiting = len(self._completed)
        if self._buffered <= self._batch // 2 and (not self._is_dry or not (self._buffered or self._running)):
            return True
        if waiting >= self._fetch_batch:
            return True
        return False if waiting == 1 else None

    def _tell(self, delivery: Delivery, decision: Decision, error: BaseException | None) -> None:
        if not self.is_reported:
            _log(delivery, decision, error)
        if self._report is None:
            return
        name, handler, attempts = delivery.name, delivery.handler, decision.attempts
        if decision.reason is not None:
            self._report(DeliveryDied(name, handler, attempts, decision.reason))
        elif decision.state is State.RETRYABLE:
            self._report(DeliveryRetried(name, handler, attempts, decision.delay_seconds, _kind(error)))

    # -- what is over

    def outcome_batch(self) -> tuple[list[Receipt], list[Settlement]]:
        """Take what has to be acknowledged; `restore` it when that failed."""
        with self._lock:
            batch = self._completed, self._settlements
            self._completed, self._settlements = [], []
        return batch

    def restore(self, completed: list[Receipt], settlements: list[Settlement]) -> None:
        with self._lock:
            self._completed = completed + self._completed
            self._settlements = settlements + self._settlements

    def give_back_buffered(self, *kinds: SlotKind) -> None:
        """Put what has not started back into the store, so that other instances need not wait for it."""
        for job in self._drop_buffered(kinds or tuple(SlotKind)):
            self._settle_unstarted(job.owner, job.delivery, GivenBack(), job.plan.policy)

    def drop_buffered(self) -> None:
        """Forget what has not started: another owner has it by now."""
        self._drop_buffered(tuple(SlotKind))

    def _drop_buffered(self, kinds: Collection[SlotKind]) -> list[Job]:
        with self._lock:
            lines = [self._ready[kind] for kind in kinds]
            lines += [line for line in self._parked.values() if line and line[0].plan.kind in kinds]
            jobs = [job for line in lines for job in line]
            for line in lines:
                line.clear()
            for job in jobs:
                if job.delivery.handler in self._limited:
                    self._held[job.delivery.handler] -= 1
            self._buffered -= len(jobs)
            return jobs

    def held_by(self, owner: str) -> list[str]:
        """Ids of all deliveries claimed by `owner` that the store has not been told about."""
        with self._lock:
            jobs = [*self._ready[0], *self._ready[1], *self._running]
            jobs += [job for line in self._parked.values() for job in line]
            receipts = [job.receipt for job in jobs] + self._completed + [receipt for receipt, _ in self._settlements]
        return [delivery.id for held, delivery in receipts if held == owner]

    def is_running(self, job: Job) -> bool:
        return job in self._running

    def running(self) -> list[Job]:
        with self._lock:
            return list(self._running)

    def overdue(self) -> list[Job]:
        """Running jobs past their deadline."""
        if not self._running:
            return []
        now = self._clock.monotonic()
        return [job for job in self.running() if job.deadline is not None and job.deadline <= now]

    def later(self, seconds: float) -> float:
        """A deadline from now on."""
        return self._clock.monotonic() + seconds

    def ready_count(self, kind: SlotKind) -> int:
        """How many jobs of this kind could start now, at most."""
        return min(len(self._ready[kind]), max(0, self._max_concurrency - len(self._running)))

    @property
    def is_idle(self) -> bool:
        """Nothing waits for a slot and nothing runs."""
        return not self._running and not self._buffered

    @property
    def is_buffer_empty(self) -> bool:
        return not self._buffered

    @property
    def is_flushed(self) -> bool:
        return not self._completed and not self._settlements


def _kind(error: BaseException | None) -> str:
    return "RetryLater" if error is None else type(error).__name__


def _log(delivery: Delivery, decision: Decision, error: BaseException | None) -> None:
    if decision.state is State.DEAD:
        _logger.error(
            "event %r is a dead letter of handler %r after %d attempts: %s",
            delivery.name, delivery.handler, decision.attempts, decision.reason, exc_info=error,
        )  # fmt: skip
    elif decision.state is State.RETRYABLE:
        _logger.warning(
            "handler %r of event %r: attempt %d ended with %s, the next is in %.2f s",
            delivery.handler, delivery.name, decision.attempts, _kind(error), decision.delay_seconds,
        )  # fmt: skip


def _nothing(_: Any) -> None:
    """Before a shell has said what to do."""


def _no_decision(_delivery: Delivery, _decision: Decision, _error: BaseException | None) -> None:
    """Nobody is keeping count."""
