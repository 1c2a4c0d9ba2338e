"""Records as the parts define theirs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from araponga_infra.telemetry import Record


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Hit(Record):
    name: ClassVar[str] = "cache.hit"
    layer: str = "memory"


@dataclass(frozen=True)
class Load(Record):
    name: ClassVar[str] = "cache.load"
    seconds: float
    stored: bool = True
    failed: bool = False


@dataclass(frozen=True)
class Breaker(Record):
    name: ClassVar[str] = "cache.breaker"
    state: str
    reason: str = ""


@dataclass(frozen=True)
class Out(Record):
    name: ClassVar[str] = "replica.out"
    replica: str
    reason: str = "refused"


@dataclass(frozen=True)
class Back(Record):
    name: ClassVar[str] = "replica.back"
    replica: str


@dataclass(frozen=True)
class Published(Record):
    name: ClassVar[str] = "events.published"
    events: int
    deliveries: int


@dataclass(frozen=True)
class Completed(Record):
    name: ClassVar[str] = "events.completed"
    event_name: str
    handler: str
    attempt: int
    seconds: float


@dataclass(frozen=True)
class Retried(Record):
    name: ClassVar[str] = "events.retried"
    event_name: str
    handler: str
    error_type: str


@dataclass(frozen=True)
class Dead(Record):
    name: ClassVar[str] = "events.dead"
    handler: str
    reason: Colour = Colour.RED
    entities: tuple[str, ...] = ("Post", "Author")
