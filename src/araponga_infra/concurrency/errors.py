"""What can be wrong with a change to versioned rows, and the record of a row that conflicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from araponga_infra.errors import ArapongaInfraError

__all__ = [
    "CommitOutcomeUnknownError",
    "ConcurrencyConflictError",
    "NestedUnitOfWorkError",
    "PreconditionFailedError",
    "PreconditionRequiredError",
    "RowConflict",
    "Version",
]

Version: TypeAlias = int | str
"""A row version as the database counts it, or, where a client named several tags, those tags as it wrote them."""

_ROWS_SHOWN = 5


@dataclass(frozen=True)
class RowConflict:
    """One row that was not as the unit of work had read it.

    Attributes:
        entity: the mapped class's name.
        identity: the primary key, one value per key column.
        expected: the version that was read, or that a client asked for.
        actual: the version in the database now; None when the row is gone.
    """

    entity: str
    identity: tuple[Any, ...]
    expected: Version
    actual: int | None

    def __str__(self) -> str:
        now = "is gone" if self.actual is None else f"is at version {self.actual} now"
        return f"{self.name} was expected at version {self.expected} and {now}"

    @property
    def name(self) -> str:
        """The row as a person names it: `Post 7`, or `Seat ('A', 12)` with a composite key."""
        key = self.identity[0] if len(self.identity) == 1 else self.identity
        return f"{self.entity} {key!r}"


class ConcurrencyConflictError(ArapongaInfraError, RuntimeError):
    """Somebody else changed what this unit of work had read; nothing of it was committed. HTTP 409.

    Args:
        conflicts: the rows, with the versions read from the database after the failure. Empty when the database
            refused without naming a row (a deadlock, a serialization failure).
        attempts: how often the work ran, the first time included.
        reason: in place of the rows, what the database said.
    """

    conflicts: tuple[RowConflict, ...]
    attempts: int
    reason: str | None

    def __init__(self, conflicts: Sequence[RowConflict] = (), *, attempts: int = 1, reason: str | None = None) -> None:
        self.conflicts = tuple(conflicts)
        self.attempts = attempts
        self.reason = reason
        super().__init__(self._message())

    def _message(self) -> str:
        happened = _listed(self.conflicts) or self.reason or "a concurrent transaction was in the way"
        times = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        return f"{happened}; nothing was committed after {times}: read again and repeat the change"


class PreconditionFailedError(ConcurrencyConflictError):
    """The version a client insists on (If-Match) is not the row's; trying again cannot help it. HTTP 412."""

    def _message(self) -> str:
        return f"{_listed(self.conflicts) or self.reason}: read it again before changing it"


class PreconditionRequiredError(ArapongaInfraError, ValueError):
    """A change came without If-Match where one is required. HTTP 428."""


class CommitOutcomeUnknownError(ArapongaInfraError, RuntimeError):
    """The connection was lost while COMMIT was in flight, so the work is either applied once or not at all.

    It was not tried again, since that could apply it twice. `attempts` counts how often the work ran. HTTP 503.
    """

    attempts: int

    def __init__(self, *, attempts: int = 1) -> None:
        self.attempts = attempts
        super().__init__(
            "the connection was lost while COMMIT was in flight: the work may be applied or not, and was not repeated. "
            "Look before you repeat it, or let options(verify=...) look"
        )


class NestedUnitOfWorkError(ArapongaInfraError, RuntimeError):
    """`execute` was called inside a unit of work that is still open."""


def _listed(conflicts: Sequence[RowConflict]) -> str:
    shown = ", ".join(str(conflict) for conflict in conflicts[:_ROWS_SHOWN])
    hidden = len(conflicts) - _ROWS_SHOWN
    return f"{shown} and {hidden} more" if hidden > 0 else shown
