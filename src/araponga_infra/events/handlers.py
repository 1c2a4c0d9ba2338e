"""Handlers: a function, the event it is for and what else it asks for, read from its signature once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from araponga_infra.backoff import Backoff
from araponga_infra.clock import Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events.context import DeliveryContext
from araponga_infra.events.errors import HandlerSignatureError
from araponga_infra.events.lifecycle import RetryPolicy, checked_backoff, positive
from araponga_infra.events.types import EventType, codec_of, is_name

__all__ = ["Handler", "SessionKind", "make_handler"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_NAME_LENGTH = 200
_STORED_NAME_LENGTH = 400


class SessionKind(StrEnum):
    SYNC = "Session"
    ASYNC = "AsyncSession"


@dataclass(frozen=True)
class Handler:
    """A subscribed function. `context_parameter` and `session_parameter` are the names it asks for them by."""

    name: str
    function: Callable[..., Any]
    event_class: type[Any]
    event_type: EventType
    is_async: bool
    aliases: tuple[str, ...] = ()
    max_attempts: int | None = None
    backoff: Backoff | None = None
    timeout_seconds: float | None = None
    max_concurrency: int | None = None
    context_parameter: str | None = None
    session_parameter: str | None = None
    session_kind: SessionKind | None = None

    def policy(self, default: RetryPolicy) -> RetryPolicy:
        """This handler's own wishes, and the processor's where it has none."""
        return RetryPolicy(
            max_attempts=self.max_attempts or default.max_attempts,
            backoff=self.backoff or default.backoff,
            timeout_seconds=self.timeout_seconds or default.timeout_seconds,
        )

    def prefixed(self, prefix: str) -> Handler:
        if not prefix:
            return self
        names = [prefix + each for each in (self.name, *self.aliases)]
        if len(max(names, key=len)) > _STORED_NAME_LENGTH:
            raise InvalidArgumentError(
                f"handler {self.name!r} has a name of more than {_STORED_NAME_LENGTH} characters with its prefixes: "
                "shorten them"
            )
        return replace(self, name=names[0], aliases=tuple(names[1:]))


def make_handler(
    function: Callable[..., Any],
    event_class: type[Any],
    *,
    name: str | None = None,
    aliases: Iterable[str] = (),
    max_attempts: int | None = None,
    backoff: Backoff | None = None,
    timeout: Duration | None = None,
    max_concurrency: int | None = None,
) -> Handler:
    """Read `function` as a handler of `event_class`.

    Raises:
        HandlerSignatureError: it takes no event, or asks for something unknown.
        InvalidArgumentError: an option out of range, or no usable name.
    """
    codec = codec_of(event_class)
    called = _checked_name(name, function)
    is_async = _is_async(function, called)
    asked = _Asked(called, is_async).read(function, event_class)
    return Handler(
        name=called,
        function=_awaiting(function) if is_async and not _is_coroutine_function(function) else function,
        event_class=event_class,
        event_type=codec.event_type,
        is_async=is_async,
        aliases=_checked_aliases(aliases, called),
        max_attempts=None if max_attempts is None else positive(max_attempts, "max_attempts"),
        backoff=checked_backoff(backoff),
        timeout_seconds=None if timeout is None else to_seconds(timeout, "timeout", allow_zero=False),
        max_concurrency=None if max_concurrency is None else positive(max_concurrency, "max_concurrency"),
        context_parameter=asked.context,
        session_parameter=asked.session,
        session_kind=asked.session_kind,
    )


class _Asked:
    """What a signature asks for, besides the event."""

    def __init__(self, handler: str, is_async: bool) -> None:
        self._handler = handler
        self._is_async = is_async
        self.context: str | None = None
        self.session: str | None = None
        self.session_kind: SessionKind | None = None

    def read(self, function: Callable[..., Any], event_class: type[Any]) -> _Asked:
        parameters = list(_signature(function, self._handler).parameters.values())
        hints = _hints(function, event_class, self._handler)
        if not parameters or parameters[0].kind not in _POSITIONAL:
            raise HandlerSignatureError(
                f"handler {self._handler!r} takes no event: give it a first parameter, "
                f"as in def {self._handler.rpartition('.')[2]}(event: {event_class.__name__})"
            )
        self._check_event(parameters[0].name, hints.get(parameters[0].name), event_class)
        for parameter in parameters[1:]:
            self._note(parameter, hints.get(parameter.name))
        return self

    def _check_event(self, parameter: str, hint: Any, event_class: type[Any]) -> None:
        accepted = _alternatives(hint)
        if any(each in (None, Any, object) or _is_class(event_class, get_origin(each) or each) for each in accepted):
            return
        raise HandlerSignatureError(
            f"handler {self._handler!r} is subscribed to {event_class.__name__}, but its parameter {parameter!r} "
            f"is annotated {_shown(hint)}: annotate it with {event_class.__name__}"
        )

    def _note(self, parameter: inspect.Parameter, annotation: Any) -> None:
        hint = _without_none(annotation)
        if _is_class(hint, DeliveryContext):
            self.context = parameter.name
        elif _is_class(hint, Session):
            self._note_session(parameter.name, hint, SessionKind.SYNC)
        elif _is_class(hint, AsyncSession):
            self._note_session(parameter.name, hint, SessionKind.ASYNC)
        elif parameter.default is inspect.Parameter.empty and parameter.kind not in _VARIADIC:
            raise HandlerSignatureError(
                f"handler {self._handler!r} asks for {parameter.name!r} annotated {_shown(hint)}, which is not known "
                "here: annotate it with DeliveryContext, Session or AsyncSession, or give it a default"
            )
        if parameter.name in (self.context, self.session) and parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise HandlerSignatureError(
                f"handler {self._handler!r}: parameter {parameter.name!r} is positional-only; only the event may be"
            )

    def _note_session(self, parameter: str, hint: Any, kind: SessionKind) -> None:
        if hint not in (Session, AsyncSession):
            raise HandlerSignatureError(
                f"handler {self._handler!r} asks for a {_shown(hint)} by {parameter!r}, and a processor gives a plain "
                f"{kind}: annotate it with {kind}, or open a session of its own"
            )
        if (kind is SessionKind.ASYNC) != self._is_async:
            keyword, wanted = ("async def", "AsyncSession") if self._is_async else ("def", "Session")
            raise HandlerSignatureError(
                f"handler {self._handler!r} is a {keyword} and asks for {kind} by {parameter!r}: "
                f"annotate it with {wanted}"
            )
        if self.session is not None:
            raise HandlerSignatureError(f"handler {self._handler!r} asks for two sessions: one transaction has one")
        self.session, self.session_kind = parameter, kind


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _without_none(hint: Any) -> Any:
    """`Session | None = None` asks for a session as well: the default is for those who call the function themselves."""
    wanted = [each for each in _alternatives(hint) if each is not type(None)]
    return wanted[0] if len(wanted) == 1 else hint


def _is_class(value: Any, expected: Any) -> bool:
    return isinstance(value, type) and isinstance(expected, type) and issubclass(value, expected)


def _shown(hint: Any) -> str:
    return "with nothing" if hint is None else getattr(hint, "__name__", None) or repr(hint)


def _signature(function: Callable[..., Any], handler: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        raise HandlerSignatureError(f"handler {handler!r} is a {type(function).__name__}, not a function") from None


def _hints(function: Callable[..., Any], event_class: type[Any], handler: str) -> dict[str, Any]:
    """Annotations with their texts resolved. What handlers ask for is known even where the module imports it for type
    checking only, and an event class even where it is local to a function."""
    target = function.func if isinstance(function, functools.partial) else function
    if not (inspect.isfunction(target) or inspect.ismethod(target)):
        target = type(target).__call__
    known = {"DeliveryContext": DeliveryContext, "Session": Session, "AsyncSession": AsyncSession}
    names = {**known, event_class.__name__: event_class, **getattr(inspect.unwrap(target), "__globals__", {})}
    try:
        hints = get_type_hints(target, globalns=names, localns=_closure(target))
    except NameError as error:
        raise HandlerSignatureError(
            f"handler {handler!r} has an annotation that cannot be resolved ({error}): import the name in its module"
        ) from error
    hints.pop("return", None)
    return hints


def _closure(target: Any) -> dict[str, Any]:
    code, cells = getattr(target, "__code__", None), getattr(target, "__closure__", None)
    if code is None or not cells:
        return {}
    found: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def _is_async(function: Callable[..., Any], handler: str) -> bool:
    call = _called(function)
    if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise HandlerSignatureError(f"handler {handler!r} is a generator: a handler is called once and returns")
    return _is_coroutine_function(function) or inspect.iscoroutinefunction(inspect.unwrap(call))


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(_called(function))


def _called(function: Callable[..., Any]) -> Any:
    target: Any = function.func if isinstance(function, functools.partial) else function
    return target if inspect.isroutine(target) else getattr(target, "__call__", target)  # noqa: B004


def _awaiting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain decorator around an async function gives back what has to be awaited, or has run it to its end."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    return call


def _checked_name(name: str | None, function: Callable[..., Any]) -> str:
    called = name if name is not None else getattr(function, "__name__", "")
    if not is_name(called) or called == "<lambda>":
        raise InvalidArgumentError(
            f"name={called!r} cannot name a handler in the store: pass name= with 1 to {_NAME_LENGTH} characters "
            "and no blanks"
        )
    return called


def _checked_aliases(aliases: Iterable[str], name: str) -> tuple[str, ...]:
    if isinstance(aliases, str):
        raise InvalidArgumentError(f"aliases={aliases!r} is a text: pass a tuple of names, as in ({aliases!r},)")
    if not isinstance(aliases, Iterable):
        raise InvalidArgumentError(f"aliases={aliases!r} is not a tuple of former names: pass one, as in ('old_name',)")
    former = tuple(aliases)
    for alias in former:
        _checked_name(alias, make_handler)
        if alias == name:
            raise InvalidArgumentError(f"aliases of handler {name!r} repeat its own name: list former names only")
    return former
