"""The caches for plain code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from typing_extensions import TypeForm

from araponga_infra.caching.driving import drive
from araponga_infra.caching.keys import CacheKey, normalized
from araponga_infra.caching.parts import CLOSED, CacheParts, hybrid_parts, redis_target
from araponga_infra.caching.ports import SyncPort
from araponga_infra.caching.regions import CacheRegion
from araponga_infra.caching.values import CachePolicy, Forever, Loaded, read_tags
from araponga_infra.clock import Clock, Duration
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.telemetry import Observer
from araponga_infra.transactions import AnySession, after_commit

if TYPE_CHECKING:
    from araponga_infra.caching.backends.redis.client import AnyRedis

__all__ = ["CachetoolsCacheService", "HybridCacheService", "RedisCacheService"]

T = TypeVar("T")
D = TypeVar("D")


class _PlainCache:
    """The methods of `DistributedCacheService`, over any parts.

    A hit in memory is decided here, on a handful of attributes and without a lock; everything else is the engine's.
    """

    def __init__(self, parts: CacheParts) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._memory = parts.memory
        self._hot = parts.memory.hot
        self._monotonic = parts.monotonic
        self._is_observed = parts.report is not None

    @overload
    def get(self, key: CacheKey, default: None = None, *, type: TypeForm[T]) -> T | None: ...
    @overload
    def get(self, key: CacheKey, default: D, *, type: TypeForm[T]) -> T | D: ...
    @overload
    def get(self, key: CacheKey, default: Any = None) -> Any: ...
    def get(self, key: CacheKey, default: Any = None, *, type: Any = Any) -> Any:
        """The value of a key, or `default` on a miss.

        Args:
            key: a string, as `key("territory", 42)` makes, or a tuple of parts.
            default: answered on a miss; `MISSING` tells it from a cached None.
            type: what the value comes back as; JSON builtins without it. An entry that is not of that type is a miss
                and a logged warning.

        Raises:
            InvalidArgumentError: the key is empty or no key, or the type cannot be read from JSON.
        """
        try:
            entry = self._hot.get(key)  # type: ignore[arg-type]
        except TypeError:
            entry = None
        if entry is not None:
            kind, value = entry.shared
            if kind is type:
                now = self._monotonic()
                if now < entry.quiet_until and now < self._memory.trusted_until:
                    if self._is_observed:
                        self._parts.tell_hit(key)
                    return value
        return drive(self._engine.get(normalized(key), default, type))

    def set(
        self, key: CacheKey, value: object, ttl: Duration | Forever | None = None, *, tags: Iterable[str] = ()
    ) -> None:
        """Store a value, whatever was there.

        Args:
            value: anything that msgspec writes as JSON, and pydantic models; at most 1 MiB and 64 levels deep.
            ttl: a `timedelta`, seconds or `FOREVER`; None is the cache's default.
            tags: names by which `delete_by_tag` finds it.

        Raises:
            UncacheableValueError: the value has no JSON form or is too large.
            InvalidArgumentError: the key, the TTL or a tag is of no use.
        """
        drive(self._engine.set_many({normalized(key): value}, self._parts.ttl(ttl), read_tags(tags)))

    def set_many(self, mapping: Mapping[CacheKey, object], ttl: Duration | Forever | None = None) -> None:
        """Store several values in one round trip; refuses all when one cannot be stored. See `set`."""
        drive(self._engine.set_many(self._parts.named_values(mapping), self._parts.ttl(ttl), ()))

    def delete(self, key: CacheKey) -> None:
        """Remove a key everywhere. A load of it that is under way is not stored."""
        drive(self._engine.delete_many((normalized(key),)))

    def delete_many(self, keys: Iterable[CacheKey]) -> None:
        """Remove keys everywhere, in one round trip."""
        drive(self._engine.delete_many(self._parts.names(keys)))

    def delete_by_pattern(self, pattern: str) -> None:
        """Remove the keys that match a glob: `*` any run, `?` one character, `[abc]` one of these, backslash escapes.

        Looks at every key in Redis, in batches; prefer `region.clear()` or tags where keys are many.

        Raises:
            InvalidArgumentError: an empty pattern.
        """
        drive(self._engine.delete_by_pattern(pattern))

    def delete_by_tag(self, tag: str) -> None:
        """Remove everything that was stored with a tag, in one step however much there is."""
        drive(self._engine.delete_by_tag(tag))

    def clear(self) -> None:
        """Remove everything in this cache's namespace, in one step; other data in that Redis stays."""
        drive(self._engine.clear())

    def exists(self, key: CacheKey) -> bool:
        """Whether `get` would find the key."""
        return drive(self._engine.exists(normalized(key)))

    @overload
    def get_many(self, keys: Iterable[CacheKey], *, type: TypeForm[T]) -> dict[CacheKey, T]: ...
    @overload
    def get_many(self, keys: Iterable[CacheKey]) -> dict[CacheKey, Any]: ...
    def get_many(self, keys: Iterable[CacheKey], *, type: Any = Any) -> dict[CacheKey, Any]:
        """The values of those keys that are there, in one round trip; misses are absent."""
        names = self._parts.names(keys)
        found = drive(self._engine.get_many(list(names), type))
        return {names[name]: value for name, value in found.items()}

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
        """The value of a key; on a miss one caller loads it and the others, in all processes, wait for that load.

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
        try:
            entry = self._hot.get(key)  # type: ignore[arg-type]
        except TypeError:
            entry = None
        if entry is not None and type is not None:
            kind, value = entry.shared
            if kind is type:
                now = self._monotonic()
                if now < entry.quiet_until and now < self._memory.trusted_until:
                    if self._is_observed:
                        self._parts.tell_hit(key)
                    return value
        request = self._parts.request(key, factory, ttl, type, tags, policy)
        return drive(self._engine.get_or_set(request))

    def delete_in(self, session: AnySession, key: CacheKey) -> None:
        """Remove a key after the COMMIT of that session's transaction; never on rollback or at a savepoint.

        With an AsyncSession the delete runs on its event loop and, when there is Redis, holds it for a round trip;
        prefer an async cache there.
        """
        name = normalized(key)
        after_commit(session, lambda: self.delete(name))

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
        self._parts.ttl(ttl)
        self._parts.declare_region(name, type, policy)
        return CacheRegion(self, name, type, ttl, policy, self._clear_group)

    def _clear_group(self, group: str) -> None:
        drive(self._engine.delete_group(group))

    @property
    def is_degraded(self) -> bool:
        """Whether it works without the Redis it was given; always False where none was. Asks nobody."""
        return self._parts.is_degraded

    def close(self) -> None:
        """Give back threads and connections; a client of the host's stays open. May be called again; other calls
        then raise `ClosedError`.
        """
        self._hot, self._engine = {}, CLOSED
        if self._parts.connected is not None:
            self._parts.connected.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CachetoolsCacheService(_PlainCache):
    """A cache in this process, bounded by entries and bytes, with TTL and LRU by cachetools.

    Args:
        max_entries: most entries kept; the least recently used go first.
        max_bytes: most bytes kept, counted as JSON plus a flat share per entry; None for no bound.
        default_ttl: for values that are stored without one.
        clock: tells when entries expire.
        observer: told of hits, misses, loads and evictions.

    Raises:
        InvalidArgumentError: a bound below 1, or a TTL that is none.

    Examples:
        >>> cache = CachetoolsCacheService()
        >>> cache.set("territory:42", {"name": "Vale"}, ttl=60)
        >>> cache.get("territory:42")
        {'name': 'Vale'}
    """

    def __init__(
        self,
        *,
        max_entries: int = 10_000,
        max_bytes: int | None = None,
        default_ttl: Duration | Forever = 300,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(
            CacheParts(
                port=SyncPort(), is_async=False, max_entries=max_entries, max_bytes=max_bytes,
                default_ttl=default_ttl, clock=clock, observer=observer,
            )
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"CachetoolsCacheService({len(self._memory)} entries)"


class RedisCacheService(_PlainCache):
    """A cache in Redis 6.2 or later, shared by all instances of a namespace.

    While Redis is away, calls are answered from a small memory: loads are kept there for `isolated_ttl` at most, what
    is written and deleted is noted, and purged from Redis before it is trusted again.

    Args:
        url_or_client: `redis://user:password@host:6379/0`, `rediss://`, `unix://`, or a `redis.Redis`, which is used
            as it is, with its own timeouts, and not closed.
        namespace: keeps services that share a Redis apart.
        default_ttl: for values that are stored without one.
        isolated_ttl: how long a value is served from memory while Redis is away.
        recovery: after an outage, `"purge"` removes what this instance knows to be outdated, `"flush"` everything.
        timeout: the most time one call may take for Redis.
        max_connections: most connections per process; calls wait for a free one within their time.
        max_entries: bounds the memory of an outage.
        clock: tells when entries in memory expire; those in Redis follow its own.
        observer: told of hits, misses, loads, outages and purges.

    Opens nothing until the first call.

    Raises:
        InvalidArgumentError: a malformed URL (which is not repeated), an async client, or a bad bound.
    """

    def __init__(
        self,
        url_or_client: str | AnyRedis,
        *,
        namespace: str = "araponga",
        default_ttl: Duration | Forever = 300,
        isolated_ttl: Duration = 5,
        recovery: Literal["purge", "flush"] = "purge",
        timeout: Duration = 0.1,
        max_connections: int = 50,
        max_entries: int = 1_000,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._target = redis_target(url_or_client, namespace, timeout, max_connections, recovery, isolated_ttl)
        super().__init__(
            CacheParts(
                port=SyncPort(), is_async=False, max_entries=max_entries, max_bytes=None, default_ttl=default_ttl,
                clock=clock, observer=observer, redis=self._target, is_front=False,
            )
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"RedisCacheService(namespace={self._target.namespace!r})"


class HybridCacheService(_PlainCache):
    """Memory in front of Redis: a hit costs no network, and what other instances delete is dropped here, too.

    Invalidations travel by publish and subscribe. A message to oneself goes round every half second; as soon as it
    fails to come back, within 2 s, local copies are no longer trusted and live for `isolated_ttl` at most.

    Args:
        memory: its bounds and clock are taken over.
        redis: its connection settings are taken over.
        isolated_ttl: how long a local copy lives without news from other instances; None is that of `redis`.
        recovery: see `RedisCacheService`; None is that of `redis`.
        observer: told what happens; None is that of `redis`, else of `memory`.

    The two are parts from then on: use and close the hybrid instead of them.

    Raises:
        InvalidArgumentError: something else than these two, or a bad duration.
    """

    def __init__(
        self,
        memory: CachetoolsCacheService,
        redis: RedisCacheService,
        *,
        isolated_ttl: Duration | None = None,
        recovery: Literal["purge", "flush"] | None = None,
        observer: Observer | None = None,
    ) -> None:
        if not isinstance(memory, CachetoolsCacheService) or not isinstance(redis, RedisCacheService):
            raise InvalidArgumentError(
                f"memory and redis are a {type(memory).__name__} and a {type(redis).__name__}: "
                "pass a CachetoolsCacheService and a RedisCacheService"
            )
        super().__init__(hybrid_parts(memory._parts, redis._parts, SyncPort(), isolated_ttl, recovery, observer))
        self._redis = redis

    def close(self) -> None:
        """Give back threads and connections; a client of the host's stays open. May be called again."""
        super().close()
        self._redis.close()

    def __repr__(self) -> str:
        return f"HybridCacheService({len(self._memory)} entries in memory, {self._redis!r})"
