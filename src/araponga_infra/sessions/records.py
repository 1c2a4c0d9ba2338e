"""What this room reports to an observer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from araponga_infra.telemetry import Record

__all__ = ["FallbackToPrimary", "ReplicaReturned", "ReplicaTakenOut", "TokenIgnored"]


@dataclass(frozen=True)
class ReplicaTakenOut(Record):
    """Reads stop going to a replica."""

    name: ClassVar[str] = "replica.out"
    replica: str
    reason: str


@dataclass(frozen=True)
class ReplicaReturned(Record):
    """Reads go to a replica again."""

    name: ClassVar[str] = "replica.back"
    replica: str


@dataclass(frozen=True)
class FallbackToPrimary(Record):
    """A read that a replica should have served went to the primary, still read-only."""

    name: ClassVar[str] = "replica.fallback"
    reason: str
    waited_seconds: float


@dataclass(frozen=True)
class TokenIgnored(Record):
    """A write token that cannot be one of ours was ignored."""

    name: ClassVar[str] = "replica.token_ignored"
    reason: str
