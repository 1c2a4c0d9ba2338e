"""What the helpers report to an observer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from araponga_infra.telemetry import Record

__all__ = ["AttemptFailed", "CommitInDoubt", "UnitGaveUp"]


@dataclass(frozen=True)
class AttemptFailed(Record):
    """An attempt failed and the work will run again; `entities` that were to be written, `locks` them first."""

    name: ClassVar[str] = "concurrency.attempt_failed"
    failure: str
    entities: tuple[str, ...]
    attempt: int
    delay_seconds: float
    locks: bool


@dataclass(frozen=True)
class UnitGaveUp(Record):
    """The attempts or the time were used up."""

    name: ClassVar[str] = "concurrency.gave_up"
    failure: str
    entities: tuple[str, ...]
    attempts: int


@dataclass(frozen=True)
class CommitInDoubt(Record):
    """The connection was lost while COMMIT was in flight; `is_applied` is what `verify` found, None without one."""

    name: ClassVar[str] = "concurrency.commit_in_doubt"
    attempts: int
    is_applied: bool | None
