"""What is known of a replica and what follows from it: frozen values and pure decisions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from araponga_infra.clock import Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError

__all__ = [
    "Answer",
    "Chooser",
    "Limits",
    "ReplicaStatus",
    "after_answer",
    "after_failure",
    "is_candidate",
    "least_loaded_of_two",
    "limits_of",
    "needs_contact",
]


@dataclass(frozen=True)
class Limits:
    """What a replica may do and still serve reads; all in seconds."""

    max_lag_seconds: float = 10.0
    max_wait_seconds: float = 0.25
    check_interval_seconds: float = 1.0
    check_timeout_seconds: float = 0.5


def limits_of(max_lag: Duration, max_wait: Duration, check_interval: Duration) -> Limits:
    """The limits from a caller's arguments.

    Raises:
        InvalidArgumentError: not a duration or a negative one.
    """
    return Limits(
        max_lag_seconds=to_seconds(max_lag, "max_lag"),
        max_wait_seconds=to_seconds(max_wait, "max_wait"),
        check_interval_seconds=to_seconds(check_interval, "check_interval", allow_zero=False),
    )


@dataclass(frozen=True)
class Answer:
    """What a replica said of itself."""

    is_standby: bool
    position: int


@dataclass(frozen=True)
class ReplicaStatus:
    """What is known of one replica.

    Attributes:
        replica: its name in logs: its number and where it is, without user and password.
        is_available: whether reads go there.
        reason: why not; empty while it is available.
        position: how far it has replayed the write-ahead log, at least.
        lag_seconds: how old its data is, at most; 0 when it has all that the primary is known to have written.
        answered_at: monotonic time of its last answer; None before the first.
        failed_at: monotonic time of its last failure; None when it has answered since.
        in_use: read-only sessions on it in this process.
    """

    replica: str
    is_available: bool = True
    reason: str = ""
    position: int = 0
    lag_seconds: float = 0.0
    answered_at: float | None = None
    failed_at: float | None = None
    in_use: int = 0


Chooser: TypeAlias = Callable[[Sequence[ReplicaStatus]], ReplicaStatus]
"""A host's own choice among the replicas that may serve a read; it returns one of those it was given."""


def after_answer(
    status: ReplicaStatus, answer: Answer, *, lag_seconds: float, now: float, limits: Limits
) -> ReplicaStatus:
    """The status after a replica has answered a check."""
    if not answer.is_standby:
        return replace(status, is_available=False, reason="promoted: it is not a standby any more", answered_at=now)
    is_lagging = lag_seconds > limits.max_lag_seconds
    return replace(
        status,
        is_available=not is_lagging,
        reason="lagging" if is_lagging else "",
        position=answer.position,
        lag_seconds=lag_seconds,
        answered_at=now,
        failed_at=None,
    )


def after_failure(status: ReplicaStatus, reason: str, *, now: float) -> ReplicaStatus:
    """The status after a replica has failed; what it had replayed is no longer relied upon."""
    return replace(status, is_available=False, reason=reason, position=0, answered_at=None, failed_at=now)


def is_candidate(status: ReplicaStatus, now: float, limits: Limits) -> bool:
    """Whether a read may go there, or try to."""
    asked_at = status.failed_at if status.failed_at is not None else status.answered_at
    return status.is_available or asked_at is None or now - asked_at >= limits.check_interval_seconds


def needs_contact(status: ReplicaStatus, wanted: int, now: float, limits: Limits) -> bool:
    """Whether to ask the replica where it is before a read that wants to see position `wanted` (0: any)."""
    is_recent = status.answered_at is not None and now - status.answered_at <= 2 * limits.check_interval_seconds
    return not is_recent or status.position < wanted


def least_loaded_of_two(candidates: Sequence[ReplicaStatus], rng: random.Random | None = None) -> ReplicaStatus:
    """The less loaded of two that are drawn at random: nearly as even as asking all, without herding onto one.

    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12 (10), 2001.

    Raises:
        InvalidArgumentError: no candidates.
    """
    if not candidates:
        raise InvalidArgumentError("candidates is empty: there is nothing to choose from")
    draw = rng or random
    first, second = draw.choice(candidates), draw.choice(candidates)
    return first if first.in_use <= second.in_use else second
