"""The public contract, over every implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from araponga_infra.caching import (
    AsyncCachetoolsCacheService,
    AsyncHybridCacheService,
    AsyncRedisCacheService,
    CachetoolsCacheService,
    HybridCacheService,
    RedisCacheService,
)
from araponga_infra.testing.caching import CacheContract, SharedCacheContract


class TestMemory(CacheContract):
    @pytest.fixture
    def cache(self) -> Any:
        return CachetoolsCacheService()


class TestAsyncMemory(CacheContract):
    @pytest.fixture
    def cache(self) -> Any:
        return AsyncCachetoolsCacheService()


class TestRedis(SharedCacheContract):
    @pytest.fixture
    def cache(self, redis_url: str) -> Iterator[Any]:
        with RedisCacheService(redis_url, timeout=1) as cache:
            yield cache

    @pytest.fixture
    def other(self, redis_url: str) -> Iterator[Any]:
        with RedisCacheService(redis_url, timeout=1) as cache:
            yield cache


class TestAsyncRedis(SharedCacheContract):
    @pytest.fixture
    async def cache(self, redis_url: str) -> AsyncIterator[Any]:
        async with AsyncRedisCacheService(redis_url, timeout=1) as cache:
            yield cache

    @pytest.fixture
    async def other(self, redis_url: str) -> AsyncIterator[Any]:
        async with AsyncRedisCacheService(redis_url, timeout=1) as cache:
            yield cache


class TestHybrid(SharedCacheContract):
    @pytest.fixture
    def cache(self, redis_url: str) -> Iterator[Any]:
        with HybridCacheService(CachetoolsCacheService(), RedisCacheService(redis_url, timeout=1)) as cache:
            yield cache

    @pytest.fixture
    def other(self, redis_url: str) -> Iterator[Any]:
        with HybridCacheService(CachetoolsCacheService(), RedisCacheService(redis_url, timeout=1)) as cache:
            yield cache


class TestAsyncHybrid(SharedCacheContract):
    @pytest.fixture
    async def cache(self, redis_url: str) -> AsyncIterator[Any]:
        redis = AsyncRedisCacheService(redis_url, timeout=1)
        async with AsyncHybridCacheService(AsyncCachetoolsCacheService(), redis) as cache:
            yield cache

    @pytest.fixture
    async def other(self, redis_url: str) -> AsyncIterator[Any]:
        redis = AsyncRedisCacheService(redis_url, timeout=1)
        async with AsyncHybridCacheService(AsyncCachetoolsCacheService(), redis) as cache:
            yield cache
