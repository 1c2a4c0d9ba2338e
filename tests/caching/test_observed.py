"""What an observer learns: everything that happens, by region, and nothing of what callers put into keys or values."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from contextlib import suppress
from typing import Any

import pytest

from araponga_infra.caching import (
    MISSING,
    AsyncCachetoolsCacheService,
    CacheEviction,
    CacheHit,
    CacheMiss,
    CachePolicy,
    CachetoolsCacheService,
    Loaded,
    cached,
)
from araponga_infra.observers import CountingObserver
from araponga_infra.telemetry import Record
from araponga_infra.testing.caching import Uniform
from tests.caching.conftest import Make, Notes, until
from tests.servers.fixtures import StartRedis
from tests.servers.redis_server import RedisOptions

pytestmark = pytest.mark.anyio

SECRET = "cpf-123.456.789-00"


@pytest.fixture(params=[CachetoolsCacheService, AsyncCachetoolsCacheService])
def memory(request: pytest.FixtureRequest) -> Any:
    return request.param


async def read_and_load(cache: Uniform) -> None:
    """Four hits and two misses in one region, one hit and three misses in another, one of each outside."""
    rows, posts = (Uniform(cache.cache.region(name, int)) for name in ("row", "post"))
    for name in (1, 2):
        await rows.get_or_set(name, lambda: 1)
    for name in (1, 2, 1, 2):
        await rows.get(name)
    await posts.set(1, 1)
    await posts.get(1)
    assert await posts.get_many([2, 3]) == {}
    await posts.get(4)
    await cache.get(f"{SECRET}:1")
    await cache.set(f"{SECRET}:1", 1)
    await cache.get(f"{SECRET}:1")


def rates(counters: CountingObserver) -> dict[str, tuple[int, int]]:
    snapshot = counters.snapshot()
    return {
        region: (snapshot.of("cache.hit", region=region).times, snapshot.of("cache.miss", region=region).times)
        for region in ("row", "post", "")
    }


RATES = {"row": (4, 2), "post": (1, 3), "": (1, 1)}


async def test_hit_rates_are_per_region(make: Make, redis_url: str) -> None:
    counters = CountingObserver()
    await read_and_load(make(redis_url, timeout=5, observer=counters))
    assert rates(counters) == RATES


async def test_hit_rates_in_memory_are_per_region(memory: Any) -> None:
    counters = CountingObserver()
    await read_and_load(Uniform(memory(observer=counters)))
    assert rates(counters) == RATES


async def test_a_cached_function_is_a_region_and_its_arguments_are_no_label(memory: Any, notes: Notes) -> None:
    cache = memory(observer=notes)

    def secret_length(text: str) -> int:
        return len(text)

    async def secret_length_async(text: str) -> int:
        return len(text)

    is_async = memory is AsyncCachetoolsCacheService
    function = cached(cache, name="secret_length")(secret_length_async if is_async else secret_length)
    for _ in range(2):
        result: Any = function(SECRET)
        assert (await result if is_async else result) == len(SECRET)
    assert [(type(each), each.region) for each in notes.of(CacheMiss) + notes.of(CacheHit)] == [
        (CacheMiss, "secret_length"),
        (CacheHit, "secret_length"),
    ]


def texts(records: list[Record]) -> str:
    return " ".join(str(value) for record in records for value in dataclasses.asdict(record).values())


async def test_nothing_of_keys_values_or_tags_is_in_any_record(
    make: Make, start_redis: StartRedis, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis(RedisOptions())
    cache = make(server.url(), observer=notes)
    policy = CachePolicy(stale_for=60, ttl_jitter=0)

    async def use() -> None:
        for name in (f"{SECRET}:{SECRET}", SECRET, ("row", SECRET)):
            await cache.set(name, SECRET, tags=(SECRET,))
            await cache.get(name)
            assert await cache.get(name, MISSING, type=int) is MISSING
            await cache.delete(name)
            await cache.get_or_set(name, lambda: Loaded(SECRET, ttl=0.01), policy=policy)
            await asyncio.sleep(0.02)
            with suppress(OSError):  # where Redis and with it the local copies have just gone
                await cache.get_or_set(name, fail, policy=policy)
            await cache.get_or_set(f"{name}:large", lambda: SECRET * 100_000)
        await cache.delete_by_tag(SECRET)
        await cache.delete_by_pattern(f"{SECRET}*")

    def fail() -> str:
        raise OSError(SECRET)

    cache.cache.region("row", str)
    await use()
    server.pause()
    await use()
    server.resume()
    until(lambda: "cache.purge" in notes.names())
    assert notes.names() >= {
        "cache.hit", "cache.miss", "cache.stale", "cache.load", "cache.fallback", "cache.breaker", "cache.purge",
        "cache.rejected",
    }  # fmt: skip
    assert SECRET not in texts(notes.records)
    assert SECRET not in caplog.text


async def test_evictions_are_counted(memory: Any, notes: Notes) -> None:
    cache = Uniform(memory(max_entries=10, observer=notes))
    for number in range(25):
        await cache.set(f"row:{number}", number)
    assert sum(record.entries for record in notes.of(CacheEviction)) == 15


class Troubled:
    """An observer that raises, or never returns."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs

    def observe(self, record: Record) -> None:
        if self.hangs:
            time.sleep(3600)
        raise RuntimeError("the observer is broken")


@pytest.mark.parametrize("hangs", [False, True])
async def test_an_observer_in_trouble_harms_no_call(make: Make, redis_url: str, hangs: bool) -> None:
    cache = make(redis_url, timeout=5, observer=Troubled(hangs=hangs))
    await cache.set("row:1", 1)
    assert await cache.get("row:1") == 1
    assert await cache.at_once(5, "row:2", lambda: 2, type=int) == [2] * 5
    assert not cache.cache.is_degraded
