"""Background events: published with the transaction that causes them, handled later, elsewhere, at least once.

Read from `values` over `lifecycle` (what follows from what) and `dispatch` (what runs when) to the processors in
`background` and `asynchronous`; `stores` keep deliveries.
"""

from araponga_infra.events.asynchronous import AsyncBackgroundEventProcessor
from araponga_infra.events.background import BackgroundEventProcessor
from araponga_infra.events.bus import AsyncEventBus, AsyncInMemoryEventBus, EventBus, InMemoryEventBus
from araponga_infra.events.context import DeliveryContext
from araponga_infra.events.errors import (
    DeadLetterNotFoundError,
    DeliveryFailedError,
    DuplicateHandlerError,
    GiveUp,
    HandlerCommitError,
    HandlerSignatureError,
    HandlerTimeoutError,
    LeaseLostError,
    PayloadError,
    ProcessorStateError,
    QueueFullError,
    RetryLater,
    SessionMismatchError,
    UnknownEventError,
    UnsupportedByStoreError,
)
from araponga_infra.events.letters import AsyncDeadLetters, DeadLetters
from araponga_infra.events.protocols import AsyncEventStore, EventStore, EventStoreSource
from araponga_infra.events.router import EventRouter
from araponga_infra.events.stores.memory import InMemoryEventStore
from araponga_infra.events.stores.redis import RedisStreamEventStore
from araponga_infra.events.stores.sqlalchemy import (
    AsyncInbox,
    Inbox,
    SqlAlchemyEventStore,
    create_event_tables,
    drop_event_tables,
)
from araponga_infra.events.types import event
from araponga_infra.events.values import DeadLetter, DeadReason, EventStats, HandlerStats, Page, RunReport, State

__all__ = [
    "AsyncBackgroundEventProcessor",
    "AsyncDeadLetters",
    "AsyncEventBus",
    "AsyncEventStore",
    "AsyncInMemoryEventBus",
    "AsyncInbox",
    "BackgroundEventProcessor",
    "DeadLetter",
    "DeadLetterNotFoundError",
    "DeadLetters",
    "DeadReason",
    "DeliveryContext",
    "DeliveryFailedError",
    "DuplicateHandlerError",
    "EventBus",
    "EventRouter",
    "EventStats",
    "EventStore",
    "EventStoreSource",
    "GiveUp",
    "HandlerCommitError",
    "HandlerSignatureError",
    "HandlerStats",
    "HandlerTimeoutError",
    "InMemoryEventBus",
    "InMemoryEventStore",
    "Inbox",
    "LeaseLostError",
    "Page",
    "PayloadError",
    "ProcessorStateError",
    "QueueFullError",
    "RedisStreamEventStore",
    "RetryLater",
    "RunReport",
    "SessionMismatchError",
    "SqlAlchemyEventStore",
    "State",
    "UnknownEventError",
    "UnsupportedByStoreError",
    "create_event_tables",
    "drop_event_tables",
    "event",
]
