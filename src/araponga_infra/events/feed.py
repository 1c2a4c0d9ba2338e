"""What a processor should ask its store next; decided here, done by the sync and the async fetcher."""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass, field

from araponga_infra.clock import Clock
from araponga_infra.events.dispatch import Dispatch
from araponga_infra.events.isolation import Isolation
from araponga_infra.events.protocols import Settlement
from araponga_infra.events.values import Exchange, Receipt, Want

__all__ = ["Feed", "Step", "new_owner"]

_RECHECK_SECONDS = 0.05
_RECONCILE_SECONDS = 1.0
_DOUBT_SECONDS = 60.0
"""How long after a failure a claim that was given up may still reach the store."""
_ALERT_SECONDS = 0.012
_LOOK_AGAIN_SECONDS = 0.015


def new_owner() -> str:
    """A name that no worker has had before: leases and acknowledgements are guarded by it."""
    return uuid.uuid4().hex


@dataclass
class Step:
    """One exchange with the store."""

    owner: str
    completed: list[Receipt] = field(default_factory=list[Receipt])
    settlements: list[Settlement] = field(default_factory=list[Settlement])
    wants: list[Want] = field(default_factory=list[Want])
    is_alone: bool = False

    @property
    def is_needed(self) -> bool:
        return bool(self.completed or self.settlements or self.wants or self.is_alone)


class Feed:
    """Used by one fetcher, a thread or a task."""

    def __init__(self, dispatch: Dispatch, clock: Clock, *, patience_seconds: float, poll_seconds: float) -> None:
        self._dispatch = dispatch
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._next_due_seconds: float | None = None
        self._is_dry = False
        self._alert_until = 0.0
        self._doubt_until = 0.0
        self._reconcile_at = math.inf
        self.isolation: Isolation = Isolation(patience_seconds)
        self.owner: str = new_owner()
        self.is_draining = False

    def plan(self) -> Step:
        """What to send; `restore` it when sending failed, `took` when it succeeded."""
        now = self._clock.monotonic()
        dispatch, isolation = self._dispatch, self.isolation
        is_time = not self.is_draining and isolation.may_claim_alone(
            now, is_idle=dispatch.is_idle, is_buffer_empty=dispatch.is_buffer_empty
        )
        if is_time and dispatch.is_flushed:
            return Step(self.owner, is_alone=True)
        completed, settlements = dispatch.outcome_batch()
        may_fetch = not self.is_draining and isolation.may_fetch(now)
        return Step(self.owner, completed, settlements, dispatch.wants() if may_fetch else [])

    def lose_touch(self) -> None:
        """The store failed: what it holds for this worker and what this worker holds may differ.

        Not only by what was under way. What a network or a server has kept back is done later, a claim too, which
        nobody would know of.
        """
        now = time.monotonic()
        self._doubt_until, self._reconcile_at = now + _DOUBT_SECONDS, now

    @property
    def must_reconcile(self) -> bool:
        return time.monotonic() >= self._reconcile_at

    def reconciled(self) -> None:
        now = time.monotonic()
        self._reconcile_at = now + _RECONCILE_SECONDS if now < self._doubt_until else math.inf

    def restore(self, step: Step) -> None:
        self._dispatch.restore(step.completed, step.settlements)

    def took(self, step: Step, exchange: Exchange) -> None:
        if step.is_alone:
            self.isolation.note_claim(self._clock.monotonic(), is_found=bool(exchange.deliveries))
        if step.wants:
            self._is_dry = not exchange.deliveries
            self._next_due_seconds = exchange.next_due_seconds
        if exchange.deliveries:
            self._dispatch.add(step.owner, exchange.deliveries, is_alone=step.is_alone)
            if self.is_draining:
                self._dispatch.give_back_buffered()

    @property
    def is_dry(self) -> bool:
        """The last claim found nothing."""
        return self._is_dry

    def alert(self) -> None:
        """Another process has published. It speaks at most once in a while, so look again when that while is over."""
        self._alert_until = time.monotonic() + _ALERT_SECONDS

    def rest_seconds(self, step: Step) -> float:
        """How long to wait for a signal before looking again."""
        if step.is_alone:
            return 0.0
        return min(self._rest_seconds(), max(0.0, self._reconcile_at - time.monotonic()))

    def _rest_seconds(self) -> float:
        if time.monotonic() < self._alert_until:
            return _LOOK_AGAIN_SECONDS
        if self.isolation.has_suspects:
            return _RECHECK_SECONDS
        if self._is_dry and self._next_due_seconds is not None:
            return min(self._poll_seconds, self._next_due_seconds)
        return self._poll_seconds
