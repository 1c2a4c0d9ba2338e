"""How much to claim ahead: fast handlers shall never wait, and slow ones leave work to other instances."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["next_batch", "shares"]

_RAN_DRY_SECONDS = 0.25
_LASTED_SECONDS = 1.0


def next_batch(current: int, lasted_seconds: float, smallest: int, largest: int) -> int:
    """The size of the next claim, after one of `current` deliveries lasted for `lasted_seconds`.

    Doubles while batches are used up quickly, halves while they last, between `smallest` and `largest`.
    """
    if lasted_seconds < _RAN_DRY_SECONDS:
        return min(largest, current * 2)
    if lasted_seconds > _LASTED_SECONDS:
        return max(smallest, current // 2)
    return current


def shares(room: int, handlers: Sequence[str], busy: Collection[str]) -> dict[str, int]:
    """Divide `room` among handlers: evenly among those that had work last time, an eighth's share to look for the rest.

    The sum may exceed `room` a little, so that no handler is left out for ever.
    """
    active = [each for each in handlers if each in busy] or list(handlers)
    share = max(1, room // max(1, len(active)))
    probe = max(1, share // 8)
    return {each: share if each in active else probe for each in handlers}
