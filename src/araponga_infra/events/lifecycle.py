"""The life of a delivery: one pure function decides what follows from what happened.

available --> running --> completed
    ^            |------> retryable --(due)--> running
    |            |------> dead --(redrive)--> available
    |            |         '----(discard)--> discarded
    '------------'  given back, or abandoned by a worker that died
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TypeAlias

from araponga_infra.backoff import Backoff
from araponga_infra.clock import Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events.values import DeadReason, State

__all__ = [
    "COMPLETED",
    "DEFAULT_BACKOFF",
    "Abandoned",
    "Decision",
    "Discarded",
    "Failed",
    "GaveUp",
    "GivenBack",
    "Outcome",
    "Postponed",
    "Quarantined",
    "Redriven",
    "RetryAsked",
    "RetryPolicy",
    "Succeeded",
    "decide",
]

DEFAULT_BACKOFF = Backoff(initial=1.0, maximum=300.0)
_ERROR_LENGTH = 1000
_PLACE_LENGTH = 18


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how far apart a handler is tried.

    Args:
        max_attempts: attempts in all, the first one included.
        backoff: the wait after a failed attempt.
        timeout_seconds: how long one attempt may take; None for no limit.
    """

    max_attempts: int = 3
    backoff: Backoff = DEFAULT_BACKOFF
    timeout_seconds: float | None = 300.0

    @classmethod
    def of(cls, max_attempts: int, backoff: Backoff | None, timeout: Duration | None) -> RetryPolicy:
        return cls(
            max_attempts=positive(max_attempts, "max_attempts"),
            backoff=checked_backoff(backoff) or DEFAULT_BACKOFF,
            timeout_seconds=None if timeout is None else to_seconds(timeout, "timeout", allow_zero=False),
        )


def positive(count: int, argument: str) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InvalidArgumentError(f"{argument}={count!r} must be a whole number, 1 or more")
    return count


def place_of(after: str) -> int:
    """Read a page's `next`."""
    if not isinstance(after, str) or not after.isdecimal() or len(after) > _PLACE_LENGTH:
        raise InvalidArgumentError(
            f"after={after!r} is no place in the list: pass the `next` of the page before, or None"
        )
    return int(after)


def is_text(value: object) -> bool:
    """Half of a surrogate pair is a str, but no text: no store can write it."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_backoff(backoff: Backoff | None) -> Backoff | None:
    if backoff is not None and not isinstance(backoff, Backoff):
        raise InvalidArgumentError(f"backoff={backoff!r} is not a Backoff: pass Backoff(initial=1, maximum=300)")
    return backoff


@dataclass(frozen=True)
class Succeeded:
    """The handler returned."""


@dataclass(frozen=True)
class Failed:
    """The handler raised, or ran out of time."""

    error: str


@dataclass(frozen=True)
class RetryAsked:
    """The handler asked for another attempt at a time of its own choice."""

    delay_seconds: float


@dataclass(frozen=True)
class GaveUp:
    """The handler sees no use in another attempt."""

    reason: str


@dataclass(frozen=True)
class Quarantined:
    """No handler could be started: the event is unknown or unreadable, or the handler does not exist any more."""

    reason: DeadReason
    error: str


@dataclass(frozen=True)
class Postponed:
    """Not for this process, perhaps for another one: put back without an attempt."""

    delay_seconds: float


@dataclass(frozen=True)
class GivenBack:
    """The processor stops before the handler was done, or was started at all."""


@dataclass(frozen=True)
class Abandoned:
    """The worker that held it gave no sign of life for the length of its lease."""


@dataclass(frozen=True)
class Redriven:
    """Somebody wants a dead letter tried again."""


@dataclass(frozen=True)
class Discarded:
    """Somebody wants a dead letter gone."""


Outcome: TypeAlias = (
    Succeeded | Failed | RetryAsked | GaveUp | Quarantined | Postponed | GivenBack | Abandoned | Redriven | Discarded
)


@dataclass(frozen=True, slots=True)
class Decision:
    """The next state of a delivery and what the store has to remember with it."""

    state: State
    attempts: int
    delay_seconds: float = 0.0
    losses: int = 0
    is_suspect: bool = False
    reason: DeadReason | None = None
    error: str | None = None


COMPLETED = Decision(State.COMPLETED, attempts=0)


def decide(
    attempts: int, losses: int, outcome: Outcome, policy: RetryPolicy, rng: random.Random | None = None
) -> Decision:
    """What follows for a delivery that had `attempts` attempts and lost `losses` leases before `outcome`.

    An attempt counts from the moment its handler starts, so that a failed one adds 1 here, while giving back and
    abandoning add none: a delivery that was merely held by a worker that died has not been tried.
    """
    match outcome:
        case Succeeded():
            return Decision(State.COMPLETED, attempts + 1, losses=losses)
        case Failed(error):
            return _after_failure(attempts + 1, losses, error, policy, policy.backoff.delay(attempts + 1, rng))
        case RetryAsked(delay):
            return _after_failure(attempts + 1, losses, "asked to be run again too often", policy, delay)
        case GaveUp(reason):
            return _dead(attempts + 1, losses, DeadReason.GAVE_UP, reason)
        case Quarantined(reason, error):
            return _dead(attempts, losses, reason, error)
        case Postponed(delay):
            return Decision(State.RETRYABLE, attempts, delay, losses)
        case GivenBack():
            return Decision(State.AVAILABLE, attempts, losses=losses)
        case Abandoned():
            return Decision(State.AVAILABLE, attempts, losses=losses + 1, is_suspect=True)
        case Redriven():
            return Decision(State.AVAILABLE, attempts=0)
        case Discarded():
            return Decision(State.DISCARDED, attempts, losses=losses)


def _after_failure(attempts: int, losses: int, error: str, policy: RetryPolicy, delay: float) -> Decision:
    if attempts >= policy.max_attempts:
        return _dead(attempts, losses, DeadReason.ATTEMPTS_EXHAUSTED, error)
    return Decision(State.RETRYABLE, attempts, delay, losses, error=_storable(error))


def _dead(attempts: int, losses: int, reason: DeadReason, error: str) -> Decision:
    return Decision(State.DEAD, attempts, losses=losses, reason=reason, error=_storable(error))


def _storable(error: str) -> str:
    """What every store can write: a text that one of them refused would come back to be settled for ever."""
    return error[:_ERROR_LENGTH].encode(errors="backslashreplace").decode().replace("\0", r"\x00")
