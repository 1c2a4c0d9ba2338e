"""Keeping count of a run of `run_until_idle`."""

from __future__ import annotations

import threading
from uuid import UUID

from araponga_infra.clock import Clock
from araponga_infra.events.dispatch import Dispatch
from araponga_infra.events.errors import DeliveryFailedError
from araponga_infra.events.lifecycle import Decision
from araponga_infra.events.values import (
    DeadLetter,
    DeadReason,
    Delivery,
    Exchange,
    RunReport,
    State,
    Want,
    as_datetime,
)

__all__ = ["Tally", "inline_wants"]

_INLINE_BATCH = 100


def inline_wants(dispatch: Dispatch) -> list[Want]:
    return [Want(name, _INLINE_BATCH) for name in dispatch.names]


class Tally:
    """Counts what a dispatch decides from now on; thread-safe."""

    def __init__(self, dispatch: Dispatch, clock: Clock) -> None:
        self._dispatch = dispatch
        self._clock = clock
        self._completed_before = dispatch.completed
        self._lock = threading.Lock()
        self._retried = 0
        self._dead: list[DeadLetter] = []
        self._errors: list[BaseException] = []
        self._postponed: set[tuple[UUID, str]] = set()
        dispatch.on_decision = self._note

    def _note(self, delivery: Delivery, decision: Decision, error: BaseException | None) -> None:
        with self._lock:
            if decision.state is State.DEAD:
                letter = _letter(delivery, decision, self._clock)
                self._dead.append(letter)
                self._errors.append(error or _failure(letter))
            elif decision.state is State.RETRYABLE and decision.attempts > delivery.attempts:
                self._retried += 1
            elif decision.state is State.RETRYABLE:
                self._postponed.add((delivery.event_id, delivery.handler))

    def is_over(self, exchange: Exchange) -> bool:
        """Nothing was handed out, or only what is not for this process and was put back before."""
        return all((each.event_id, each.handler) in self._postponed for each in exchange.deliveries)

    def report(self) -> RunReport:
        return RunReport(self._dispatch.completed - self._completed_before, self._retried, tuple(self._dead))

    def raise_dead(self) -> None:
        """Raise what handlers raised in the end: the one error, or a group of them."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise BaseExceptionGroup(f"{len(self._errors)} deliveries ended as dead letters", self._errors)


def _letter(delivery: Delivery, decision: Decision, clock: Clock) -> DeadLetter:
    return DeadLetter(
        id=delivery.id, event_id=delivery.event_id, event_name=delivery.name, event_version=delivery.version,
        handler=delivery.handler, attempts=decision.attempts, lost_leases=decision.losses,
        reason=decision.reason or DeadReason.ATTEMPTS_EXHAUSTED, error=decision.error,
        published_at=as_datetime(delivery.published_at), died_at=clock.now(), payload=delivery.payload,
        headers=dict(delivery.headers or {}), ordering_key=delivery.ordering_key,
    )  # fmt: skip


def _failure(letter: DeadLetter) -> DeliveryFailedError:
    return DeliveryFailedError(
        f"event {letter.event_name!r} is a dead letter of handler {letter.handler!r}: {letter.reason}: {letter.error}"
    )
