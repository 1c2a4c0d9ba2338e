"""A cache that several instances share: memory, Redis, or memory in front of Redis."""

from araponga_infra.caching.async_services import (
    AsyncCachetoolsCacheService,
    AsyncHybridCacheService,
    AsyncRedisCacheService,
)
from araponga_infra.caching.decorator import cached
from araponga_infra.caching.errors import CacheError, LoadTimeoutError, RecursiveLoadError, UncacheableValueError
from araponga_infra.caching.factory import create_async_cache, create_cache
from araponga_infra.caching.keys import key
from araponga_infra.caching.protocols import AsyncDistributedCacheService, DistributedCacheService
from araponga_infra.caching.records import (
    CacheBreaker,
    CacheEarlyRefresh,
    CacheEviction,
    CacheFallback,
    CacheHit,
    CacheIsolation,
    CacheLoad,
    CacheMiss,
    CachePurge,
    CacheRejected,
    CacheStale,
    CacheWait,
)
from araponga_infra.caching.regions import AsyncCacheRegion, CacheRegion
from araponga_infra.caching.sync_services import CachetoolsCacheService, HybridCacheService, RedisCacheService
from araponga_infra.caching.values import FOREVER, MISSING, CachePolicy, Forever, Loaded, Missing

__all__ = [
    "FOREVER",
    "MISSING",
    "AsyncCacheRegion",
    "AsyncCachetoolsCacheService",
    "AsyncDistributedCacheService",
    "AsyncHybridCacheService",
    "AsyncRedisCacheService",
    "CacheBreaker",
    "CacheEarlyRefresh",
    "CacheError",
    "CacheEviction",
    "CacheFallback",
    "CacheHit",
    "CacheIsolation",
    "CacheLoad",
    "CacheMiss",
    "CachePolicy",
    "CachePurge",
    "CacheRegion",
    "CacheRejected",
    "CacheStale",
    "CacheWait",
    "CachetoolsCacheService",
    "DistributedCacheService",
    "Forever",
    "HybridCacheService",
    "LoadTimeoutError",
    "Loaded",
    "Missing",
    "RecursiveLoadError",
    "RedisCacheService",
    "UncacheableValueError",
    "cached",
    "create_async_cache",
    "create_cache",
    "key",
]
