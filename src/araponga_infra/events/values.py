"""What travels between publishers, stores and processors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Generic, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

import msgspec

__all__ = [
    "Appended",
    "Capabilities",
    "DeadFilter",
    "DeadLetter",
    "DeadReason",
    "Delivery",
    "EventStats",
    "Exchange",
    "HandlerStats",
    "Message",
    "Page",
    "Reaped",
    "Receipt",
    "RunReport",
    "State",
    "Subscription",
    "Want",
    "as_datetime",
]

T = TypeVar("T")


class State(StrEnum):
    """Where a delivery stands. `completed` and `discarded` are ends: the store forgets the delivery there."""

    AVAILABLE = "available"
    RUNNING = "running"
    RETRYABLE = "retryable"
    COMPLETED = "completed"
    DEAD = "dead"
    DISCARDED = "discarded"


class DeadReason(StrEnum):
    """Why a delivery is a dead letter. Stable: dashboards and `redrive_all(reason=...)` are built on it."""

    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    """The handler failed at its last attempt, too."""

    GAVE_UP = "gave_up"
    """The handler said `GiveUp`."""

    WORKER_LOST = "worker_lost"
    """Its workers died while they held it, time and again."""

    NO_SUBSCRIBER = "no_subscriber"
    """No handler had subscribed to the event when it was published."""

    UNKNOWN_EVENT = "unknown_event"
    """The handler takes another event in the process that has it."""

    UNDECODABLE = "undecodable"
    """The payload does not fit the event's class."""

    NO_UPCASTER = "no_upcaster"
    """The payload is of an older version, and no upcaster reads it."""

    NEWER_VERSION = "newer_version"
    """The payload is of a later version than this process knows, and nobody who knows it took it within an hour of
    when this process met it."""

    HANDLER_GONE = "handler_gone"
    """The handler was forgotten, or no process has had it for a week."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """An event as it is handed to a store, before it is fanned out to handlers."""

    event_id: UUID
    name: str
    version: int
    payload: bytes
    headers: Mapping[str, str] | None = None
    delay_seconds: float = 0.0
    due_at: float | None = None
    ordering_key: str | None = None
    window_seconds: float = 0.0
    """How long this event id is accepted only once; 0 for events without an idempotency key."""

    def __repr__(self) -> str:
        return f"Message(event_id={self.event_id}, name={self.name!r}, version={self.version})"


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One event to one handler, as claimed from a store. Times are seconds since the epoch."""

    id: str
    handler: str
    event_id: UUID
    name: str
    version: int
    payload: bytes
    headers: Mapping[str, str] | None
    published_at: float
    attempts: int = 0
    losses: int = 0
    ordering_key: str | None = None
    claim: int = 0
    """Tells it apart from an earlier claim by the same owner."""

    def __repr__(self) -> str:
        return f"Delivery(id={self.id!r}, handler={self.handler!r}, name={self.name!r}, attempts={self.attempts})"


Receipt: TypeAlias = tuple[str, Delivery]
"""A claimed delivery with the owner it was claimed by: acknowledgement counts only while it is held by that claim."""


class Subscription(msgspec.Struct, frozen=True):
    """A handler's wish for an event, as the store remembers it."""

    handler: str
    event_name: str
    aliases: tuple[str, ...] = ()


class Want(NamedTuple):
    """How many deliveries of one handler a processor has room for."""

    handler: str
    limit: int


class Appended(msgspec.Struct, frozen=True, gc=False):
    """What became of a batch of messages."""

    deliveries: int = 0
    duplicates: int = 0
    unsubscribed: int = 0


class Exchange(msgspec.Struct, frozen=True):
    """The answer to acknowledgements and wants."""

    deliveries: list[Delivery]
    next_due_seconds: float | None = None
    """When the next delivery is due; None when nothing is waiting, or when something was handed out."""
    fenced: int = 0
    """Acknowledgements that were refused because another owner holds the delivery by now."""


class Reaped(msgspec.Struct, frozen=True):
    """What a look for dead workers found."""

    rescued: int = 0
    has_suspects: bool = False
    """Whether abandoned deliveries wait to be run alone."""


@dataclass(frozen=True)
class Capabilities:
    """What a store promises; a processor refuses at the call what its store does not.

    Args:
        is_durable: what was accepted survives the process.
        ordering: deliveries of one ordering key are kept in order.
        transactions: events can be written in a transaction of the host's, and handlers can have a session.
    """

    is_durable: bool
    ordering: bool
    transactions: bool


@dataclass(frozen=True)
class DeadFilter:
    """Which dead letters are meant; None matches every one.

    Args:
        event: of this event's name.
        handler: of this handler's name in the store.
        reason: with this reason.
        until: up to this id, the `newest_dead` of an earlier moment: what was redriven since has another one.
    """

    event: str | None = None
    handler: str | None = None
    reason: str | None = None
    until: str | None = None


@dataclass(frozen=True)
class DeadLetter:
    """A delivery that ended without success, with what is needed to understand and to redrive it.

    Attributes:
        id: what `redrive` and `discard` take.
        event_id: the event's own id, the same for all its handlers.
        event_name: the event's stable name.
        event_version: the version it was published with.
        handler: the handler's name in the store; empty where the event had no subscriber.
        attempts: how often the handler was started.
        lost_leases: how often a worker died while it held the delivery.
        reason: why it ended.
        error: the last error in words, or what a handler gave as its reason to give up; None where there was none.
        published_at: when the event was published, aware, in UTC.
        died_at: when it ended, aware, in UTC.
        payload: the original bytes, also of events that could not be read. Left out of the repr.
        headers: what was published along with the event. Left out of the repr.
        ordering_key: the key it was published with, or None. Left out of the repr.
    """

    id: str
    event_id: UUID
    event_name: str
    event_version: int
    handler: str
    attempts: int
    lost_leases: int
    reason: DeadReason
    error: str | None
    published_at: datetime
    died_at: datetime
    payload: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    ordering_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some of a longer list; iterating over it gives its items.

    Attributes:
        items: these ones.
        next: hand it to the same call as `after=` for what follows. None: this was the last.
    """

    items: tuple[T, ...]
    next: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class RunReport:
    """What `run_until_idle` did.

    Attributes:
        completed: deliveries that are done.
        retried: attempts that failed and were put off for later.
        dead: the new dead letters.
    """

    completed: int
    retried: int
    dead: tuple[DeadLetter, ...]


@dataclass(frozen=True)
class HandlerStats:
    """How many deliveries of one event to one handler are in each state.

    Attributes:
        event: the event's stable name.
        handler: the handler's name in the store.
        queued: wait for their first attempt.
        running: are being handled.
        retrying: wait for another attempt.
        dead: ended without success, and are kept.
        oldest_age_seconds: since the oldest of them that waits, and is due, was published; 0 when none is. On Redis the
            first of each line stands for all behind it.
    """

    event: str
    handler: str
    queued: int = 0
    running: int = 0
    retrying: int = 0
    dead: int = 0
    oldest_age_seconds: float = 0.0


@dataclass(frozen=True)
class EventStats:
    """How the queue stands, in total and per event and handler.

    Attributes:
        queued: deliveries that wait for their first attempt.
        running: those that are being handled.
        retrying: those that wait for another attempt.
        dead: those that ended without success, and are kept.
        oldest_age_seconds: since the oldest delivery that waits, and is due, was published; 0 when none is.
        handlers: the same for each event and handler.
    """

    queued: int
    running: int
    retrying: int
    dead: int
    oldest_age_seconds: float
    handlers: tuple[HandlerStats, ...]

    @classmethod
    def of(cls, handlers: tuple[HandlerStats, ...]) -> EventStats:
        return cls(
            queued=sum(each.queued for each in handlers),
            running=sum(each.running for each in handlers),
            retrying=sum(each.retrying for each in handlers),
            dead=sum(each.dead for each in handlers),
            oldest_age_seconds=max((each.oldest_age_seconds for each in handlers), default=0.0),
            handlers=handlers,
        )


def as_datetime(epoch_seconds: float) -> datetime:
    return datetime.fromtimestamp(epoch_seconds, UTC)
