"""What a handler can ask about the delivery it is given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from araponga_infra.events.values import Delivery, as_datetime

__all__ = ["DeliveryContext", "PublishIn"]

PublishIn = Callable[..., UUID]
_NOTHING: Mapping[str, str] = {}
_logger = logging.getLogger("araponga_infra.events.handler")


class DeliveryContext:
    """Facts about one delivery, for handlers that ask for them by annotation.

    Attributes:
        event_id: the same at every attempt and for every handler: an idempotency key for what lies outside.
        attempt: 1 at the first try.
        deadline: when this attempt is timed out, aware, in UTC; None without a timeout.
        headers: what was published along with the event, trace context for one.
        handler: the handler's name in the store.
        event_name: the event's stable name.
        ordering_key: the key it was published with, or None.
        published_at: when it was published, aware, in UTC.
    """

    __slots__ = ("_delivery", "_publish_in", "attempt", "deadline", "headers")

    def __init__(
        self, delivery: Delivery, *, attempt: int, deadline: datetime | None, publish_in: PublishIn | None = None
    ) -> None:
        self._delivery = delivery
        self._publish_in = publish_in
        self.attempt: int = attempt
        self.deadline: datetime | None = deadline
        self.headers: Mapping[str, str] = delivery.headers or _NOTHING

    @property
    def event_id(self) -> UUID:
        """The same at every attempt and for every handler."""
        return self._delivery.event_id

    @property
    def handler(self) -> str:
        """The handler's name in the store."""
        return self._delivery.handler

    @property
    def event_name(self) -> str:
        """The event's stable name."""
        return self._delivery.name

    @property
    def ordering_key(self) -> str | None:
        """The key it was published with, or None."""
        return self._delivery.ordering_key

    @property
    def published_at(self) -> datetime:
        """When it was published, aware, in UTC."""
        return as_datetime(self._delivery.published_at)

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """Logs with event id, event name, handler and attempt as `extra`."""
        delivery = self._delivery
        return logging.LoggerAdapter(
            _logger,
            {
                "event_id": str(delivery.event_id),
                "event_name": delivery.name,
                "handler": delivery.handler,
                "attempt": self.attempt,
            },
        )

    def publish_in(self, session: Any, event: object, **options: Any) -> UUID:
        """The processor's `publish_in`: a follow-up event in the transaction of this handler's session.

        Raises:
            UnsupportedByStoreError: the store has no transactions.
        """
        if self._publish_in is None:
            from araponga_infra.events.errors import UnsupportedByStoreError

            raise UnsupportedByStoreError("this handler was not called by a processor on a SQL store")
        return self._publish_in(session, event, **options)

    def __repr__(self) -> str:
        return f"DeliveryContext(event_id={self.event_id}, handler={self.handler!r}, attempt={self.attempt})"
