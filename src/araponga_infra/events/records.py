"""What the events room reports to an observer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from araponga_infra.events.values import DeadReason
from araponga_infra.telemetry import Record

__all__ = [
    "DeliveriesFenced",
    "DeliveriesRescued",
    "DeliveryCompleted",
    "DeliveryDied",
    "DeliveryRetried",
    "EventsPublished",
    "HandlerStuck",
    "LeaseRenewed",
    "StoreRecovered",
    "StoreUnavailable",
]


@dataclass(frozen=True)
class EventsPublished(Record):
    """Events were accepted; `unsubscribed` of them have no handler."""

    name: ClassVar[str] = "events.published"
    events: int
    deliveries: int
    unsubscribed: int


@dataclass(frozen=True)
class DeliveryCompleted(Record):
    name: ClassVar[str] = "events.completed"
    event_name: str
    handler: str
    attempt: int
    seconds: float


@dataclass(frozen=True)
class DeliveryRetried(Record):
    """An attempt failed, or asked for a later one, which will come after `delay_seconds`."""

    name: ClassVar[str] = "events.retried"
    event_name: str
    handler: str
    attempt: int
    delay_seconds: float
    error_type: str


@dataclass(frozen=True)
class DeliveryDied(Record):
    name: ClassVar[str] = "events.dead"
    event_name: str
    handler: str
    attempt: int
    reason: DeadReason


@dataclass(frozen=True)
class DeliveriesRescued(Record):
    """Deliveries of workers that stopped giving signs of life were made available again."""

    name: ClassVar[str] = "events.rescued"
    count: int


@dataclass(frozen=True)
class DeliveriesFenced(Record):
    """This worker finished deliveries that another one had been given meanwhile; its acknowledgement was refused."""

    name: ClassVar[str] = "events.fenced"
    count: int


@dataclass(frozen=True)
class LeaseRenewed(Record):
    """This worker was taken for dead; it goes on under a new identity."""

    name: ClassVar[str] = "events.lease_lost"


@dataclass(frozen=True)
class HandlerStuck(Record):
    """A handler outlived its timeout and cannot be ended. `stuck` threads, or tasks, are in that state."""

    name: ClassVar[str] = "events.handler_stuck"
    event_name: str
    handler: str
    stuck: int


@dataclass(frozen=True)
class StoreUnavailable(Record):
    name: ClassVar[str] = "events.store_unavailable"
    error_type: str


@dataclass(frozen=True)
class StoreRecovered(Record):
    name: ClassVar[str] = "events.store_recovered"
    seconds: float
