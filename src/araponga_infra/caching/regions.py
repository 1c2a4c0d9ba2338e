"""Typed views on the keys of one kind of thing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar, overload

from araponga_infra.caching.codec import refuse_other_type
from araponga_infra.caching.keys import CacheKey, KeyPart, key
from araponga_infra.caching.protocols import AsyncDistributedCacheService, DistributedCacheService
from araponga_infra.caching.values import CachePolicy, Forever, Loaded
from araponga_infra.clock import Duration
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.transactions import AnySession

__all__ = ["AsyncCacheRegion", "CacheRegion"]

T = TypeVar("T")
D = TypeVar("D")


class _Keys:
    """How a region names its keys."""

    name: str

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError(f"name={name!r} must be a string with at least one character: the kind of thing")
        self.name = name
        self._prefix = f"{key(name)}:"

    def key(self, id: KeyPart) -> str:
        """The cache key of an id: `key(name, id)`, where a tuple adds its parts one by one."""
        if isinstance(id, tuple) and id:
            return self._prefix + key(*id)
        return self._prefix + (str(id) if type(id) is int else key(id))


class CacheRegion(_Keys, Generic[T]):
    """A typed view on the keys `name:id` of a cache. Made by `cache.region(...)`; costs nothing to keep or remake.

    It fails as its cache does: never because Redis is away; with `InvalidArgumentError` for an id that is no key part,
    with `UncacheableValueError` for a value that is not of its type, and with what a load raises. Safe for threads.

    Examples:
        >>> from araponga_infra.caching import create_cache
        >>> names = create_cache().region("name", str, ttl=60)
        >>> names.get_or_set(7, lambda: "Vale")
        'Vale'
    """

    def __init__(
        self,
        cache: DistributedCacheService,
        name: str,
        type: Any,
        ttl: Duration | Forever | None,
        policy: CachePolicy | None,
        clear: Callable[[str], None],
    ) -> None:
        super().__init__(name)
        self._cache = cache
        self._type = type
        self._ttl = ttl
        self._policy = policy
        self._clear = clear

    @overload
    def get(self, id: KeyPart, default: None = None) -> T | None: ...
    @overload
    def get(self, id: KeyPart, default: D) -> T | D: ...
    def get(self, id: KeyPart, default: Any = None) -> Any:
        """The value of an id, or `default` on a miss."""
        value: Any = self._cache.get(self.key(id), default, type=self._type)
        return value

    def get_many(self, ids: Iterable[KeyPart]) -> dict[KeyPart, T]:
        """The values of those ids that are there, in one round trip; misses are absent."""
        keys: dict[CacheKey, KeyPart] = {self.key(id): id for id in ids}
        found = self._cache.get_many(keys, type=self._type)
        return {keys[name]: value for name, value in found.items()}

    def get_or_set(
        self,
        id: KeyPart,
        factory: Callable[[], T | Loaded[T]],
        ttl: Duration | Forever | None = None,
        *,
        tags: Iterable[str] = (),
    ) -> T:
        """The value of an id; on a miss one caller loads it and the others wait for that load.

        Args:
            id: a string, a number, a UUID or another key part, or a tuple of them.
            factory: loads the value; may return a `Loaded`.
            ttl: instead of the region's.
            tags: names by which the cache's `delete_by_tag` finds it.

        Raises:
            UncacheableValueError: what was loaded is not of the region's type.
            RecursiveLoadError: the load asks for the key that it is loading.
            LoadTimeoutError: the policy's `hard_timeout` has passed.
        """
        value: T = self._cache.get_or_set(
            self.key(id), factory, self._ttl if ttl is None else ttl, type=self._type, tags=tags, policy=self._policy
        )
        return value

    def set(self, id: KeyPart, value: T, ttl: Duration | Forever | None = None, *, tags: Iterable[str] = ()) -> None:
        """Store the value of an id.

        Args:
            id: see `get_or_set`.
            value: of the region's type.
            ttl: instead of the region's.
            tags: names by which the cache's `delete_by_tag` finds it.

        Raises:
            UncacheableValueError: not of the region's type, without a JSON form, or too large.
        """
        refuse_other_type(value, self._type)
        self._cache.set(self.key(id), value, self._ttl if ttl is None else ttl, tags=tags)

    def exists(self, id: KeyPart) -> bool:
        """Whether `get` would find the id."""
        return self._cache.exists(self.key(id))

    def delete(self, id: KeyPart) -> None:
        """Remove an id everywhere."""
        self._cache.delete(self.key(id))

    def delete_in(self, session: AnySession, id: KeyPart) -> None:
        """Remove an id after the COMMIT of that session's transaction, and never on rollback."""
        self._cache.delete_in(session, self.key(id))

    def clear(self) -> None:
        """Remove all ids everywhere, in one step however many there are."""
        self._clear(self._prefix[:-1])

    def __repr__(self) -> str:
        return f"CacheRegion({self.name!r})"


class AsyncCacheRegion(_Keys, Generic[T]):
    """The same on an async cache: it fails as `CacheRegion` does, and is safe for several event loops."""

    def __init__(
        self,
        cache: AsyncDistributedCacheService,
        name: str,
        type: Any,
        ttl: Duration | Forever | None,
        policy: CachePolicy | None,
        clear: Callable[[str], Awaitable[None]],
    ) -> None:
        super().__init__(name)
        self._cache = cache
        self._type = type
        self._ttl = ttl
        self._policy = policy
        self._clear = clear

    @overload
    async def get(self, id: KeyPart, default: None = None) -> T | None: ...
    @overload
    async def get(self, id: KeyPart, default: D) -> T | D: ...
    async def get(self, id: KeyPart, default: Any = None) -> Any:
        """The value of an id, or `default` on a miss."""
        value: Any = await self._cache.get(self.key(id), default, type=self._type)
        return value

    async def get_many(self, ids: Iterable[KeyPart]) -> dict[KeyPart, T]:
        """The values of those ids that are there, in one round trip; misses are absent."""
        keys: dict[CacheKey, KeyPart] = {self.key(id): id for id in ids}
        found = await self._cache.get_many(keys, type=self._type)
        return {keys[name]: value for name, value in found.items()}

    async def get_or_set(
        self,
        id: KeyPart,
        factory: Callable[[], Awaitable[T | Loaded[T]]],
        ttl: Duration | Forever | None = None,
        *,
        tags: Iterable[str] = (),
    ) -> T:
        """The value of an id; on a miss one load runs, in a task of its own, and all callers wait for it.

        Args:
            id: a string, a number, a UUID or another key part, or a tuple of them.
            factory: loads the value; may return a `Loaded`.
            ttl: instead of the region's.
            tags: names by which the cache's `delete_by_tag` finds it.

        Raises:
            UncacheableValueError: what was loaded is not of the region's type.
            RecursiveLoadError: the load asks for the key that it is loading.
            LoadTimeoutError: the policy's `hard_timeout` has passed.
        """
        value: T = await self._cache.get_or_set(
            self.key(id), factory, self._ttl if ttl is None else ttl, type=self._type, tags=tags, policy=self._policy
        )
        return value

    async def set(
        self, id: KeyPart, value: T, ttl: Duration | Forever | None = None, *, tags: Iterable[str] = ()
    ) -> None:
        """Store the value of an id.

        Args:
            id: see `get_or_set`.
            value: of the region's type.
            ttl: instead of the region's.
            tags: names by which the cache's `delete_by_tag` finds it.

        Raises:
            UncacheableValueError: not of the region's type, without a JSON form, or too large.
        """
        refuse_other_type(value, self._type)
        await self._cache.set(self.key(id), value, self._ttl if ttl is None else ttl, tags=tags)

    async def exists(self, id: KeyPart) -> bool:
        """Whether `get` would find the id."""
        return await self._cache.exists(self.key(id))

    async def delete(self, id: KeyPart) -> None:
        """Remove an id everywhere."""
        await self._cache.delete(self.key(id))

    def delete_in(self, session: AnySession, id: KeyPart) -> None:
        """Remove an id after the COMMIT of that AsyncSession's transaction, and never on rollback."""
        self._cache.delete_in(session, self.key(id))

    async def clear(self) -> None:
        """Remove all ids everywhere, in one step however many there are."""
        await self._clear(self._prefix[:-1])

    def __repr__(self) -> str:
        return f"AsyncCacheRegion({self.name!r})"
