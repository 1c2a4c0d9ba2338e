"""What this instance changed while Redis was away: it is purged before Redis is trusted again.

A purge needs no order, and no value is ever replayed, so a set of names is all there is to keep.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Journal", "Missed"]


@dataclass(frozen=True)
class Missed:
    """Names that Redis may hold outdated values for."""

    keys: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    everything: bool = False

    @property
    def count(self) -> int:
        return len(self.keys) + len(self.patterns) + len(self.tags) + len(self.groups)

    def __bool__(self) -> bool:
        return self.everything or self.count > 0


class Journal:
    """A bounded set of names; when it overflows, everything counts as missed.

    Not thread-safe: its owner holds a lock.
    """

    def __init__(self, max_names: int) -> None:
        self._max_names = max_names
        self._names: set[tuple[str, str]] = set()
        self._everything = False

    def note(self, kind: str, names: Iterable[str]) -> None:
        """Remember names of one kind: `keys`, `patterns`, `tags` or `groups`."""
        if self._everything:
            return
        self._names.update((kind, name) for name in names)
        if len(self._names) > self._max_names:
            self.note_everything()

    def note_everything(self) -> None:
        self._everything = True
        self._names.clear()

    def take(self) -> Missed:
        """All that has been noted, to be purged now. What is noted from here on is the next to purge."""
        names, everything = self._names, self._everything
        self._names, self._everything = set(), False
        of = {
            kind: frozenset(name for noted, name in names if noted == kind)
            for kind in ("keys", "patterns", "tags", "groups")
        }
        return Missed(everything=everything, **of)

    def put_back(self, missed: Missed) -> None:
        """The purge failed."""
        if missed.everything:
            self.note_everything()
        for kind in ("keys", "patterns", "tags", "groups"):
            self.note(kind, getattr(missed, kind))

    def __bool__(self) -> bool:
        return self._everything or bool(self._names)
