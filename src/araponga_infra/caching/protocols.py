"""What a distributed cache is, in its plain and its async form; `araponga_infra.testing.caching` checks any
implementation against it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, overload

from typing_extensions import TypeForm

from araponga_infra.caching.keys import CacheKey
from araponga_infra.caching.values import CachePolicy, Forever, Loaded
from araponga_infra.clock import Duration
from araponga_infra.transactions import AnySession

if TYPE_CHECKING:
    from araponga_infra.caching.regions import AsyncCacheRegion, CacheRegion

__all__ = ["AsyncDistributedCacheService", "DistributedCacheService"]

T = TypeVar("T")
D = TypeVar("D")


class DistributedCacheService(Protocol):
    """A cache that several instances of a service share.

    Keys are strings, as `key("territory", 42)` makes, or tuples of parts. Values are written as JSON and come back as
    `type`, the same on every backend and for the caller that loaded them; without a type they come back as JSON
    builtins. None is a value. No call raises because Redis is away, and each ends within its time budget.

    Safe for threads, and for processes that fork.
    """

    @overload
    def get(self, key: CacheKey, default: None = None, *, type: TypeForm[T]) -> T | None: ...
    @overload
    def get(self, key: CacheKey, default: D, *, type: TypeForm[T]) -> T | D: ...
    @overload
    def get(self, key: CacheKey, default: Any = None) -> Any: ...
    def get(self, key: CacheKey, default: Any = None, *, type: Any = Any) -> Any:
        """The value of a key, or `default` on a miss; `default=MISSING` tells a miss from a cached None.

        Args:
            key: a string, as `key("territory", 42)` makes, or a tuple of parts.
            default: answered on a miss.
            type: what the value comes back as; JSON builtins without it. An entry of another type is a miss.

        Raises:
            InvalidArgumentError: the key is empty or no key, or the type cannot be read from JSON.
        """
        ...

    def set(
        self, key: CacheKey, value: object, ttl: Duration | Forever | None = None, *, tags: Iterable[str] = ()
    ) -> None:
        """Store a value, whatever was there.

        Args:
            key: see `get`.
            value: anything that msgspec writes as JSON, and pydantic models; at most 1 MiB and 64 levels deep.
            ttl: a `timedelta`, seconds or `FOREVER`; None is the cache's default.
            tags: names by which `delete_by_tag` finds it.

        Raises:
            UncacheableValueError: the value has no JSON form or is too large.
            InvalidArgumentError: the key, the TTL or a tag is of no use.
        """
        ...

    def delete(self, key: CacheKey) -> None:
        """Remove a key everywhere. A load of it that is under way is not stored."""
        ...

    def delete_many(self, keys: Iterable[CacheKey]) -> None:
        """Remove keys everywhere."""
        ...

    def delete_by_pattern(self, pattern: str) -> None:
        """Remove the keys that match a glob such as `territory:*`.

        `*` is any run of characters, `?` one character, `[abc]` one of these; a backslash escapes. Looks at every
        key in Redis, in batches; prefer `region.clear()` or tags where keys are many.

        Raises:
            InvalidArgumentError: an empty pattern.
        """
        ...

    def delete_by_tag(self, tag: str) -> None:
        """Remove everything that was stored with a tag."""
        ...

    def clear(self) -> None:
        """Remove everything in this cache's namespace."""
        ...

    def exists(self, key: CacheKey) -> bool:
        """Whether `get` would find the key."""
        ...

    @overload
    def get_many(self, keys: Iterable[CacheKey], *, type: TypeForm[T]) -> dict[CacheKey, T]: ...
    @overload
    def get_many(self, keys: Iterable[CacheKey]) -> dict[CacheKey, Any]: ...
    def get_many(self, keys: Iterable[CacheKey], *, type: Any = Any) -> dict[CacheKey, Any]:
        """The values of those keys that are there, as `type`; misses are absent. One round trip."""
        ...

    def set_many(self, mapping: Mapping[CacheKey, object], ttl: Duration | Forever | None = None) -> None:
        """Store several values in one round trip, as `set` does; refuses all when one cannot be stored."""
        ...

    @overload
    def get_or_set(
        self,
        key: CacheKey,
        factory: Callable[[], Loaded[T]],
        ttl: Duration | Forever | None = None,
        *,
        type: None = None,
        tags: Iterable[str] = (),
        policy: CachePolicy | None = None,
    ) -> T: ...
    @overload
    def get_or_set(
        self,
        key: CacheKey,
        factory: Callable[[], T | Loaded[T]],
        ttl: Duration | Forever | None = None,
        *,
        type: None = None,
        tags: Iterable[str] = (),
        policy: CachePolicy | None = None,
    ) -> T: ...
    @overload
    def get_or_set(
        self,
        key: CacheKey,
        factory: Callable[[], T | Loaded[T]],
        ttl: Duration | Forever | None = None,
        *,
        type: TypeForm[T],
        tags: Iterable[str] = (),
        policy: CachePolicy | None = None,
    ) -> T: ...
    def get_or_set(
        self,
        key: CacheKey,
        factory: Callable[[], Any],
        ttl: Duration | Forever | None = None,
        *,
        type: Any = None,
        tags: Iterable[str] = (),
        policy: CachePolicy | None = None,
    ) -> Any:
        """The value of a key; on a miss one caller loads it and the others wait for that load.

        Args:
            key: see `get`.
            factory: loads the value, in the caller's thread unless the policy sets a timeout. May return a `Loaded`
                to choose TTL and tags, or not to be stored. An error it raises reaches all who wait, once each.
            ttl: see `set`.
            type: what the value comes back as, for the caller that loads it, too; None takes the return annotation of
                the factory, and without one JSON builtins.
            tags: see `set`.
            policy: stale values, timeouts, early refresh, jitter.

        Raises:
            UncacheableValueError: what was loaded has no JSON form or is not of its type.
            RecursiveLoadError: the load asks for the key that it is loading.
            LoadTimeoutError: the policy's `hard_timeout` has passed.
        """
        ...

    def delete_in(self, session: AnySession, key: CacheKey) -> None:
        """Remove a key after the COMMIT of that session's transaction, and never on rollback."""
        ...

    def region(
        self, name: str, type: TypeForm[T], ttl: Duration | Forever | None = None, *, policy: CachePolicy | None = None
    ) -> CacheRegion[T]:
        """A typed view on the keys `name:id`.

        Args:
            name: the kind of thing; labels what is reported.
            type: what its values are.
            ttl: how long they live; None is the cache's default.
            policy: for its `get_or_set`.
        """
        ...

    @property
    def is_degraded(self) -> bool:
        """Whether it works without the Redis it was given; always False where none was. Asks nobody."""
        ...

    def close(self) -> None:
        """Give back threads and connections; other calls then raise `ClosedError`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class AsyncDistributedCacheService(Protocol):
    """The same for async code; what does no I/O (`delete_in`, `region`) is a plain method here, too.

    No call raises because Redis is away, and each ends within its time budget; what a load raises reaches all who wait
    for it. A caller that is cancelled cancels nobody else's load.

    Safe for several event loops in one process, for threads that run them, and for processes that fork.
    """

    @overload
    async def get(self, key: CacheKey, default: None = None, *, type: TypeForm[T]) -> T | None: ...
    @overload
    async def get(self, key: CacheKey, default: D, *, type: TypeForm[T]) -> T | D: ...
    @overload
    async def get(self, key: CacheKey, default: Any = None) -> Any: ...
    async def get(self, key: CacheKey, default: Any = None, *, type: Any = Any) -> Any:
        """The value of a key, or `default` on a miss; `default=MISSING` tells a miss from a cached None.

        Args:
            key: a string, as `key("territory", 42)` makes, or a tuple of parts.
            default: answered on a miss.
            type: what the value comes back as; JSON builtins without it. An entry of another type is a miss.

        Raises:
            InvalidArgumentError: the key is empty or no key, or the type cannot be read from JSON.
        """
        ...

    async def set(
        self, key: CacheKey, value: object, ttl: Duration | Forever | None = None, *, tags: Iterable[str] = ()
    ) -> None:
        """Store a value, whatever was there.

        Args:
            key: see `get`.
            value: anything that msgspec writes as JSON, and pydantic models; at most 1 MiB and 64 levels deep.
            ttl: a `timedelta`, seconds or `FOREVER`; None is the cache's default.
            tags: names by which `delete_by_tag` finds it.

        Raises:
            UncacheableValueError: the value has no JSON form or is too large.
            InvalidArgumentError: the key, the TTL or a tag is of no use.
        """
        ...

    async def delete(self, key: CacheKey) -> None:
        """Remove a key everywhere. A load of it that is under way is not stored."""
        ...

    async def delete_many(self, keys: Iterable[CacheKey]) -> None:
        """Remove keys everywhere."""
        ...

    async def delete_by_pattern(self, pattern: str) -> None:
        """Remove the keys that match a glob such as `territory:*`.

        `*` is any run of characters, `?` one character, `[abc]` one of these; a backslash escapes. Looks at every
        key in Redis, in batches; prefer `region.clear()` or tags where keys are many.

        Raises:
            InvalidArgumentError: an empty pattern.
        """
        ...

    async def delete_by_tag(self, tag: str) -> None:
        """Remove everything that was stored with a tag."""
        ...

    async def clear(self) -> None:
        """Remove everything in this cache's namespace."""
        ...

    async def exists(self, key: CacheKey) -> bool:
        """Whether `get` would find the key."""
        ...

    @overload
    async def get_many(self, keys: Iterable[CacheKey], *, type: TypeForm[T]) -> dict[CacheKey, T]: ...
    @overload
    async def get_many(self, keys: Iterable[CacheKey]) -> dict[CacheKey, Any]: ...
    async def get_many(self, keys: Iterable[CacheKey], *, type: Any = Any) -> dict[CacheKey, Any]:
        """The values of those keys that are there, as `type`; misses are absent. One round trip."""
        ...

    async def set_many(self, mapping: Mapping[CacheKey, object], ttl: Duration | Forever | None = None) -> None:
        """Store several values in one round trip, as `set` does; refuses all when one cannot be stored."""
        ...

    @overload
    async def get_or_set(
        self,
        key: CacheKey,
        factory: Callable[[], Awaitable[Loaded[T]]],
        ttl: Duration | Forever | None = None,
        *,
        type: None = None,
        tags: Iterable[str] = (),
        policy: CachePolicy | None = None,
    ) -> T: ...
    @overload
    async def get_or_set(
        self,
        key: CacheKey,
        factory: Callable[[], Awaitable[T | Loaded[T]]],
        ttl: Duration | Forever | None = None,
        *,
        type: None = None,
        tags: Iterable[str] = (),
        policy: CachePolicy | None = None,
    ) -> T: ...
    @overload
    async def get_or_set(
        self,
        key: CacheKey,
        factory: Callable[[], Awaitable[T | Loaded[T]]],
        ttl: Duration | Forever | None = None,
        *,
        type: TypeForm[T],
        tags: Iterable[str] = (),
        policy: CachePolicy | None = None,
    ) -> T: ...
    async def get_or_set(
        self,
        key: CacheKey,
        factory: Callable[[], Any],
        ttl: Duration | Forever | None = None,
        *,
        type: Any = None,
        tags: Iterable[str] = (),
        policy: CachePolicy | None = None,
    ) -> Any:
        """The value of a key; on a miss one load runs, in a task of its own, and all callers wait for it.

        Args:
            key: see `get`.
            factory: loads the value, in a task of its own. May return a `Loaded` to choose TTL and tags, or not
                to be stored. An error it raises reaches all who wait, once each.
            ttl: see `set`.
            type: what the value comes back as, for the caller that loads it, too; None takes the return annotation of
                the factory, and without one JSON builtins.
            tags: see `set`.
            policy: stale values, timeouts, early refresh, jitter.

        Raises:
            UncacheableValueError: what was loaded has no JSON form or is not of its type.
            RecursiveLoadError: the load asks for the key that it is loading.
            LoadTimeoutError: the policy's `hard_timeout` has passed.
        """
        ...

    def delete_in(self, session: AnySession, key: CacheKey) -> None:
        """Remove a key after the COMMIT of that AsyncSession's transaction, and never on rollback."""
        ...

    def region(
        self, name: str, type: TypeForm[T], ttl: Duration | Forever | None = None, *, policy: CachePolicy | None = None
    ) -> AsyncCacheRegion[T]:
        """A typed view on the keys `name:id`.

        Args:
            name: the kind of thing; labels what is reported.
            type: what its values are.
            ttl: how long they live; None is the cache's default.
            policy: for its `get_or_set`.
        """
        ...

    @property
    def is_degraded(self) -> bool:
        """Whether it works without the Redis it was given; always False where none was. Asks nobody."""
        ...

    async def aclose(self) -> None:
        """Give back threads and connections; other calls then raise `ClosedError`."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...
