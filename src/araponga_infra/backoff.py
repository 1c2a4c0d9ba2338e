"""How long to wait before the next attempt, as a value."""

from __future__ import annotations

import random
from dataclasses import dataclass

from araponga_infra.clock import Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError

__all__ = ["Backoff"]

_LARGEST_EXPONENT = 64.0
"""Where `factor ** attempt` stops growing; beyond it every useful `maximum` has been reached."""


@dataclass(frozen=True, init=False)
class Backoff:
    """Exponential backoff with full jitter.

    The delay before attempt n + 1 is drawn evenly from 0 to `initial * factor ** (n - 1)`, at most `maximum`: "full
    jitter", which of the known variants makes competing clients finish soonest (Marc Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015). Without jitter the delay is that upper bound itself.

    Args:
        initial: upper bound of the first delay, a `timedelta` or seconds.
        maximum: upper bound of every delay, a `timedelta` or seconds.
        factor: growth per attempt, 1 or more.
        jitter: draw from the whole range; switch it off only where a single client waits.

    Raises:
        InvalidArgumentError: a negative duration, `maximum` below `initial`, or a `factor` below 1.

    Examples:
        >>> Backoff(initial=1, maximum=5, jitter=False).delay(3)
        4.0
    """

    initial_seconds: float
    maximum_seconds: float
    factor: float
    jitter: bool

    def __init__(
        self, initial: Duration = 0.01, maximum: Duration = 1.0, factor: float = 2.0, jitter: bool = True
    ) -> None:
        initial_seconds, maximum_seconds = to_seconds(initial, "initial"), to_seconds(maximum, "maximum")
        if maximum_seconds < initial_seconds:
            raise InvalidArgumentError(f"maximum={maximum!r} is below initial={initial!r}: raise maximum")
        if not isinstance(factor, (int, float)) or not factor >= 1:
            raise InvalidArgumentError(f"factor={factor!r} must be a number of 1 or more, so that delays do not shrink")
        object.__setattr__(self, "initial_seconds", initial_seconds)
        object.__setattr__(self, "maximum_seconds", maximum_seconds)
        object.__setattr__(self, "factor", float(factor))
        object.__setattr__(self, "jitter", bool(jitter))

    def delay(self, attempt: int, rng: random.Random | None = None) -> float:
        """Seconds to wait after `attempt` (1 is the first) has failed.

        Args:
            attempt: the attempt that failed, from 1.
            rng: source of the jitter; the module's own when None. The same state gives the same delay.

        Raises:
            InvalidArgumentError: `attempt` below 1.
        """
        if not isinstance(attempt, int) or attempt < 1:
            raise InvalidArgumentError(
                f"attempt={attempt!r} must be a whole number of 1 or more: the first attempt is 1"
            )
        if not self.jitter:
            return self._upper_bound(attempt)
        draw = rng.random() if rng is not None else random.random()  # noqa: S311 - jitter, not a secret
        return draw * self._upper_bound(attempt)

    def _upper_bound(self, attempt: int) -> float:
        growth: float = self.factor ** min(attempt - 1, _LARGEST_EXPONENT)
        return min(self.initial_seconds * growth, self.maximum_seconds)
