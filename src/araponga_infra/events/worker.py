"""A consuming processor from start to stop, but for its waiting: threads and tasks decide alike here."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from araponga_infra.backoff import Backoff
from araponga_infra.events.dispatch import Dispatch, Job, SlotKind
from araponga_infra.events.feed import Feed, Step
from araponga_infra.events.processor import Processor
from araponga_infra.events.protocols import LeaseKeeper, WakeListener
from araponga_infra.events.pulse import Pulse
from araponga_infra.events.records import (
    DeliveriesFenced,
    DeliveriesRescued,
    LeaseRenewed,
    StoreRecovered,
    StoreUnavailable,
)
from araponga_infra.events.signals import AsyncSignal, Signal
from araponga_infra.events.values import Exchange, Reaped

__all__ = ["LINGER_SECONDS", "SETTLE_SECONDS", "Worker"]

LINGER_SECONDS = 0.002
SETTLE_SECONDS = 1.0
"""What handlers that are cancelled, and the last exchange, get beyond the grace period."""
_REFRESH_SECONDS = 1.0
_RETRY_STORE = Backoff(initial=0.05, maximum=0.25)
_logger = logging.getLogger("araponga_infra.events")
AnySignal = TypeVar("AnySignal", Signal, AsyncSignal)


class Slots(Protocol):
    """Where handlers run."""

    def notify(self) -> object:
        """There may be something to take."""
        ...

    def time_out(self, job: Job) -> object: ...

    def has_current(self) -> bool:
        """Whether the caller runs in one of them."""
        ...


class Worker(ABC, Generic[AnySignal]):
    """Takes deliveries from a store and has them run.

    Args:
        processor: whose handlers and options are meant.
        names: names of its handlers in the store.
        signal: wakes the fetcher; set from any thread.
    """

    def __init__(self, processor: Processor, names: Mapping[str, str], signal: AnySignal) -> None:
        self.signal: AnySignal = signal
        self._lease_seconds = processor._lease_seconds
        self._report = processor._report
        self._dispatch: Dispatch = processor._new_dispatch()
        self._dispatch.learn(names)
        self._feed: Feed = processor._new_feed(self._dispatch)
        self._pulse: Pulse | None = None
        self._listener: WakeListener | None = None
        self._is_stopping = False
        self._is_abandoned = False
        self._ignore_due = False
        self._failures = 0
        self._failing_since = 0.0
        self._refreshed_at = time.monotonic()

        self._dispatch.on_ready = self._notify
        self._dispatch.on_settled = signal.set

    @abstractmethod
    def _slots_of(self, kind: SlotKind) -> Slots: ...

    def _notify(self, kind: SlotKind) -> None:
        self._slots_of(kind).notify()

    def _hear(self) -> None:
        self._feed.alert()
        self.signal.set()

    def is_inside(self) -> bool:
        """Whether the caller is a handler that runs here."""
        return any(self._slots_of(kind).has_current() for kind in SlotKind)

    # -- signs of life

    def _start_pulse(self, open_keeper: Callable[[], LeaseKeeper]) -> None:
        self._pulse = Pulse(
            open_keeper, self._dispatch, owner=self._feed.owner, lease_seconds=self._lease_seconds,
            on_lost=self._renew, on_reaped=self._note_reaped, on_overdue=self._time_out,
            names=lambda: self._dispatch.names,
        )  # fmt: skip
        self._pulse.start()

    def _close_threads(self) -> None:
        """Of the listener and the pulse; waits for them."""
        if self._listener is not None:
            self._listener.close()
        if self._pulse is not None:
            self._pulse.close()

    def _renew(self, owner: str) -> None:
        self._feed.owner = owner
        self._dispatch.drop_buffered()
        self._tell(LeaseRenewed())
        self.signal.set()

    def _note_reaped(self, reaped: Reaped) -> None:
        if reaped.rescued:
            self._tell(DeliveriesRescued(reaped.rescued))
        if reaped.has_suspects:
            self._feed.isolation.has_suspects = True
        if reaped.rescued or reaped.has_suspects:
            self.signal.set()

    def _time_out(self, job: Job) -> None:
        self._slots_of(job.plan.kind).time_out(job)

    def _note_not_left(self, error: Exception) -> None:
        _logger.warning("leaving the event store failed (%s): the lease will run out", type(error).__name__)

    # -- rounds of the fetcher

    @property
    def _is_done(self) -> bool:
        """Stopped, and the store knows of it all, or there is no more time to tell it."""
        return self._is_abandoned or (self._is_stopping and self._has_settled)

    @property
    def _has_settled(self) -> bool:
        """Nothing runs, and the store knows of it all."""
        return self._dispatch.is_idle and self._dispatch.is_flushed

    def _is_time_to_refresh(self) -> bool:
        """Learn now and then what other processes have renamed."""
        now = time.monotonic()
        is_time = now - self._refreshed_at >= _REFRESH_SECONDS and not self._is_stopping
        if is_time:
            self._refreshed_at = now
        return is_time

    def _took(self, step: Step, exchange: Exchange) -> None:
        self._feed.took(step, exchange)
        if exchange.fenced:
            self._tell(DeliveriesFenced(exchange.fenced))

    def _rest_seconds(self, step: Step) -> float | None:
        """How long to wait for a signal after a round; None: not at all, there is room and may be more to fetch."""
        wants_more = bool(self._dispatch.wants())
        if wants_more and step.wants and not self._feed.is_dry:
            return None
        if not wants_more:
            self.signal.relax()
        return self._feed.rest_seconds(step)

    def _note_failure(self, error: Exception) -> float:
        """Returns after how many seconds to try again."""
        self._feed.lose_touch()
        self._refreshed_at = -math.inf
        self._failures += 1
        if self._failures == 1:
            self._failing_since = time.monotonic()
            _logger.warning("the event store does not answer (%s); trying on", type(error).__name__)
            self._tell(StoreUnavailable(type(error).__name__))
        return _RETRY_STORE.delay(self._failures)

    def _note_recovery(self) -> None:
        if not self._failures:
            return
        self._failures = 0
        seconds = time.monotonic() - self._failing_since
        _logger.warning("the event store answers again after %.1f s", seconds)
        self._tell(StoreRecovered(seconds))

    def _tell(self, record: Any) -> None:
        if self._report is not None:
            self._report(record)
