"""Caches of every kind, made on demand and closed with the test."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import pytest

from araponga_infra.caching import (
    AsyncCachetoolsCacheService,
    AsyncHybridCacheService,
    AsyncRedisCacheService,
    CachetoolsCacheService,
    HybridCacheService,
    RedisCacheService,
)
from araponga_infra.telemetry import Record
from araponga_infra.testing.caching import Uniform

KINDS = ("redis", "hybrid", "async redis", "async hybrid")


class Make(Protocol):
    def __call__(self, url: Any, **options: Any) -> Uniform: ...


def build(kind: str, url: Any, **options: Any) -> Any:
    """A cache of a kind, with the options of its Redis part."""
    memory = {name: options[name] for name in ("clock", "observer") if name in options}
    if kind == "redis":
        return RedisCacheService(url, **options)
    if kind == "hybrid":
        return HybridCacheService(CachetoolsCacheService(**memory), RedisCacheService(url, **options))
    if kind == "async redis":
        return AsyncRedisCacheService(url, **options)
    return AsyncHybridCacheService(AsyncCachetoolsCacheService(**memory), AsyncRedisCacheService(url, **options))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def make(kind: str) -> AsyncIterator[Make]:
    """Makes caches of this test's kind."""
    made: list[Any] = []

    def one(url: Any, **options: Any) -> Uniform:
        made.append(build(kind, url, **options))
        return Uniform(made[-1])

    yield one
    for cache in reversed(made):
        closing = cache.aclose() if hasattr(cache, "aclose") else cache.close()
        if inspect.isawaitable(closing):
            await closing


class Notes:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def observe(self, record: Record) -> None:
        self.records.append(record)

    def of(self, kind: type[Any]) -> list[Any]:
        return [record for record in self.records if isinstance(record, kind)]

    def names(self) -> set[str]:
        return {record.name for record in self.records}


@pytest.fixture
def notes() -> Notes:
    return Notes()


def availability_of(cache: Any) -> Any:
    """Whether a cache trusts its Redis, and why not."""
    return cache._parts.connected._availability


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for something that another thread or process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def trusts(cache: Any) -> bool:
    return bool(availability_of(cache).is_trusted)


def hears(cache: Any) -> bool:
    """Whether deletes of other instances are known to arrive."""
    return bool(cache._memory.trusted_until > cache._monotonic())
