"""What next after a failed attempt: one pure function on frozen values, shared by the sync and the async helper."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from araponga_infra.backoff import Backoff
from araponga_infra.clock import Duration, to_seconds
from araponga_infra.concurrency.classification import Failure
from araponga_infra.errors import InvalidArgumentError

__all__ = ["GIVE_UP", "PROPAGATE", "GiveUp", "Progress", "Propagate", "Retry", "RetryPolicy", "Step", "next_step"]


@dataclass(frozen=True)
class RetryPolicy:
    """When to try a unit of work again. `lock_after` None: never lock; `timeout_seconds` None: no limit."""

    max_attempts: int = 3
    backoff: Backoff = field(default_factory=Backoff)
    timeout_seconds: float | None = None
    lock_after: int | None = 1

    @classmethod
    def checked(
        cls, max_attempts: int, backoff: Backoff | None, timeout: Duration | None, lock_after: int | None
    ) -> RetryPolicy:
        """Read the arguments of a helper.

        Raises:
            InvalidArgumentError: naming the argument that is out of range.
        """
        _require_count(max_attempts, "max_attempts", "the first try counts, so 1 means no retry")
        if lock_after is not None:
            _require_count(lock_after, "lock_after", "the number of conflicts to wait for, or None for never")
        if backoff is not None and not isinstance(backoff, Backoff):
            raise InvalidArgumentError(f"backoff={backoff!r} is not a Backoff: pass Backoff(initial=..., maximum=...)")
        seconds = None if timeout is None else to_seconds(timeout, "timeout", allow_zero=False)
        return cls(max_attempts, backoff or Backoff(), seconds, lock_after)

    def changed(self, max_attempts: int | None, timeout: Duration | None) -> RetryPolicy:
        """The same with what is not None replaced."""
        return RetryPolicy.checked(
            self.max_attempts if max_attempts is None else max_attempts,
            self.backoff,
            self.timeout_seconds if timeout is None else timeout,
            self.lock_after,
        )


def _require_count(value: object, argument: str, meaning: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidArgumentError(f"{argument}={value!r} must be a whole number of 1 or more: {meaning}")


@dataclass(frozen=True)
class Progress:
    """How far a unit of work has come."""

    attempts: int = 0
    conflicts: int = 0
    elapsed_seconds: float = 0.0

    def after(self, failure: Failure, elapsed_seconds: float) -> Progress:
        is_conflict = failure in (Failure.STALE, Failure.CONFLICT)
        return replace(
            self,
            attempts=self.attempts + 1,
            conflicts=self.conflicts + is_conflict,
            elapsed_seconds=elapsed_seconds,
        )


@dataclass(frozen=True)
class Retry:
    """Wait, then run the work again, with what conflicted locked first if `lock` says so."""

    delay_seconds: float
    lock: bool


@dataclass(frozen=True)
class GiveUp:
    """Attempts or time are used up: a conflict becomes `ConcurrencyConflictError`, a lost connection its own error."""


@dataclass(frozen=True)
class Propagate:
    """Not ours to handle: the error goes on untouched."""


GIVE_UP = GiveUp()
PROPAGATE = Propagate()
Step: TypeAlias = Retry | GiveUp | Propagate


def next_step(
    policy: RetryPolicy,
    progress: Progress,
    failure: Failure,
    *,
    can_lock: bool,
    rng: random.Random | None = None,
) -> Step:
    """Decide.

    A unit that will lock the rows waits first, too. At once it would queue for the lock while the others read versions
    that are about to be overtaken; a short random wait thins those wasted attempts out, and a hot row moves faster.

    Args:
        progress: with the attempt that just failed counted.
        failure: what that attempt died of; `OUTCOME_UNKNOWN` only once it is known that nothing was committed.
        can_lock: there is something to lock: rows by name, or SQLite's whole file.
    """
    if failure is Failure.OTHER:
        return PROPAGATE
    if progress.attempts >= policy.max_attempts:
        return GIVE_UP
    lock = can_lock and policy.lock_after is not None and progress.conflicts >= policy.lock_after
    delay = policy.backoff.delay(progress.attempts, rng)
    if policy.timeout_seconds is not None and progress.elapsed_seconds + delay >= policy.timeout_seconds:
        return GIVE_UP
    return Retry(delay, lock)
