"""Routers: handlers declared as a value, bound to a store by whoever includes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from araponga_infra.backoff import Backoff
from araponga_infra.clock import Duration
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events.errors import DuplicateHandlerError
from araponga_infra.events.handlers import Handler, make_handler
from araponga_infra.events.lifecycle import positive
from araponga_infra.events.types import event_type_of, is_name

__all__ = ["EventRouter", "Upcaster", "Upcasters", "add_upcaster", "checked_router", "checked_routers"]

F = TypeVar("F", bound=Callable[..., Any])
U = TypeVar("U", bound=Callable[[dict[str, Any]], dict[str, Any]])


@dataclass(frozen=True)
class Upcaster:
    """Turns the JSON object of one version of an event into that of the next."""

    event_name: str
    from_version: int
    convert: Callable[[dict[str, Any]], dict[str, Any]]


Upcasters: TypeAlias = dict[tuple[str, int], Upcaster]


def add_upcaster(upcasters: Upcasters, upcaster: Upcaster) -> None:
    """
    Raises:
        DuplicateHandlerError: another function reads that version already.
    """
    known = upcasters.setdefault((upcaster.event_name, upcaster.from_version), upcaster)
    if known.convert is not upcaster.convert:
        raise DuplicateHandlerError(
            f"version {upcaster.from_version} of event {upcaster.event_name!r} has two upcasters on the routers that "
            "are included: keep one of them"
        )


class EventRouter:
    """Handlers of a module or a feature, declared where they are written.

    A value: it has no store and no connection. The web process, the worker, the command line and the tests each give it
    to a processor or bus of their own.

    Args:
        prefix: put before the names and aliases of its handlers in the store, as in `"community."`.

    Examples:
        >>> router = EventRouter(prefix="community.")
        >>> @router.subscribe(PostPublished, max_attempts=5)
        ... async def notify_followers(published: PostPublished) -> None: ...
    """

    def __init__(self, prefix: str = "") -> None:
        if prefix != "" and not is_name(prefix):
            raise InvalidArgumentError(f"prefix={prefix!r} is not a text without blanks, such as 'community.'")
        self._prefix = prefix
        self._handlers: dict[str, Handler] = {}
        self._upcasters: Upcasters = {}

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """What was subscribed so far, under its names in the store."""
        return tuple(self._handlers.values())

    @property
    def upcasters(self) -> tuple[Upcaster, ...]:
        """The conversions of older payloads so far."""
        return tuple(self._upcasters.values())

    def subscribe(
        self,
        event_class: type[Any],
        *,
        name: str | None = None,
        aliases: Iterable[str] = (),
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: Duration | None = None,
        max_concurrency: int | None = None,
    ) -> Callable[[F], F]:
        """Subscribe a function, sync or async, to an event; the function itself is given back unchanged.

        Its first parameter is the event. By annotation it can also ask for a `DeliveryContext`, and for a `Session` or
        `AsyncSession`: then its work and its acknowledgement are one transaction, which the processor commits.

        Args:
            event_class: a class with `@event`.
            name: of the handler in the store; the function's own by default. Stable: deliveries wait under it.
            aliases: former names, whose deliveries it takes over.
            max_attempts: attempts in all; the processor's by default.
            backoff: wait between attempts; the processor's by default.
            timeout: limit of one attempt, a `timedelta` or seconds; the processor's by default.
            max_concurrency: how many of it may run at a time in one process.

        Raises:
            UnknownEventError: `event_class` is not an event.
            HandlerSignatureError: the function asks for something unknown.
            DuplicateHandlerError: the name is taken.
            InvalidArgumentError: an option out of range.
        """
        event_type_of(event_class)

        def add(function: F) -> F:
            handler = make_handler(
                function, event_class, name=name, aliases=aliases, max_attempts=max_attempts, backoff=backoff,
                timeout=timeout, max_concurrency=max_concurrency,
            )  # fmt: skip
            _add(self._handlers, handler.prefixed(self._prefix))
            return function

        return add

    def upcast(self, event_class: type[Any], *, from_version: int) -> Callable[[U], U]:
        """Subscribe a conversion of an older payload: from `from_version` to the version after it.

        The function takes the JSON object of the old version and returns that of the next one. Payloads that are
        several versions old pass through one upcaster after the other.

        Args:
            event_class: a class with `@event`, of a later version.
            from_version: the version that the function reads.

        Raises:
            InvalidArgumentError: `from_version` is not older than the class, or has one already; or not a plain
                function.
        """
        event_type = event_type_of(event_class)
        positive(from_version, "from_version")
        if from_version >= event_type.version:
            raise InvalidArgumentError(
                f"from_version={from_version} is not older than version {event_type.version} of {event_type.name!r}"
            )

        def add(convert: U) -> U:
            if not callable(convert) or inspect.iscoroutinefunction(convert):
                raise InvalidArgumentError(
                    f"upcaster {convert!r} of {event_type.name!r} is not a plain function: give one that takes the "
                    "older content and returns the newer one"
                )
            if (event_type.name, from_version) in self._upcasters:
                raise InvalidArgumentError(f"from_version={from_version} of {event_type.name!r} has one already")
            add_upcaster(self._upcasters, Upcaster(event_type.name, from_version, convert))
            return convert

        return add

    def include(self, router: EventRouter) -> None:
        """Take over the handlers and upcasters that `router` has now, all or none, under this router's prefix as well.

        Raises:
            DuplicateHandlerError: a handler's name is taken, or the two read an older version in different ways.
            InvalidArgumentError: not a router, or this one itself.
        """
        if checked_router(router) is self:
            raise InvalidArgumentError(
                "router is this router itself: include it in a processor, a bus or another router"
            )
        handlers, upcasters = dict(self._handlers), dict(self._upcasters)
        for handler in router.handlers:
            _add(handlers, handler.prefixed(self._prefix))
        for upcaster in router.upcasters:
            add_upcaster(upcasters, upcaster)
        self._handlers, self._upcasters = handlers, upcasters

    def __repr__(self) -> str:
        return f"EventRouter(prefix={self._prefix!r}, handlers={sorted(self._handlers)})"


def _add(handlers: dict[str, Handler], handler: Handler) -> None:
    if handler.name in handlers:
        raise DuplicateHandlerError(
            f"handler {handler.name!r} exists already on this router: pass name= to tell them apart"
        )
    handlers[handler.name] = handler


def checked_router(router: EventRouter) -> EventRouter:
    """
    Raises:
        InvalidArgumentError: not a router.
    """
    if not isinstance(router, EventRouter):
        raise InvalidArgumentError(f"router is a {type(router).__name__}: pass an EventRouter")
    return router


def checked_routers(routers: Iterable[EventRouter]) -> tuple[EventRouter, ...]:
    """
    Raises:
        InvalidArgumentError: not a sequence of routers.
    """
    if isinstance(routers, EventRouter) or not isinstance(routers, Iterable):
        raise InvalidArgumentError(
            f"routers is a {type(routers).__name__}: pass a list of them, as in routers=[router]"
        )
    return tuple(checked_router(router) for router in routers)
