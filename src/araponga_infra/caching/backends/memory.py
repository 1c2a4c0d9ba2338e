"""Entries in this process: bounded by number and bytes, expiring and evicting through cachetools.

Reads of the `hot` index take no lock; whoever changes anything holds it. A stamp, taken before a value is read from
elsewhere and compared when it is stored, keeps a value out that was deleted in the meantime.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from cachetools import TLRUCache

from araponga_infra.caching.entries import Entry
from araponga_infra.caching.keys import Pattern, stored_name

__all__ = ["MemoryStore", "Stamp"]

_STRIPES = 1024
_TOUCH_SECONDS = 1.0
"""How often a hit moves an entry to the young end of the LRU order; each time would cost more than the hit."""


class Stamp(NamedTuple):
    """Changes when something that concerns a key is deleted or written."""

    generation: int
    stripe: int
    tag_generation: int


class MemoryStore:
    """A bounded map of entries.

    Args:
        max_entries: most entries kept.
        max_bytes: most bytes kept, roughly; None for no bound.
        monotonic: the clock.
        on_eviction: told how many entries went for want of room.

    Thread-safe.
    """

    def __init__(
        self,
        *,
        max_entries: int,
        max_bytes: int | None,
        monotonic: Callable[[], float],
        on_eviction: Callable[[int], None] | None = None,
    ) -> None:
        self.hot: dict[str, Entry] = {}
        """What is read without a lock; holds exactly the entries of the bounded map."""
        self.trusted_until: float = math.inf
        """While this lies ahead, deletes of other instances are known to reach this one."""
        self._monotonic = monotonic
        self._on_eviction = on_eviction
        self._bytes_per_unit = (max_bytes / max_entries) if max_bytes is not None else math.inf
        self._bounded = _Bounded(max_entries, self._units, monotonic, self._dropped)
        self._tagged: dict[str, set[str]] = {}
        self._generation = self._tag_generation = self._evicted = 0
        self._stripes = [0] * _STRIPES
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.hot)

    def renew_lock(self) -> None:
        """In a forked child: the lock may be held by a thread that does not exist there."""
        self._lock = threading.Lock()

    def get(self, key: str, now: float) -> Entry | None:
        """The entry unless it is past even its grace; counts as a use of it."""
        entry = self.hot.get(key)
        if entry is None or now >= entry.dead:
            return None
        if now >= entry.quiet_until:
            self._touch(key, entry, now)
        return entry

    def _touch(self, key: str, entry: Entry, now: float) -> None:
        entry.quiet_until = min(entry.quiet_from, now + _TOUCH_SECONDS)
        with self._lock:
            self._bounded.use(key)

    def stamp(self, key: str) -> Stamp:
        return Stamp(self._generation, self._stripes[hash(key) % _STRIPES], self._tag_generation)

    def put(self, key: str, entry: Entry, stamp: Stamp) -> bool:
        """Store unless something that concerns the key has been deleted or written since `stamp` was taken."""
        with self._lock:
            if not self._is_current(key, stamp, entry.tags):
                return False
            self._store(key, entry)
        self._report_evictions()
        return True

    def write(self, entries: Mapping[str, Entry]) -> None:
        """Store at once, whatever was there: nothing else holds these values."""
        with self._lock:
            for key, entry in entries.items():
                self._bump(key)
                self._store(key, entry)
        self._report_evictions()

    def begin_write(self, keys: Iterable[str]) -> dict[str, Stamp]:
        """Before writing elsewhere: keep loads and reads that are under way from storing what they find."""
        with self._lock:
            names = list(keys)
            for key in names:
                self._bump(key)
            return {key: self.stamp(key) for key in names}

    def end_write(self, entries: Mapping[str, Entry | None], stamps: Mapping[str, Stamp]) -> None:
        """After it: store what was written (None: drop), unless another write of the key overlapped: then neither is
        known to be the last, and neither stays."""
        with self._lock:
            current = {key for key, stamp in stamps.items() if self.stamp(key)[:2] == stamp[:2]}
            for key, entry in entries.items():
                if entry is not None and key in current:
                    self._store(key, entry)
                else:
                    self._drop(key)
                self._bump(key)
        self._report_evictions()

    def discard(self, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                self._bump(key)
                self._drop(key)

    def discard_matching(self, pattern: Pattern) -> None:
        with self._lock:
            self._generation += 1
            for key in [key for key in self.hot if pattern.matches(stored_name(key))]:
                self._drop(key)

    def discard_group(self, group: str) -> None:
        prefix = f"{group}:"
        with self._lock:
            self._generation += 1
            for key in [key for key in self.hot if key.startswith(prefix)]:
                self._drop(key)

    def discard_tag(self, tag: str) -> None:
        with self._lock:
            self._tag_generation += 1
            for key in list(self._tagged.get(tag, ())):
                self._drop(key)

    def clear(self) -> None:
        with self._lock:
            self._generation += 1
            self._bounded.clear()
            self.hot.clear()
            self._tagged.clear()

    def _bump(self, key: str) -> None:
        self._stripes[hash(key) % _STRIPES] += 1

    def _is_current(self, key: str, stamp: Stamp, tags: tuple[str, ...]) -> bool:
        now = self.stamp(key)
        return now[:2] == stamp[:2] and (not tags or now.tag_generation == stamp.tag_generation)

    def _store(self, key: str, entry: Entry) -> None:
        self._drop(key)
        if self._units(entry) > self._bounded.maxsize or self._monotonic() >= entry.dead:
            return
        self._bounded[key] = entry
        self.hot[key] = entry
        for tag in entry.tags:
            self._tagged.setdefault(tag, set()).add(key)

    def _drop(self, key: str) -> None:
        if key in self.hot:
            self._bounded.drop(key)

    def _dropped(self, key: str, *, is_evicted: bool) -> None:
        """The bounded map has let go of a key, for whatever reason."""
        self._evicted += is_evicted
        entry = self.hot.pop(key, None)
        for tag in entry.tags if entry is not None else ():
            keys = self._tagged[tag]
            keys.discard(key)
            if not keys:
                del self._tagged[tag]

    def _units(self, entry: Entry) -> float:
        """One bound for both: an entry counts as one, or as its share of the bytes when that is more."""
        return max(1.0, entry.size / self._bytes_per_unit)

    def _report_evictions(self) -> None:
        if self._evicted and self._on_eviction is not None:
            with self._lock:
                evicted, self._evicted = self._evicted, 0
            self._on_eviction(evicted)


class _Bounded(TLRUCache[str, Entry]):
    """cachetools' map with TTL and LRU, which tells when it lets go of a key."""

    def __init__(
        self,
        max_units: int,
        units: Callable[[Entry], float],
        monotonic: Callable[[], float],
        on_drop: Callable[..., None],
    ) -> None:
        super().__init__(max_units, ttu=_dead_at, timer=monotonic, getsizeof=units)
        self._on_drop = on_drop

    def use(self, key: str) -> None:
        self.get(key)

    def drop(self, key: str) -> None:
        with contextlib.suppress(KeyError):
            del self[key]
        self._on_drop(key, is_evicted=False)

    def expire(self, time: float | None = None) -> list[tuple[str, Entry]]:
        expired = list(super().expire(time))
        for key, _ in expired:
            self._on_drop(key, is_evicted=False)
        return expired

    def popitem(self) -> tuple[str, Entry]:
        key, entry = super().popitem()
        self._on_drop(key, is_evicted=True)
        return key, entry


def _dead_at(_key: str, entry: Entry, _now: float) -> float:
    return entry.dead
