"""The values callers hand over: how long, what to do about a slow or failing load, what a load may say of itself."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, cast

from araponga_infra.caching.keys import refuse_surrogates
from araponga_infra.clock import Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError

__all__ = ["FOREVER", "MISSING", "CachePolicy", "Forever", "Loaded", "Missing", "read_policy", "read_tags", "read_ttl"]

T = TypeVar("T")


class Forever(enum.Enum):
    """The type of `FOREVER`."""

    FOREVER = "forever"

    def __repr__(self) -> str:
        return "FOREVER"


class Missing(enum.Enum):
    """The type of `MISSING`."""

    MISSING = "missing"

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> Literal[False]:
        return False


FOREVER: Final = Forever.FOREVER
"""A TTL without an end. The entry still goes when it is deleted, evicted or cleared."""

MISSING: Final = Missing.MISSING
"""Pass it as `default` to tell a miss from a cached None."""

Ttl: TypeAlias = Duration | Forever


def read_ttl(ttl: Ttl, argument: str = "ttl") -> float:
    """A TTL in seconds; infinity for `FOREVER`.

    Raises:
        InvalidArgumentError: zero, negative, or not a duration.
    """
    return math.inf if ttl is FOREVER else to_seconds(ttl, argument, allow_zero=False)


def read_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags without repetition, in a stable order.

    Raises:
        InvalidArgumentError: a single string (a forgotten comma), or a tag that is empty or no string.
    """
    if isinstance(tags, (str, bytes)) or not isinstance(cast(Any, tags), Iterable):
        raise InvalidArgumentError(f"tags is the {type(tags).__name__} {tags!r}: pass a tuple of tags, as in ('news',)")
    unique = tuple(dict.fromkeys(tags))
    for tag in unique:
        if not isinstance(tag, str) or not tag:
            raise InvalidArgumentError(f"tags holds {tag!r}: a tag is a string with at least one character")
        refuse_surrogates(tag, "tag")
    return tuple(sorted(unique))


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """What a factory returns when it has more to say than the value.

    Args:
        value: what was loaded.
        ttl: how long this one lives, instead of the call's TTL.
        tags: tags in addition to the call's.
        store: False hands the value to the callers that wait and keeps nothing.

    Raises:
        InvalidArgumentError: a TTL that is none, or tags that are no tuple of strings.
    """

    value: T
    ttl: Duration | Forever | None = None
    tags: tuple[str, ...] = ()
    store: bool = True

    def __post_init__(self) -> None:
        if self.ttl is not None:
            read_ttl(self.ttl)
        if self.tags != ():
            object.__setattr__(self, "tags", read_tags(self.tags))


@dataclass(frozen=True, init=False)
class CachePolicy:
    """How `get_or_set` treats loads that are slow, fail, or could be early.

    Args:
        stale_for: how long past its TTL a value may be served while its load fails or exceeds `soft_timeout`.
        soft_timeout: how long a call waits for a load while it has a stale value to give; the load goes on.
        hard_timeout: how long a call waits at most; then `LoadTimeoutError`, and the load goes on.
        early_refresh: beta of XFetch (Vattani et al., "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015,
            section 3.1): above 1 refreshes earlier, 0 not before expiry.
        ttl_jitter: the share of its TTL by which a loaded value may expire earlier, so that values loaded together
            do not expire together; from 0 to below 1.

    With a soft or a hard timeout a load may outlive the call, in sync code in a thread of its own: the factory then
    must not use the caller's database session.

    Raises:
        InvalidArgumentError: a negative duration or beta, a jitter outside its range, or a soft timeout that is longer
            than the hard one.

    Examples:
        >>> CachePolicy(stale_for=3600, soft_timeout=0.2).stale_for_seconds
        3600.0
    """

    stale_for_seconds: float
    soft_timeout_seconds: float | None
    hard_timeout_seconds: float | None
    early_refresh: float
    ttl_jitter: float

    def __init__(
        self,
        stale_for: Duration = 0,
        soft_timeout: Duration | None = None,
        hard_timeout: Duration | None = None,
        early_refresh: float = 1.0,
        ttl_jitter: float = 0.05,
    ) -> None:
        if not (isinstance(early_refresh, (int, float)) and early_refresh >= 0):
            raise InvalidArgumentError(f"early_refresh={early_refresh!r} must be 0 (off) or more")
        if not (isinstance(ttl_jitter, (int, float)) and 0 <= ttl_jitter < 1):
            raise InvalidArgumentError(f"ttl_jitter={ttl_jitter!r} must be from 0 to below 1, a share of the TTL")
        object.__setattr__(self, "stale_for_seconds", to_seconds(stale_for, "stale_for"))
        object.__setattr__(self, "soft_timeout_seconds", _optional(soft_timeout, "soft_timeout"))
        object.__setattr__(self, "hard_timeout_seconds", _optional(hard_timeout, "hard_timeout"))
        soft, hard = self.soft_timeout_seconds, self.hard_timeout_seconds
        if soft is not None and hard is not None and soft > hard:
            raise InvalidArgumentError(
                f"soft_timeout={soft_timeout!r} is longer than hard_timeout={hard_timeout!r}, which would end the wait "
                "before it: make it shorter"
            )
        object.__setattr__(self, "early_refresh", float(early_refresh))
        object.__setattr__(self, "ttl_jitter", float(ttl_jitter))

    @property
    def may_outlive_call(self) -> bool:
        """Whether a load may go on after the call that started it has returned."""
        return self.soft_timeout_seconds is not None or self.hard_timeout_seconds is not None


def read_policy(policy: CachePolicy | None) -> None:
    """Refuse what is neither a policy nor None.

    Raises:
        InvalidArgumentError: something else.
    """
    if policy is not None and not isinstance(cast(Any, policy), CachePolicy):
        raise InvalidArgumentError(f"policy={policy!r}: pass a CachePolicy, as in CachePolicy(stale_for=60)")


def _optional(duration: Duration | None, argument: str) -> float | None:
    return None if duration is None else to_seconds(duration, argument, allow_zero=False)
