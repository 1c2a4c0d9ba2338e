"""Memory in front of Redis: hits cost nothing, and what others delete does not stay."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from araponga_infra.caching import (
    MISSING,
    AsyncRedisCacheService,
    CachetoolsCacheService,
    HybridCacheService,
    RedisCacheService,
)
from araponga_infra.caching.records import CacheHit, CacheIsolation
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.testing.caching import Uniform
from araponga_infra.testing.clock import FakeClock
from tests.caching.conftest import Make, Notes, hears, trusts, until
from tests.servers.fixtures import StartTcpProxy
from tests.servers.redis_server import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["hybrid", "async hybrid"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def pair(
    make: Make, one_url: str, other_url: str, *, timeout: float = 1, **options: Any
) -> tuple[Uniform, Uniform]:
    """Two instances that hear each other."""
    caches = make(one_url, timeout=timeout, **options), make(other_url, timeout=timeout)
    for cache in caches:
        await cache.exists("anything")
    for cache in caches:
        until(partial(hears, cache.cache))
    return caches


def calls(server: RedisServer) -> int:
    stats = server.execute("INFO", "commandstats")
    return sum(int(stats[name]["calls"]) for name in ("cmdstat_mget", "cmdstat_evalsha") if name in stats)


async def test_a_hit_costs_no_network(make: Make, redis_url: str, redis_server: RedisServer, notes: Notes) -> None:
    one, _ = await pair(make, redis_url, redis_url, timeout=5, observer=notes)
    await one.set("row:1", 1)

    async def calls_for_hits() -> int:
        until(partial(hears, one.cache))
        notes.records.clear()
        before = calls(redis_server)
        for _ in range(100):
            assert await one.get("row:1") == 1
            assert await one.get_or_set("row:1", lambda: 2) == 1
        return calls(redis_server) - before

    for _ in range(10):  # a machine that stands still makes it doubt what it hears, for a moment
        if not await calls_for_hits():
            break
    else:
        pytest.fail("hits ask Redis")
    assert {hit.layer for hit in notes.of(CacheHit)} == {"memory"}


@pytest.mark.parametrize("way", ["delete", "delete_many", "set", "set_many", "pattern", "tag", "region", "clear"])
async def test_what_one_instance_changes_reaches_the_memory_of_the_other(make: Make, redis_url: str, way: str) -> None:
    one, other = await pair(make, redis_url, redis_url, isolated_ttl=60)
    await one.set("row:1", "old", tags=("t",))
    assert await one.get("row:1") == "old"
    changes: dict[str, Callable[[], Awaitable[Any]]] = {
        "delete": lambda: other.delete("row:1"),
        "delete_many": lambda: other.delete_many(["row:1"]),
        "set": lambda: other.set("row:1", "new"),
        "set_many": lambda: other.set_many({"row:1": "new"}),
        "pattern": lambda: other.delete_by_pattern("row:?"),
        "tag": lambda: other.delete_by_tag("t"),
        "region": lambda: Uniform(other.cache.region("row", str)).clear(),
        "clear": other.clear,
    }
    await changes[way]()
    until(lambda: "row:1" not in one.cache._memory.hot)
    assert await one.get("row:1", MISSING) == ("new" if "set" in way else MISSING)


async def test_a_silent_subscription_is_noticed_within_two_seconds(
    make: Make, redis_server: RedisServer, redis_url: str, tcp_proxy: StartTcpProxy, notes: Notes
) -> None:
    proxy = tcp_proxy(redis_server.port)
    one, other = await pair(make, redis_server.url(port=proxy.port), redis_url, isolated_ttl=0.2, observer=notes)
    await one.set("row:1", "old")
    assert await one.get("row:1") == "old"
    assert one.cache._memory.trusted_until - time.monotonic() < 2, "trust must lapse by itself, should the thread hang"
    proxy.black_hole()
    started = time.monotonic()
    await other.set("row:1", "new")
    until(lambda: not hears(one.cache), 2.0)
    until(lambda: notes.of(CacheIsolation)[-1].isolated, 3.0)
    assert await one.get("row:1", MISSING) is MISSING
    assert time.monotonic() - started < 4
    proxy.restore()
    until(lambda: trusts(one.cache) and hears(one.cache))
    assert await one.get("row:1") == "new"


async def test_a_lost_subscription_drops_local_copies(make: Make, redis_server: RedisServer, redis_url: str) -> None:
    one, other = await pair(make, redis_url, redis_url, isolated_ttl=60)
    await one.set("row:1", "old")
    redis_server.execute("CLIENT", "KILL", "TYPE", "pubsub")
    await other.set("row:1", "new")
    until(lambda: "row:1" not in one.cache._memory.hot)
    assert await one.get("row:1") == "new"
    until(lambda: hears(one.cache))


async def test_without_confirmation_local_copies_live_for_a_moment(
    make: Make, redis_server: RedisServer, redis_url: str
) -> None:
    redis_server.execute("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "&*", "+@all", "-subscribe")
    try:
        one = make(redis_url.replace("redis://", "redis://deaf:pw@"), timeout=5, isolated_ttl=0.3)
        other = make(redis_url, timeout=5)
        await other.set("row:1", "old")
        assert not await one.exists("anything")
        deadline = time.monotonic() + 20
        while "row:1" not in one.cache._memory.hot:
            assert await one.get("row:1") == "old"
            assert time.monotonic() < deadline
        await other.set("row:1", "new")
        while await one.get("row:1") != "new":
            assert time.monotonic() < deadline
        assert not hears(one.cache)
    finally:
        redis_server.execute("ACL", "DELUSER", "deaf")


async def test_a_local_copy_never_outlives_the_entry_in_redis(
    make: Make, redis_server: RedisServer, redis_url: str
) -> None:
    redis_server.execute("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    try:
        one, other = await pair(make, redis_url, redis_url, isolated_ttl=60)
        await other.set("row:1", 1, ttl=0.4)
        started = time.monotonic()
        while time.monotonic() - started < 0.2:
            assert await one.get("row:1") == 1
        until(lambda: time.monotonic() - started > 0.42)
        assert await one.get("row:1", MISSING) is MISSING
    finally:
        redis_server.execute("DEBUG", "SET-ACTIVE-EXPIRE", "1")


async def test_the_clock_that_is_handed_in_expires_memory(make: Make) -> None:
    clock = FakeClock()
    for cache in (
        Uniform(CachetoolsCacheService(clock=clock)),
        make("redis://127.0.0.1:1", clock=clock, isolated_ttl=500),
    ):
        await cache.set("k", 1, ttl=60)
        assert await cache.get("k") == 1
        clock.advance(61)
        assert await cache.get("k", MISSING) is MISSING


def test_parts_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="RedisCacheService"):
        HybridCacheService(CachetoolsCacheService(), AsyncRedisCacheService("redis://x"))  # type: ignore[arg-type]


def test_a_fork_takes_nothing_along(redis_url: str) -> None:
    """The child meets Redis by itself, with threads, connections and locks of its own; the parent goes on."""
    with HybridCacheService(CachetoolsCacheService(), RedisCacheService(redis_url, timeout=2)) as cache:
        cache.set("k", 1)
        until(lambda: hears(cache))
        cache._memory._lock.acquire()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                cache.set("from child", 2)
                cache.delete("k")
                until(lambda: hears(cache))
                code = 0 if cache.get("from child") == 2 else 2
            finally:
                os._exit(code)
        cache._memory._lock.release()
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        until(lambda: cache.get("k", MISSING) is MISSING)
        assert cache.get("from child") == 2
        assert trusts(cache)


async def test_nothing_is_left_after_close(make: Make, redis_server: RedisServer, redis_url: str) -> None:
    def connections() -> int:
        return int(redis_server.execute("INFO", "clients")["connected_clients"])

    before = connections()
    for _ in range(3):
        cache = make(redis_url, timeout=5)
        await cache.set("k", 1)
        await (cache.aclose() if cache.is_async else cache.close())
    until(lambda: connections() <= before, 30.0)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("araponga")])


def test_importing_opens_nothing_and_leaves_redis_alone() -> None:
    code = """
import sys
from araponga_infra.caching import create_async_cache, create_cache
create_cache(), create_async_cache()
assert "redis" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
