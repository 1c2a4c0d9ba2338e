"""The one line most hosts need: the right cache for what is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from araponga_infra.caching.async_services import (
    AsyncCachetoolsCacheService,
    AsyncHybridCacheService,
    AsyncRedisCacheService,
)  # fmt: skip
from araponga_infra.caching.keys import namespaced
from araponga_infra.caching.protocols import AsyncDistributedCacheService, DistributedCacheService
from araponga_infra.caching.sync_services import CachetoolsCacheService, HybridCacheService, RedisCacheService
from araponga_infra.caching.values import Forever
from araponga_infra.clock import Clock, Duration
from araponga_infra.telemetry import Observer

if TYPE_CHECKING:
    from araponga_infra.caching.backends.redis.client import AnyAsyncRedis, AnyRedis

__all__ = ["create_async_cache", "create_cache"]


def create_cache(
    redis: str | AnyRedis | None = None,
    *,
    namespace: str = "araponga",
    default_ttl: Duration | Forever = 300,
    max_entries: int = 10_000,
    clock: Clock | None = None,
    observer: Observer | None = None,
) -> DistributedCacheService:
    """A cache in memory, or in memory and Redis when one is named.

    With a Redis that is not there the cache works in memory, says so in one warning, and uses Redis when it comes.

    Args:
        redis: a URL or a `redis.Redis`; None is memory alone.
        namespace: keeps services that share a Redis apart.
        default_ttl: for values that are stored without one.
        max_entries: most entries in memory.
        clock: tells when entries in memory expire.
        observer: told of hits, misses, loads, outages and purges.

    Opens nothing until the first call.

    Raises:
        InvalidArgumentError: a malformed URL (which is not repeated), an async client, a bad bound or
            namespace.

    Examples:
        >>> cache = create_cache()
        >>> cache.get_or_set("answer", lambda: 42)
        42
    """
    namespaced(namespace)
    memory = CachetoolsCacheService(
        max_entries=max_entries, default_ttl=default_ttl, clock=clock, observer=observer
    )  # fmt: skip
    if redis is None:
        return memory
    return HybridCacheService(
        memory, RedisCacheService(redis, namespace=namespace, default_ttl=default_ttl, clock=clock, observer=observer)
    )


def create_async_cache(
    redis: str | AnyAsyncRedis | None = None,
    *,
    namespace: str = "araponga",
    default_ttl: Duration | Forever = 300,
    max_entries: int = 10_000,
    clock: Clock | None = None,
    observer: Observer | None = None,
) -> AsyncDistributedCacheService:
    """The same for async code. A plain function: it needs no event loop and connects with the first call.

    Args:
        redis: a URL or a `redis.asyncio.Redis`; None is memory alone.
        namespace: keeps services that share a Redis apart.
        default_ttl: for values that are stored without one.
        max_entries: most entries in memory.
        clock: tells when entries in memory expire.
        observer: told of hits, misses, loads, outages and purges.

    Raises:
        InvalidArgumentError: a malformed URL (which is not repeated), a sync client, a bad bound or
            namespace.
    """
    namespaced(namespace)
    memory = AsyncCachetoolsCacheService(
        max_entries=max_entries, default_ttl=default_ttl, clock=clock, observer=observer
    )  # fmt: skip
    if redis is None:
        return memory
    return AsyncHybridCacheService(
        memory,
        AsyncRedisCacheService(redis, namespace=namespace, default_ttl=default_ttl, clock=clock, observer=observer),
    )
