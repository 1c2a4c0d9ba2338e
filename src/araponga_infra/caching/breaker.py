"""Whether to ask Redis at all: a circuit breaker as a value, and the pure functions that move it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

__all__ = ["Breaker", "after_failure", "after_probe", "after_recovery", "may_probe"]

BreakerState: TypeAlias = Literal["new", "closed", "half-open", "open"]

_FIRST_RETRY_SECONDS = 0.05
_LONGEST_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Breaker:
    """`new` has not met Redis yet, `closed` trusts it, `open` leaves it alone, `half-open` has one probe under way.

    Only `closed` lets calls through to Redis.
    """

    state: BreakerState = "new"
    failed_probes: int = 0
    retry_at: float = 0.0


def after_failure(breaker: Breaker, now: float) -> Breaker:
    """A call or a probe failed: leave Redis alone for a time that doubles with each probe that fails."""
    if breaker.state == "closed":
        return Breaker("open", 0, now)
    if breaker.state == "open":
        return breaker
    pause = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0**breaker.failed_probes)
    return Breaker("open", min(breaker.failed_probes + 1, 16), now + pause)


def may_probe(breaker: Breaker, now: float) -> bool:
    """Whether a probe is due."""
    return breaker.state == "new" or (breaker.state == "open" and now >= breaker.retry_at)


def after_probe(breaker: Breaker) -> Breaker:
    """The one probe is under way."""
    return breaker if breaker.state == "closed" else replace(breaker, state="half-open")


def after_recovery(_breaker: Breaker) -> Breaker:
    """The probe answered, and what it had missed has been purged."""
    return Breaker("closed")
