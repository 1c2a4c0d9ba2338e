"""What a capture saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from araponga_infra.queries.detection import find_n_plus_one
from araponga_infra.queries.values import NPlusOne, Origin, Statement

__all__ = ["QueryReport"]


class QueryReport:
    """What was sent while a capture was open; readable at any moment, also while it is.

    Thread-safe to read. `str()` of it lists the statements' shapes and places, never a value.
    """

    def __init__(
        self, read: Callable[[], Sequence[Statement]], *, slow_after_seconds: float, min_repeats: int = 0
    ) -> None:
        self._read = read
        self._slow_after_seconds = slow_after_seconds
        self._min_repeats = min_repeats
        self.dropped = 0
        """How many statements came after the capture was full; they are counted, not kept."""

    @property
    def statements(self) -> tuple[Statement, ...]:
        """All that was sent, in order, transaction control included."""
        return tuple(self._read())

    @property
    def queries(self) -> tuple[Statement, ...]:
        """`statements` without transaction control, as BEGIN and COMMIT go unseen as well."""
        return tuple(statement for statement in self._read() if statement.origin is not Origin.TRANSACTION)

    @property
    def n_plus_one(self) -> tuple[NPlusOne, ...]:
        """Reads that repeat within one unit of work from one place."""
        return find_n_plus_one(self._read(), min_repeats=self._min_repeats)

    @property
    def slow(self) -> tuple[Statement, ...]:
        """Statements that took the inspector's `slow_after` or longer, slowest first."""
        slow = [s for s in self._read() if s.seconds is not None and s.seconds >= self._slow_after_seconds]
        return tuple(sorted(slow, key=lambda statement: -(statement.seconds or 0.0)))

    @property
    def seconds(self) -> float:
        """Time spent in the database, summed."""
        return sum(statement.seconds or 0.0 for statement in self._read())

    def __len__(self) -> int:
        """How many queries, the dropped ones included."""
        return len(self.queries) + self.dropped

    def __str__(self) -> str:
        seen = Counter((s.shape, s.place, s.origin) for s in self.queries)
        lines = [f"{times:>5}x {shape}\n       {origin.value}, {place or 'no line of the host'}"
                 for (shape, place, origin), times in seen.items()]  # fmt: skip
        if self.dropped:
            lines.append(f"{self.dropped:>5} more that were not kept")
        return "\n".join(lines) or "no queries"

    def __repr__(self) -> str:
        return f"<QueryReport: {len(self)} queries, {len(self.n_plus_one)} N+1, {len(self.slow)} slow>"
