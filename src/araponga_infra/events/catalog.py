"""What one processor or bus knows: its handlers by name, its events by name, and how to read older payloads."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

import msgspec

from araponga_infra.events.errors import DuplicateHandlerError
from araponga_infra.events.handlers import Handler
from araponga_infra.events.lifecycle import Postponed, Quarantined
from araponga_infra.events.router import EventRouter, Upcasters, add_upcaster
from araponga_infra.events.types import Codec, codec_of
from araponga_infra.events.values import DeadReason, Delivery, Subscription

__all__ = ["Catalog"]

_NEWER_VERSION_WAIT_SECONDS = 5.0
_NEWER_VERSION_PATIENCE_SECONDS = 3600.0
_MOST_MET = 10_000


class Catalog:
    """Handlers and event types; filled before the start, only read afterwards."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self._former: dict[str, str] = {}
        self._codecs: dict[str, Codec] = {}
        self._classes: dict[str, type[Any]] = {}
        self._upcasters: Upcasters = {}
        self._met: dict[tuple[UUID, str], float] = {}
        self._lock = threading.Lock()

    def include(self, router: EventRouter) -> None:
        """Take over all of a router, or nothing.

        Raises:
            DuplicateHandlerError: a handler's name or alias is taken, another class has the event's name, or another
                function reads the same older version.
        """
        handlers, former, classes = dict(self.handlers), dict(self._former), dict(self._classes)
        upcasters = dict(self._upcasters)
        for handler in router.handlers:
            _check_names(handler, {*handlers, *former})
            _check_class(handler, classes.setdefault(handler.event_type.name, handler.event_class))
            handlers[handler.name] = handler
            former.update(dict.fromkeys(handler.aliases, handler.name))
        for upcaster in router.upcasters:
            add_upcaster(upcasters, upcaster)
        self._codecs = {name: codec_of(each) for name, each in classes.items()}
        self.handlers, self._former, self._classes, self._upcasters = handlers, former, classes, upcasters

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        return tuple(Subscription(each.name, each.event_type.name, each.aliases) for each in self.handlers.values())

    def of_event(self, event_name: str) -> Iterable[Handler]:
        return [each for each in self.handlers.values() if each.event_type.name == event_name]

    def read(self, delivery: Delivery, handler: Handler, now: float) -> Any:
        """The event of `delivery`, for `handler`; or, as a value, why it cannot be read: `Quarantined`, `Postponed`."""
        if delivery.name != handler.event_type.name:
            takes = f"handler {handler.name!r} takes {handler.event_type.name!r} here, and not {delivery.name!r}"
            return Quarantined(DeadReason.UNKNOWN_EVENT, takes)
        codec = self._codecs[delivery.name]
        try:
            if delivery.version == codec.version:
                return codec.decode(delivery.payload)
            if delivery.version > codec.version:
                return self._newer(delivery, codec, now)
            return self._read_older(delivery, codec)
        except Exception as error:
            return Quarantined(DeadReason.UNDECODABLE, f"{type(error).__name__} while reading the payload")

    def _read_older(self, delivery: Delivery, codec: Codec) -> Any:
        content: dict[str, Any] = msgspec.json.decode(delivery.payload)
        for version in range(delivery.version, codec.version):
            upcaster = self._upcasters.get((delivery.name, version))
            if upcaster is None:
                return Quarantined(DeadReason.NO_UPCASTER, f"no upcaster from version {version} of {delivery.name!r}")
            content = upcaster.convert(content)
        return codec.decode(msgspec.json.encode(content))

    def _newer(self, delivery: Delivery, codec: Codec, now: float) -> Quarantined | Postponed:
        """During a rolling deploy a newer instance will take it; once that is long over, somebody has to look.

        Long since this process met it: it may have been published for a later time, or redriven.
        """
        name = delivery.event_id, delivery.handler
        with self._lock:
            if len(self._met) >= _MOST_MET and name not in self._met:
                del self._met[next(iter(self._met))]
            if now - self._met.setdefault(name, now) < _NEWER_VERSION_PATIENCE_SECONDS:
                return Postponed(_NEWER_VERSION_WAIT_SECONDS)
            del self._met[name]
        return Quarantined(
            DeadReason.NEWER_VERSION, f"version {delivery.version} is newer than version {codec.version} known here"
        )


def _check_names(handler: Handler, taken: Collection[str]) -> None:
    for name in (handler.name, *handler.aliases):
        if name in taken:
            raise DuplicateHandlerError(
                f"handler {handler.name!r}: the name {name!r} is taken already; pass name= or give the router "
                "a prefix, and include each router once"
            )


def _check_class(handler: Handler, known: type[Any]) -> None:
    if known is not handler.event_class:
        raise DuplicateHandlerError(
            f"event {handler.event_type.name!r} is the name of two classes, {known.__qualname__} and "
            f"{handler.event_class.__qualname__}: names of events are unique"
        )
