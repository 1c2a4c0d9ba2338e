"""What is known of a replica and what follows from it: frozen values and pure decisions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from araponga_infra.clock import Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError

__all__ = [
    "HEARTBEAT_SECONDS",
    "NOT_ASKED",
    "Answer",
    "Chooser",
    "Limits",
    "PositionHistory",
    "ReplicaStatus",
    "after_answer",
    "after_failure",
    "after_use",
    "is_candidate",
    "is_check_due",
    "least_loaded_of_two",
    "limits_of",
    "needs_confirmation",
]

NOT_ASKED = "not asked yet"
_FRESH_SECONDS = 0.3
"""How long an answer stands for a replica that is in use; a hung one is passed over after so long."""
HEARTBEAT_SECONDS = 0.1
"""A replica in use is asked again when no answer came for so long, so that it stays fresh under long queries."""


@dataclass(frozen=True)
class Limits:
    """What a replica may do and still serve reads; all in seconds."""

    max_lag_seconds: float = 10.0
    max_wait_seconds: float = 0.25
    check_interval_seconds: float = 1.0
    check_timeout_seconds: float = 1.0


def limits_of(max_lag: Duration, max_wait: Duration, check_interval: Duration, check_timeout: Duration) -> Limits:
    """The limits from a caller's arguments.

    Raises:
        InvalidArgumentError: not a duration or a negative one.
    """
    return Limits(
        max_lag_seconds=to_seconds(max_lag, "max_lag"),
        max_wait_seconds=to_seconds(max_wait, "max_wait"),
        check_interval_seconds=to_seconds(check_interval, "check_interval", allow_zero=False),
        check_timeout_seconds=to_seconds(check_timeout, "check_timeout", allow_zero=False),
    )


@dataclass(frozen=True)
class Answer:
    """What a replica said of itself."""

    is_standby: bool
    position: int


class ReplicaStatus(Struct, frozen=True):  # made anew for each session: a Struct costs a tenth of a dataclass
    """What is known of one replica.

    Attributes:
        replica: its name in logs: its number and where it is, without user and password.
        is_available: whether reads go there.
        reason: why not; empty while it is available.
        position: how far it has replayed the write-ahead log, at least.
        lag_seconds: how old its data is, about; 0 when it has all that the primary is known to have written.
        answered_at: monotonic time of its last answer; None before the first and after a failure.
        in_use: read-only sessions on it in this process.
    """

    replica: str
    is_available: bool = False
    reason: str = NOT_ASKED
    position: int = 0
    lag_seconds: float = 0.0
    answered_at: float | None = None
    in_use: int = 0


Chooser: TypeAlias = Callable[[Sequence[ReplicaStatus]], ReplicaStatus]
"""A host's own choice among the replicas that may serve a read; it returns one of those it was given."""


def after_answer(
    status: ReplicaStatus, answer: Answer, *, lag_seconds: float, now: float, limits: Limits
) -> ReplicaStatus:
    """The status after a replica has answered."""
    if not answer.is_standby:
        return replace(
            status, is_available=False, reason="promoted: it is not a standby any more", position=0, answered_at=now
        )
    is_lagging = lag_seconds > limits.max_lag_seconds
    return replace(
        status,
        is_available=not is_lagging,
        reason="lagging" if is_lagging else "",
        position=answer.position,
        lag_seconds=lag_seconds,
        answered_at=now,
    )


def after_failure(status: ReplicaStatus, reason: str) -> ReplicaStatus:
    """The status after a replica has failed; what it had replayed is no longer relied upon.

    The reason of the first failure stays: those that follow it are mostly its consequences.
    """
    first = status.reason if status.answered_at is None and status.reason not in ("", NOT_ASKED) else reason
    return replace(status, is_available=False, reason=first, position=0, answered_at=None)


def after_use(status: ReplicaStatus, *, step: int, answered_at: float | None = None) -> ReplicaStatus:
    """The status after a session came (1) or went (-1); one that read something has shown that the replica answers."""
    heard_at = status.answered_at
    if status.is_available and answered_at is not None and (heard_at is None or answered_at > heard_at):
        heard_at = answered_at
    return replace(status, in_use=status.in_use + step, answered_at=heard_at)


def is_candidate(status: ReplicaStatus) -> bool:
    """Whether a read may go there, once it has been confirmed where that is needed."""
    return status.is_available or status.reason == NOT_ASKED


def needs_confirmation(status: ReplicaStatus, now: float) -> bool:
    """Whether the last answer is too old to send a read there without asking first."""
    return status.answered_at is None or now - status.answered_at > _FRESH_SECONDS


def is_check_due(status: ReplicaStatus, *, next_check_at: float, now: float) -> bool:
    """Whether to ask the replica now: on the schedule, and in between when sessions use it and nothing was heard."""
    is_quiet = status.answered_at is None or now - status.answered_at > HEARTBEAT_SECONDS
    return now >= next_check_at or (status.is_available and status.in_use > 0 and is_quiet)


def least_loaded_of_two(candidates: Sequence[ReplicaStatus], rng: random.Random | None = None) -> ReplicaStatus:
    """The less loaded of two that are drawn at random: nearly as even as asking all, without herding onto one.

    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12 (10), 2001.

    Raises:
        InvalidArgumentError: no candidates.
    """
    if not candidates:
        raise InvalidArgumentError("candidates is empty: there is nothing to choose from")
    if len(candidates) == 1:
        return candidates[0]
    first, second = (rng or random).sample(candidates, 2)
    return first if first.in_use <= second.in_use else second


@dataclass(frozen=True)
class PositionHistory:
    """When the primary was seen where, oldest first: lag in time without trusting clocks or an idle pair.

    A standby's own "time of the last replayed transaction" grows on an idle pair that is 0 bytes behind. Here a standby
    that has replayed all that is known has no lag, whatever the time; one that has not lags since the primary was first
    seen ahead of it.
    """

    samples: tuple[tuple[float, int], ...] = ()

    def with_sample(self, now: float, position: int, *, keep_seconds: float) -> PositionHistory:
        """With one more sight of the primary; what is older than `keep_seconds` is dropped, but for the newest."""
        if self.samples and position <= self.samples[-1][1]:
            return self
        kept = tuple(sample for sample in self.samples if now - sample[0] <= keep_seconds)
        return PositionHistory((*kept, (now, position)))

    def lag_seconds(self, position: int, now: float) -> float:
        """How long the primary has been known to be ahead of `position`."""
        ahead = next((seen_at for seen_at, seen in self.samples if seen > position), None)
        return 0.0 if ahead is None else now - ahead

    @property
    def newest(self) -> int:
        """The furthest position that the primary was seen at."""
        return self.samples[-1][1] if self.samples else 0
