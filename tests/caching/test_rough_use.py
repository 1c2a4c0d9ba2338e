"""Callers that leave in the middle, close what is in use, and ask for extremes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from araponga_infra.caching import (
    FOREVER,
    MISSING,
    AsyncCachetoolsCacheService,
    CachetoolsCacheService,
    Loaded,
)
from araponga_infra.errors import ClosedError, InvalidArgumentError
from araponga_infra.testing.caching import Uniform
from tests.caching.conftest import Make, hears, trusts, until
from tests.servers.fixtures import StartRedis
from tests.servers.redis_server import RedisOptions

pytestmark = pytest.mark.anyio

EVERY_KIND = ("memory", "async memory", "redis", "hybrid", "async redis", "async hybrid")


@pytest.fixture(params=EVERY_KIND)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cache(kind: str, make: Make, redis_url: str) -> Uniform:
    if "memory" in kind:
        return Uniform(AsyncCachetoolsCacheService() if "async" in kind else CachetoolsCacheService())
    return make(redis_url, timeout=5)


async def beside(cache: Uniform, count: int, use: Any) -> list[asyncio.Future[None]]:
    """Callers that use a cache, over and over, until it raises ClosedError or `use` is done."""

    async def go_on() -> None:
        while True:
            try:
                if await use() is False:
                    return
            except ClosedError:
                return
            if cache.is_async:
                await asyncio.sleep(0)

    return [await cache.in_background(go_on) for _ in range(count)]


async def test_closing_a_cache_in_use_is_said_and_nothing_else(
    cache: Uniform, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    async def use() -> None:
        await cache.get_or_set("row:1", lambda: 1)
        await cache.set("row:2", 2)
        await cache.delete("row:1")
        calls.append(1)

    callers = await beside(cache, 6, use)
    await asyncio.to_thread(until, lambda: len(calls) >= 20)
    await (cache.aclose() if cache.is_async else cache.close())
    await asyncio.wait_for(asyncio.gather(*callers), 30)
    assert caplog.records == []


async def test_everything_is_removed_again_and_again_while_it_is_loaded(cache: Uniform) -> None:
    is_done = threading.Event()

    async def use() -> bool:
        assert await cache.get_or_set("row:1", lambda: 1, tags=("t",)) == 1
        return not is_done.is_set()

    callers = await beside(cache, 4, use)
    for _ in range(50):
        await cache.clear()
        await cache.delete_by_tag("t")
        await cache.delete_by_pattern("row:*")
        await Uniform(cache.cache.region("row", int)).clear()
    is_done.set()
    await asyncio.wait_for(asyncio.gather(*callers), 30)
    assert not cache.cache.is_degraded


@pytest.mark.parametrize("kind", ["async memory", "async redis", "async hybrid"])
async def test_a_call_may_be_cancelled_at_every_await(kind: str, cache: Uniform) -> None:
    async def use(number: int) -> None:
        name = f"row:{number}"
        await cache.set(name, "old", tags=("t",))
        # a miss while what a cancelled write has left in doubt is removed
        assert await cache.get(name) in ("old", None)
        await cache.get_or_set(f"{name}:x", lambda: 1)
        await cache.delete(name)
        await cache.delete_by_tag("t")
        await cache.get_many([name, "q"])

    for number in range(200):
        call = asyncio.create_task(use(number))
        for _ in range(number % 40):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled() or call.exception() is None
    assert await cache.get_or_set("row:after", lambda: 3) == 3
    if "memory" not in kind:
        until(lambda: trusts(cache.cache))
    assert await cache.get_many([f"row:{number}:x" for number in range(200)], type=int) is not None


@pytest.mark.parametrize("ttl", [1e-9, 1e10, 1e300, timedelta.max, timedelta(microseconds=1), FOREVER], ids=repr)
async def test_very_short_and_very_long_lives(cache: Uniform, ttl: Any) -> None:
    await cache.set("row:1", 1, ttl, tags=("t",))
    assert await cache.get_or_set("row:2", lambda: 2, ttl) == 2
    assert await cache.get_or_set("row:3", lambda: Loaded(3, ttl=ttl)) == 3
    assert await cache.get("row:1", MISSING) in (1, MISSING)
    assert not cache.cache.is_degraded


@pytest.mark.parametrize("ttl", [0, -1, timedelta(0), timedelta(-1), float("nan"), float("inf"), "1"], ids=repr)
async def test_what_is_no_life_is_refused(cache: Uniform, ttl: Any) -> None:
    calls: tuple[Callable[[], Awaitable[Any]], ...] = (
        lambda: cache.set("row:1", 1, ttl),
        lambda: cache.set_many({"row:1": 1}, ttl),
        lambda: cache.get_or_set("row:1", lambda: 1, ttl),
        lambda: cache.get_or_set("row:1", lambda: Loaded(1, ttl=ttl)),
    )
    for call in calls:
        with pytest.raises(InvalidArgumentError):
            await call()
    assert not await cache.exists("row:1")


async def test_a_tag_outlives_the_shortest_lived_of_its_entries(cache: Uniform) -> None:
    await cache.set("row:1", 1, 1000, tags=("t",))
    await cache.set("row:2", 2, 0.02, tags=("t",))
    await cache.set("row:3", 3, FOREVER, tags=("t",))
    await cache.set("row:4", 4, 0.02, tags=("t",))
    await asyncio.sleep(0.05)
    assert await cache.get_many([f"row:{number}" for number in range(1, 5)]) == {"row:1": 1, "row:3": 3}
    await cache.delete_by_tag("t")
    assert await cache.get_many(["row:1", "row:3"]) == {}


@pytest.mark.parametrize("tag", ["*", "a b", "ção", "x" * 5000, "{", "t:1", "\n"], ids=lambda tag: tag[:5])
async def test_any_character_is_safe_in_a_tag(cache: Uniform, tag: str) -> None:
    await cache.set("row:1", 1, tags=(tag,))
    await cache.set("row:2", 2, tags=("t",))
    await cache.delete_by_tag(tag)
    assert await cache.get_many(["row:1", "row:2"]) == {"row:2": 2}


@pytest.mark.parametrize("kind", ["redis", "hybrid", "async redis", "async hybrid"])
async def test_restarted_without_its_data(kind: str, make: Make, start_redis: StartRedis) -> None:
    server = start_redis(RedisOptions())
    cache = make(server.url())
    await cache.set("row:1", "old")
    assert await cache.get("row:1") == "old"
    run_id = server.execute("INFO", "server")["run_id"]
    server.restart()
    assert server.execute("INFO", "server")["run_id"] != run_id
    until(lambda: trusts(cache.cache) and ("hybrid" not in kind or hears(cache.cache)))
    await cache.exists("anything")
    until(lambda: trusts(cache.cache))
    assert await cache.get("row:1", MISSING) is MISSING
    await cache.set("row:1", "new")
    assert await cache.get("row:1") == "new"
