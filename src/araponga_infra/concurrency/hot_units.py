"""Units of work that lost to others a moment ago: the next run of one locks those rows before it reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TypeAlias

from sqlalchemy.orm import Session

from araponga_infra.clock import Clock
from araponga_infra.concurrency.journal import ExpectedRow
from araponga_infra.concurrency.rows import begin_immediate, changed_rows

__all__ = ["MOMENT_SECONDS", "RESPITE_SECONDS", "Call", "HotUnits", "LockFirst"]

Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]
"""The work of a unit, its arguments and its keyword arguments."""

MOMENT_SECONDS = 1.0
RESPITE_SECONDS = 60.0
_MOST_UNITS = 1_000
_MOST_ROWS = 100


@dataclass(frozen=True)
class LockFirst:
    """How a hot unit begins: with the rows that it lost to locked, or as SQLite's writer."""

    rows: tuple[ExpectedRow, ...]
    is_sqlite: bool
    until_seconds: float

    def prepare(self, session: Session) -> None:
        if self.is_sqlite:
            begin_immediate(session)
        else:
            changed_rows(session, self.rows, lock=True)


class HotUnits:
    """Which rows a unit - the same work on the same arguments - lost to within the last second.

    A retry costs a second attempt, and on a hot row nearly every first attempt is lost. So for a moment after a
    conflict the unit begins as its retry did. A lock too many never loses anything, so all here may be approximate:
    units are told apart by a hash, which keeps neither work nor arguments alive; more units than fit are forgotten all
    at once; and there is no mutex, since each step is one operation on a dict, and a fork could leave a mutex locked.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._units: dict[int, LockFirst] = {}
        self._respites: dict[int, float] = {}

    def lock_for(self, call: Call) -> LockFirst | None:
        """What to lock before this unit runs; None, in a process without conflicts at the cost of a look."""
        if not self._units:
            return None
        key = _key(call)
        known = self._units.get(key) if key is not None else None
        if known is None or self._clock.monotonic() < known.until_seconds:
            return known
        self._units.pop(key, None)  # type: ignore[arg-type]  # it was found by this key
        return None

    def remember(self, call: Call, rows: Sequence[ExpectedRow], *, is_sqlite: bool) -> None:
        """This unit lost to these rows, or to another writer of a SQLite file."""
        key = _key(call)
        now = self._clock.monotonic()
        if key is None or not (rows or is_sqlite) or now < self._respites.get(key, now):
            return
        known = self._units.get(key)
        earlier = known.rows if known is not None and now < known.until_seconds else ()
        merged = {(row.mapper, row.identity): row for row in (*earlier, *rows)}
        if len(merged) > _MOST_ROWS:
            return
        if len(self._units) >= _MOST_UNITS:
            self._units.clear()
        self._units[key] = LockFirst(tuple(merged.values()), is_sqlite, now + MOMENT_SECONDS)

    def avoid(self, call: Call) -> None:
        """Locking first ended in a deadlock or a serialization failure: leave it for a while."""
        key = _key(call)
        if key is None:
            return
        self._units.pop(key, None)
        if len(self._respites) >= _MOST_UNITS:
            self._respites.clear()
        self._respites[key] = self._clock.monotonic() + RESPITE_SECONDS


def _key(call: Call) -> int | None:
    """A hash of the unit, None if it has none. Functions that the same code made of the same values are one unit."""
    work, args, kwargs = call
    given = (args, tuple(kwargs.items()))
    if isinstance(work, FunctionType):
        key = _hash(lambda: (_origin(work), given))
        if key is not None:
            return key
    return _hash(lambda: (work, given))


def _origin(work: FunctionType) -> object:
    captured = tuple(cell.cell_contents for cell in work.__closure__ or ())
    return work.__code__, work.__defaults__, captured


def _hash(parts: Callable[[], object]) -> int | None:
    try:
        return hash(parts())
    except Exception:  # a value without a hash, a variable not set yet, or what the host's __hash__ raises
        return None
