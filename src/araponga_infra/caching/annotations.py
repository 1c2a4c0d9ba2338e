"""The type a factory declares it returns, for callers who do not repeat it."""

from __future__ import annotations

import collections.abc
import functools
import logging
import types
import typing
from collections.abc import Callable
from typing import Any

from araponga_infra.caching.values import Loaded

__all__ = ["declared_result"]

_logger = logging.getLogger("araponga_infra.caching")
_AWAITABLES = (collections.abc.Awaitable, collections.abc.Coroutine)
_MOST_KNOWN = 4096
_known: dict[Any, tuple[Any, Any]] = {}


def declared_result(factory: Callable[..., Any]) -> Any:
    """The return annotation of a factory; `Any` (JSON builtins) when it has none.

    `Loaded[T]`, `T | Loaded[T]`, `Awaitable[T]` and what `async def` declares all mean T. An annotation that names
    something out of reach, such as a class local to a function, means `Any`, with one warning.
    """
    function = _function_of(factory)
    code = getattr(function, "__code__", None)
    annotation = getattr(function, "__annotations__", {}).get("return", Any)
    if annotation is Any:
        return Any
    known = _known.get(code)
    if known is not None and (known[0] is annotation or known[0] == annotation):
        return known[1]
    resolved = _unwrapped(_resolved(function, annotation))
    if isinstance(annotation, str) and any(name in annotation for name in function.__code__.co_freevars):
        return resolved
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[code] = annotation, resolved
    return resolved


def _function_of(factory: Callable[..., Any]) -> Any:
    while isinstance(factory, functools.partial):
        factory = factory.func
    if isinstance(factory, types.FunctionType):
        return factory
    if isinstance(factory, types.MethodType):
        return _function_of(factory.__func__)
    if isinstance(factory, type) or not hasattr(type(factory), "__call__"):  # noqa: B004 - the class's, not the object's
        return factory
    call = type(factory).__call__
    return call if isinstance(call, types.FunctionType) else factory


def _resolved(function: Any, annotation: Any) -> Any:
    if not isinstance(annotation, str):
        return type(None) if annotation is None else annotation
    reachable = dict(getattr(function, "__globals__", {}))
    names, cells = function.__code__.co_freevars, function.__closure__ or ()
    for name, cell in zip(names, cells, strict=True):
        try:
            reachable[name] = cell.cell_contents
        except ValueError:
            continue
    try:
        hints = typing.get_type_hints(types.SimpleNamespace(__annotations__={"return": annotation}), reachable)
    except (NameError, TypeError, AttributeError, SyntaxError):
        _logger.warning(
            "%s returns %r, which cannot be looked up from there: its values come back as JSON builtins; pass type=",
            getattr(function, "__qualname__", "a factory"), annotation,
        )  # fmt: skip
        return Any
    return hints["return"]


def _unwrapped(declared: Any) -> Any:
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin is Loaded:
        return _unwrapped(arguments[0])
    if origin in _AWAITABLES:
        return _unwrapped(arguments[-1])
    if origin in (typing.Union, types.UnionType):
        members = dict.fromkeys(_unwrapped(argument) for argument in arguments if argument is not Loaded)
        return typing.Union[tuple(members)]  # noqa: UP007 - built from values
    return Any if declared is Loaded or isinstance(declared, typing.TypeVar) else declared
