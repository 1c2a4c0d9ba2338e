"""Dead letters of the store in memory: so many at most, the oldest goes first."""

from __future__ import annotations

import logging
from datetime import datetime

from araponga_infra.clock import Clock
from araponga_infra.events.lifecycle import place_of
from araponga_infra.events.values import DeadFilter, DeadLetter, DeadReason, Delivery, Page, as_datetime

__all__ = ["BuriedLetters"]

_logger = logging.getLogger("araponga_infra.events.memory")


class BuriedLetters:
    """For one thread at a time: the store's lock is held by whoever calls."""

    def __init__(self, clock: Clock, most: int) -> None:
        self._clock = clock
        self._most = most
        self._letters: dict[str, DeadLetter] = {}
        self._due: dict[str, float] = {}

    def bury(self, delivery: Delivery, attempts: int, reason: DeadReason, error: str | None, due: float = 0.0) -> None:
        """`due`: when it would have been, where that is later than its death."""
        if due:
            self._due[delivery.id] = due
        self._letters[delivery.id] = DeadLetter(
            id=delivery.id, event_id=delivery.event_id, event_name=delivery.name, event_version=delivery.version,
            handler=delivery.handler, attempts=attempts, lost_leases=delivery.losses, reason=reason, error=error,
            published_at=as_datetime(delivery.published_at), died_at=self._clock.now(), payload=delivery.payload,
            headers=dict(delivery.headers or {}), ordering_key=delivery.ordering_key,
        )  # fmt: skip
        if len(self._letters) > self._most:
            self.take(next(iter(self._letters)))
            _logger.warning("more than max_dead=%d dead letters: the oldest was dropped", self._most)

    def take(self, letter: str) -> tuple[DeadLetter | None, float]:
        """It, and when it is due; it is not kept any longer."""
        return self._letters.pop(letter, None), self._due.pop(letter, 0.0)

    def get(self, letter: str) -> DeadLetter | None:
        return self._letters.get(letter)

    def number_of(self, handler: str) -> int:
        return sum(1 for each in self._letters.values() if each.handler == handler)

    def newest(self) -> str | None:
        return max(self._letters, key=int, default=None)

    def page(self, wanted: DeadFilter, limit: int, after: str | None) -> Page[DeadLetter]:
        matching = self._behind(place_of(after) if after is not None else 0, wanted)
        items = tuple(matching[:limit])
        return Page(items, items[-1].id if len(matching) > limit else None)

    def old(self, wanted: DeadFilter, died_before: datetime, limit: int, after: str | None) -> Page[str]:
        old = [each.id for each in self._behind(int(after or 0), wanted) if each.died_at < died_before]
        items = tuple(old[:limit])
        return Page(items, items[-1] if len(old) > limit else None)

    def _behind(self, place: int, wanted: DeadFilter) -> list[DeadLetter]:
        found = (each for each in self._letters.values() if int(each.id) > place and _matches(each, wanted))
        return sorted(found, key=lambda each: int(each.id))


def _matches(letter: DeadLetter, wanted: DeadFilter) -> bool:
    return (
        wanted.event in (None, letter.event_name)
        and wanted.handler in (None, letter.handler)
        and wanted.reason in (None, letter.reason)
        and (wanted.until is None or int(letter.id) <= int(wanted.until))
    )
