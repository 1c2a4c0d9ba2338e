"""Is this entry still good? Pure decisions over times, for every backend."""

from __future__ import annotations

import enum
import math
import random
from typing import NamedTuple

from araponga_infra.caching.values import CachePolicy

__all__ = ["DEFAULT_POLICY", "Freshness", "Lifetime", "judge", "lifetime"]

DEFAULT_POLICY = CachePolicy()

_RAREST_DRAW = 40.0
"""-ln of the smallest number that the draw of XFetch can be: no entry is refreshed earlier than this many loads."""


class Freshness(enum.Enum):
    """What an entry may be used for."""

    FRESH = "fresh"
    EARLY = "early"
    """Fresh, and this caller has drawn the lot to load it again."""
    STALE = "stale"
    """Past its TTL, kept for the time its load fails."""
    DEAD = "dead"


class Lifetime(NamedTuple):
    """How long a new entry lives, in seconds; infinite for one without a TTL."""

    ttl_seconds: float
    stale_for_seconds: float = 0.0
    load_seconds: float = 0.0
    early_refresh: float = 0.0


def lifetime(ttl_seconds: float, policy: CachePolicy, load_seconds: float, draw: float | None = None) -> Lifetime:
    """The lifetime of a loaded value: its TTL less the jitter that `draw` (0 to 1) picks."""
    if draw is None:
        draw = random.random()  # noqa: S311 - jitter, not a secret
    shortened = ttl_seconds * (1.0 - policy.ttl_jitter * draw)
    return Lifetime(shortened, policy.stale_for_seconds, load_seconds, policy.early_refresh)


def quiet_seconds(life: Lifetime) -> float:
    """For how long no caller needs to think about an early refresh."""
    return max(0.0, life.ttl_seconds - _RAREST_DRAW * life.load_seconds * max(1.0, life.early_refresh))


def judge(
    now: float, expires: float, dead: float, load_seconds: float, early_refresh: float, draw: float | None = None
) -> Freshness:
    """What an entry may be used for now.

    The early refresh is XFetch: a caller loads again when `now - load_seconds * early_refresh * ln(draw)` has reached
    the expiry (Vattani et al., "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015, section 3.1).

    Args:
        now, expires, dead: times on one clock; `dead` is when the grace for stale values ends.
        load_seconds: how long the value took to load.
        early_refresh: beta; 0 switches it off.
        draw: a number above 0 and up to 1; drawn when None.
    """
    if now >= dead:
        return Freshness.DEAD
    if now >= expires:
        return Freshness.STALE
    if early_refresh > 0 and load_seconds > 0:
        if draw is None:
            draw = 1.0 - random.random()  # noqa: S311 - a lot, not a secret
        if now - load_seconds * early_refresh * math.log(draw) >= expires:
            return Freshness.EARLY
    return Freshness.FRESH
