"""Where each handler's queue begins, so that a claim need not step over what was done before it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from araponga_infra.events.values import Want

__all__ = ["LOWEST", "Heads"]

LOWEST = -(2**63)
_LOOK_BACK_SECONDS = 1.0


class _Head(NamedTuple):
    due_at: int
    looked_back_at: float


class Heads:
    """Remembers, while claims come back full, the earliest due time in the last one of a handler. Thread-safe.

    What is done leaves entries in the index until it is vacuumed, which an old snapshot prevents: 80,000 of them make a
    claim six times slower. What lies before the head nevertheless, since it was committed late or given back, is found
    by claims from the very beginning: one a second, and whenever a claim from the head is not full.
    """

    def __init__(self) -> None:
        self._heads: dict[str, _Head] = {}

    def floor(self, handler: str) -> int:
        """The due time to start at."""
        head = self._heads.get(handler)
        if head is None or time.monotonic() - head.looked_back_at >= _LOOK_BACK_SECONDS:
            return LOWEST
        return head.due_at

    def note(self, wants: Sequence[Want], floors: Sequence[int], claimed: Iterable[tuple[str, int]]) -> list[Want]:
        """Take in what was claimed, as handlers and due times, by a claim that started at `floors`.

        Returns:
            What is still wanted from before the heads.
        """
        found: dict[str, list[int]] = {}
        for handler, due_at in claimed:
            found.setdefault(handler, []).append(due_at)
        missing: list[Want] = []
        for (handler, limit), floor in zip(wants, floors, strict=True):
            dues = found.get(handler, ())
            before = self._heads.pop(handler, None)
            if len(dues) >= limit:
                looked_back_at = time.monotonic() if floor == LOWEST or before is None else before.looked_back_at
                self._heads[handler] = _Head(min(dues), looked_back_at)
            elif floor != LOWEST:
                missing.append(Want(handler, limit - len(dues)))
        return missing
