"""A function whose results are cached, called as before."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, cast, overload

from araponga_infra.caching.annotations import declared_result
from araponga_infra.caching.keys import CacheKey, KeyPart, key, normalized
from araponga_infra.caching.protocols import AsyncDistributedCacheService, DistributedCacheService
from araponga_infra.caching.values import CachePolicy, Forever, read_policy, read_tags, read_ttl
from araponga_infra.clock import Duration
from araponga_infra.errors import InvalidArgumentError

__all__ = ["AsyncCachedFunction", "CachedFunction", "cached"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")


class _ForSync(Protocol):
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...


class _ForAsync(Protocol):
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> AsyncCachedFunction[P, R]: ...


@overload
def cached(
    cache: DistributedCacheService,
    ttl: Duration | Forever | None = None,
    *,
    name: str | None = None,
    key: Callable[..., CacheKey] | None = None,
    type: Any = None,
    tags: Iterable[str] = (),
    policy: CachePolicy | None = None,
) -> _ForSync: ...
@overload
def cached(
    cache: AsyncDistributedCacheService,
    ttl: Duration | Forever | None = None,
    *,
    name: str | None = None,
    key: Callable[..., CacheKey] | None = None,
    type: Any = None,
    tags: Iterable[str] = (),
    policy: CachePolicy | None = None,
) -> _ForAsync: ...
def cached(
    cache: Any,
    ttl: Duration | Forever | None = None,
    *,
    name: str | None = None,
    key: Callable[..., CacheKey] | None = None,
    type: Any = None,
    tags: Iterable[str] = (),
    policy: CachePolicy | None = None,
) -> Any:
    """Cache what a function returns, by its arguments; the calls keep the function's signature.

    Args:
        cache: a sync cache for a plain function, an async cache for an `async def`.
        ttl: how long a result lives; None is the cache's default.
        name: the first part of the keys, the function's qualified name without one. Set it where results should
            survive a rename.
        key: makes the key from the arguments, for arguments that are no key parts, such as `self`.
        type: what results come back as; None takes the function's return annotation.
        tags: names by which `delete_by_tag` finds the results.
        policy: stale values, timeouts, early refresh, jitter.

    The result has `.delete(*args)`, and `.key_of(*args)`, beside the call.

    Raises:
        InvalidArgumentError: an async function with a sync cache or the other way round; at a call, an argument that
            cannot be part of a key.

    Examples:
        >>> from araponga_infra.caching import create_cache
        >>> @cached(create_cache(), ttl=60)
        ... def square(number: int) -> int:
        ...     return number * number
        >>> square(7), square.key_of(number=7)
        (49, 'square:7')
    """
    _refuse_other_cache(cache)
    _refuse_uncallable(key, "key")
    if ttl is not None:
        read_ttl(ttl)
    read_policy(policy)
    common = {"ttl": ttl, "tags": read_tags(tags), "policy": policy}
    is_async = inspect.iscoroutinefunction(cache.get)

    def decorate(function: Callable[..., Any]) -> Any:
        _refuse_nameless(function, name)
        if inspect.iscoroutinefunction(function) is not is_async:
            raise InvalidArgumentError(
                f"{_name_of(function)} is {'a plain' if is_async else 'an async'} function and the cache is "
                f"{'async' if is_async else 'sync'}: use create_{'async_' if not is_async else ''}cache() for it"
            )
        declared = declared_result(function) if type is None else type
        wrapper: Any = AsyncCachedFunction if is_async else CachedFunction
        return wrapper(cache, function, name, key, {**common, "type": declared})

    return decorate


def _refuse_other_cache(cache: Any) -> None:
    if inspect.isroutine(cache):
        raise InvalidArgumentError(
            f"@cached stands above {_name_of(cache)} without a cache: write @cached(cache, ttl=60)"
        )
    if isinstance(cache, type) or not callable(getattr(cache, "get_or_set", None)):
        raise InvalidArgumentError(f"cache={cache!r}: pass a cache, as create_cache() makes")


def _refuse_uncallable(function: Any, argument: str) -> None:
    if function is not None and not callable(function):
        raise InvalidArgumentError(f"{argument}={function!r}: pass a function")


def _refuse_nameless(function: Any, name: str | None) -> None:
    if not callable(function):
        raise InvalidArgumentError(
            f"@cached stands above a {type(function).__name__}: put it directly above a function"
        )
    if name is None and not hasattr(function, "__qualname__"):
        raise InvalidArgumentError(f"a {type(function).__name__} has no name to begin its keys with: pass name=")


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


class _Wrapped(Generic[P]):
    """A function and how its calls become keys."""

    def __init__(
        self,
        cache: Any,
        function: Callable[..., Any],
        name: str | None,
        make_key: Callable[..., CacheKey] | None,
        options: dict[str, Any],
    ) -> None:
        functools.update_wrapper(cast(Any, self), function)
        self.__wrapped__ = function
        self._cache = cache
        self._function = function
        self._name = function.__qualname__ if name is None else name
        self._make_key = make_key
        self._options = options
        self._signature = inspect.signature(function)
        cache.region(self._name, options["type"])

    def key_of(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The cache key of a call; the same however its arguments are passed."""
        if self._make_key is not None:
            return normalized(self._make_key(*args, **kwargs))
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return key(self._name, *(_part(value) for value in bound.arguments.values()))

    def _bound_to(self, instance: object) -> Any:
        return self if instance is None else functools.partial(cast(Any, self), instance)


class CachedFunction(_Wrapped[P], Generic[P, R]):
    """A plain function whose results are cached."""

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[Any, Q], R], instance: object, owner: type[Any] | None = None
    ) -> Callable[Q, R]: ...
    def __get__(self, instance: object, owner: type[Any] | None = None) -> Any:
        return self._bound_to(instance)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        load = functools.partial(self._function, *args, **kwargs)
        result: R = self._cache.get_or_set(self.key_of(*args, **kwargs), load, **self._options)
        return result

    def delete(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Remove the result of a call everywhere."""
        self._cache.delete(self.key_of(*args, **kwargs))


class AsyncCachedFunction(_Wrapped[P], Generic[P, R]):
    """An async function whose results are cached."""

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...
    @overload
    def __get__(
        self: AsyncCachedFunction[Concatenate[Any, Q], R], instance: object, owner: type[Any] | None = None
    ) -> Callable[Q, Coroutine[Any, Any, R]]: ...
    def __get__(self, instance: object, owner: type[Any] | None = None) -> Any:
        return self._bound_to(instance)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        load = functools.partial(self._function, *args, **kwargs)
        result: Coroutine[Any, Any, R] = self._cache.get_or_set(self.key_of(*args, **kwargs), load, **self._options)
        return result

    async def delete(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Remove the result of a call everywhere."""
        await self._cache.delete(self.key_of(*args, **kwargs))


def _part(value: Any) -> KeyPart:
    """Arguments gathered by * and ** as tuples; the order of keyword arguments does not matter."""
    if isinstance(value, dict):
        named = cast("dict[str, Any]", value)
        return tuple((name, _part(named[name])) for name in sorted(named))
    if isinstance(value, (list, tuple)):
        return tuple(_part(item) for item in cast("list[Any]", value))
    return cast(KeyPart, value)
