"""Redis's bad days: no call raises, none takes long, and afterwards nothing stale comes back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from araponga_infra.caching import (
    MISSING,
    CacheBreaker,
    CacheFallback,
    CachePurge,
    create_async_cache,
    create_cache,
)
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.testing.caching import Uniform
from tests.caching.conftest import Make, Notes, availability_of, hears, trusts, until
from tests.servers.fixtures import StartRedis, StartTcpProxy
from tests.servers.redis_server import RedisOptions, RedisServer

pytestmark = pytest.mark.anyio

GENEROUS_SECONDS = 10.0
"""Many times the budget: these tests are about calls that return at all; benchmarks say how fast."""


async def use(cache: Uniform) -> None:
    """Every call, none of which may raise or hang. Copies go once, where isolation is noticed in the middle."""
    started = time.monotonic()
    try:
        await use_once(cache)
    except AssertionError:
        await cache.clear()
        await use_once(cache)
    assert time.monotonic() - started < GENEROUS_SECONDS


async def use_once(cache: Uniform) -> None:
    await cache.set("row:1", "kept", tags=("t",))
    assert await cache.get("row:1") == "kept"
    await cache.set_many({"row:2": 2, "row:3": 3})
    assert await cache.get_many(["row:2", "row:3"]) == {"row:2": 2, "row:3": 3}
    assert await cache.get_or_set("row:4", lambda: 4) == 4
    assert await cache.get_or_set("row:4", lambda: 5) == 4
    assert await cache.exists("row:4")
    await cache.delete("row:1")
    assert await cache.get("row:1", MISSING) is MISSING
    await cache.delete_many(["row:2"])
    await cache.delete_by_pattern("row:*")
    await cache.delete_by_tag("t")
    await Uniform(cache.cache.region("row", int)).clear()
    await cache.clear()
    assert await cache.get_many(["row:3", "row:4"]) == {}


def absent(_server: RedisServer) -> None:
    _server.kill()


def hanging(server: RedisServer) -> None:
    server.pause()


def refusing_writes(server: RedisServer) -> None:
    server.execute("REPLICAOF", "127.0.0.1", "1")


def asking_for_a_password(server: RedisServer) -> None:
    server.execute("CONFIG", "SET", "requirepass", "other")


def unable_to_persist(server: RedisServer) -> None:
    server.execute("CONFIG", "SET", "min-replicas-to-write", "3")


BAD_DAYS = [absent, hanging, refusing_writes, unable_to_persist]


@pytest.fixture
def server(start_redis: StartRedis) -> RedisServer:
    return start_redis(RedisOptions())


@pytest.mark.parametrize("bad_day", BAD_DAYS, ids=lambda day: day.__name__)
async def test_a_bad_day_from_the_start(
    make: Make, server: RedisServer, bad_day: Callable[[RedisServer], None]
) -> None:
    bad_day(server)
    await use(make(server.url()))


@pytest.mark.parametrize("bad_day", BAD_DAYS, ids=lambda day: day.__name__)
async def test_a_bad_day_in_the_middle(
    make: Make, server: RedisServer, bad_day: Callable[[RedisServer], None], caplog: pytest.LogCaptureFixture
) -> None:
    cache = make(server.url())
    await cache.set("row:0", 0)
    until(lambda: trusts(cache.cache))
    caplog.clear()
    bad_day(server)
    await use(cache)
    await use(cache)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert "Redis does not answer" in warnings[0].message


async def test_a_wrong_password(make: Make, start_redis: StartRedis, caplog: pytest.LogCaptureFixture) -> None:
    server = start_redis(RedisOptions(password="right"))
    await use(make(server.url().replace("right", "wr0ng")))
    assert "wr0ng" not in caplog.text
    assert len(caplog.records) == 1


async def test_black_holed(make: Make, redis_server: RedisServer, tcp_proxy: StartTcpProxy) -> None:
    proxy = tcp_proxy(redis_server.port)
    cache = make(redis_server.url(port=proxy.port))
    await cache.set("row:0", 0)
    proxy.black_hole()
    await use(cache)


async def test_slower_than_the_budget(make: Make, redis_server: RedisServer, tcp_proxy: StartTcpProxy) -> None:
    proxy = tcp_proxy(redis_server.port)
    cache = make(redis_server.url(port=proxy.port))
    await cache.set("row:0", 0)
    proxy.delay(to_client=0.15)
    await use(cache)
    slow_until = time.monotonic() + 0.8
    while time.monotonic() < slow_until:
        assert not trusts(cache.cache), "a Redis that answers later than a call may wait is as good as away"
    proxy.delay()
    until(lambda: trusts(cache.cache))


async def test_out_of_memory_serves_deletes_and_stores_nothing(
    make: Make, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make(server.url(), timeout=1)
    await cache.set("row:1", "old")
    server.execute("CONFIG", "SET", "maxmemory", "1")
    await cache.set("row:1", "new")
    assert await cache.get("row:1", "nothing") == "nothing"
    assert await cache.get_or_set("row:2", lambda: 2) == 2
    await cache.delete("row:1")
    assert trusts(cache.cache)
    assert [record.message for record in caplog.records] == [
        "Redis is out of memory and stores nothing: values are loaded again until it has room"
    ]
    server.execute("CONFIG", "SET", "maxmemory", "0")
    await cache.set("row:1", "room")
    assert await cache.get("row:1") == "room"


async def test_one_warning_when_it_goes_and_one_when_it_is_back(
    make: Make, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make(server.url())
    await cache.set("row:0", 0)
    until(lambda: trusts(cache.cache))
    caplog.clear()
    server.kill()
    for number in range(2_000):
        await cache.get(f"row:{number}")
        await cache.get_or_set(f"row:{number}", lambda: "loaded")
    server.start()
    until(lambda: trusts(cache.cache))
    await use(cache)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [message.split(" (")[0].split(":")[0] for message in warnings] == [
        "Redis does not answer",
        "Redis answers again",
    ]


async def test_what_redis_evicts_is_a_miss(
    make: Make, start_redis: StartRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis(RedisOptions(maxmemory="4mb", maxmemory_policy="allkeys-lru"))
    cache = make(server.url(), timeout=2)
    for number in range(1_000):
        loaded = f"{number} " + "x" * 10_000
        assert await cache.get_or_set(f"row:{number}", lambda loaded=loaded: loaded, tags=("t",)) == loaded
    assert int(server.execute("INFO", "stats")["evicted_keys"]) > 0
    for number in range(1_000):
        found = await cache.get(f"row:{number}", MISSING)
        assert found is MISSING or str(found).startswith(f"{number} ")
    assert trusts(cache.cache)
    assert not caplog.records


async def test_everything_evicted_during_a_load(make: Make, start_redis: StartRedis) -> None:
    server = start_redis(RedisOptions(maxmemory_policy="allkeys-lru"))
    cache = make(server.url(), timeout=2)

    def evicting() -> str:
        assert any("row:1" in name for name in server.execute("KEYS", "*"))
        server.execute("CONFIG", "SET", "maxmemory", "1")
        until(lambda: not any("row:1" in name for name in server.execute("KEYS", "*")))
        server.execute("CONFIG", "SET", "maxmemory", "0")
        return "loaded"

    assert await cache.get_or_set("row:1", evicting) == "loaded"
    assert await cache.get("row:1", MISSING) is MISSING
    assert await cache.get_or_set("row:1", lambda: "again") == "again"
    assert await cache.get("row:1") == "again"


async def test_a_lease_that_is_evicted_alone_stores_nothing(make: Make, server: RedisServer) -> None:
    cache = make(server.url(), timeout=2)
    await cache.set("row:0", "warm")

    def evicting() -> str:
        leases = [name for name in server.execute("KEYS", "*") if "row:1" in name]
        assert server.execute("DEL", *leases) == 1
        return "loaded"

    assert await cache.get_or_set("row:1", evicting) == "loaded"
    assert await cache.get("row:1", MISSING) is MISSING


async def test_a_marker_that_is_evicted_alone_brings_nothing_back(make: Make, server: RedisServer) -> None:
    cache = make(server.url(), timeout=2, isolated_ttl=0)
    await cache.set("row:1", "deleted", tags=("t",))
    markers = [name for name in server.execute("KEYS", "*") if "#" in name]
    assert len(markers) > 2
    for marker in markers:
        await cache.set("row:1", "deleted", tags=("t",))
        await cache.delete_by_tag("t")
        server.execute("DEL", marker)
        await cache.set("row:2", "makes the markers anew", tags=("t",))
        assert await cache.get("row:1", MISSING) is MISSING
        await cache.set("row:1", "written", tags=("t",))
        assert await cache.get("row:1", MISSING) == "written"


async def test_a_malformed_url_is_refused_and_not_repeated() -> None:
    for url in ("http://user:secret@host", "redis://:secret@host:port", 5, None):
        with pytest.raises(ValueError, match="redis is") as caught:
            Uniform(build_any(url))
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@h?bogus=1",
        "rediss://:secret@h?ssl_cert_reqs=nonsense",
        "redis://:secret@h/abc",
        "redis://:secret@h/0/1",
        "redis://:secret@h?socket_timeout=soon",
        "redis://:secret@h?max_connections=-1",
        "unix://",
        "unix://?db=1",
    ],
)
@pytest.mark.parametrize("create", [create_cache, create_async_cache])
def test_a_url_that_could_never_connect_is_refused(url: str, create: Callable[[str], object]) -> None:
    with pytest.raises(InvalidArgumentError, match="redis is a") as caught:
        create(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_the_options_of_a_url_are_used(make: Make, redis_url: str) -> None:
    cache = make(f"{redis_url}?max_connections=2&timeout=1&client_name=araponga-test", timeout=1)
    await cache.set("row:1", 1)
    until(lambda: trusts(cache.cache))
    assert await make(redis_url, timeout=1).get("row:1") == 1


def build_any(url: Any) -> Any:
    from araponga_infra.caching import RedisCacheService

    return RedisCacheService(url)


async def test_absent_at_start_and_there_later(make: Make, server: RedisServer) -> None:
    server.kill()
    cache = make(server.url())
    await cache.set("row:1", 1)
    server.start()
    until(lambda: trusts(cache.cache))
    assert await cache.get("row:1", MISSING) is MISSING
    await cache.set("row:1", 2)
    assert await make(server.url()).get("row:1") == 2


@pytest.mark.parametrize("bad_day", [hanging, refusing_writes], ids=lambda day: day.__name__)
async def test_what_changed_during_an_outage_does_not_come_back(
    make: Make, server: RedisServer, bad_day: Callable[[RedisServer], None], notes: Notes
) -> None:
    cache = make(server.url(), observer=notes)
    await cache.set_many({"row:1": "old", "row:2": "old", "other:3": "old", "row:5": "kept", "row:9:x": "old"})
    await cache.set("row:4", "old", tags=("t",))
    bad_day(server)
    await cache.set("row:1", "new")
    await cache.delete("row:2")
    await cache.delete_by_pattern("*:x")
    await cache.delete_by_tag("t")
    await Uniform(cache.cache.region("other", str)).clear()
    assert await cache.get("row:1") == "new"
    assert await cache.get("row:6", MISSING) is MISSING
    server.resume()
    server.execute("REPLICAOF", "NO", "ONE")
    until(lambda: trusts(cache.cache))
    names = ["row:1", "row:2", "other:3", "row:4", "row:5", "row:9:x"]
    assert await cache.get_many(names) == {"row:5": "kept"}
    assert await make(server.url()).get_many(names) == {"row:5": "kept"}
    assert [record.state for record in notes.of(CacheBreaker)][-1] == "closed"
    assert {"open", "half-open", "closed"} == {record.state for record in notes.of(CacheBreaker)}
    assert notes.of(CacheFallback)
    assert sum(record.keys for record in notes.of(CachePurge)) >= 5


async def test_a_clear_during_an_outage_clears(make: Make, server: RedisServer) -> None:
    cache = make(server.url())
    await cache.set("row:1", 1)
    server.pause()
    await cache.clear()
    server.resume()
    until(lambda: trusts(cache.cache))
    assert await make(server.url()).get("row:1", MISSING) is MISSING


async def test_recovery_by_flush_drops_everything(make: Make, server: RedisServer, notes: Notes) -> None:
    cache = make(server.url(), recovery="flush", observer=notes)
    await cache.set("row:1", 1)
    server.pause()
    assert await cache.get("row:2", MISSING) is MISSING
    server.resume()
    until(lambda: trusts(cache.cache))
    assert await make(server.url()).get("row:1", MISSING) is MISSING
    assert [record.epoch_raised for record in notes.of(CachePurge)] == [True]


async def test_a_journal_that_overflows_drops_everything(make: Make, server: RedisServer) -> None:
    cache = make(server.url())
    await cache.set("row:1", 1)
    server.pause()
    await cache.delete_many([f"row:{number}" for number in range(2, 10_100)])
    server.resume()
    until(lambda: trusts(cache.cache))
    assert await make(server.url()).get("row:1", MISSING) is MISSING


async def test_recovery_survives_what_can_never_be_sent(make: Make, server: RedisServer) -> None:
    cache = make(server.url(), timeout=1)
    await cache.set("row:1", "old")
    availability = availability_of(cache.cache)
    availability.note("keys", ["\ud800"])
    availability.fail("for this test")
    until(lambda: trusts(cache.cache))
    assert await make(server.url(), timeout=1).get("row:1", MISSING) is MISSING


async def test_an_old_snapshot_is_not_believed(make: Make, start_redis: StartRedis) -> None:
    server = start_redis(RedisOptions(persistent=True))
    cache, idle = make(server.url()), make(server.url())
    await cache.set_many({"row:1": "old", "row:2": "old"})
    assert await idle.get("row:1") == "old"
    server.execute("SAVE")
    await cache.set("row:1", "new")
    await cache.delete("row:2")
    server.kill()
    server.start()
    for instance in (idle, cache, make(server.url())):
        until_settled(instance)
        assert await instance.get_many(["row:1", "row:2"]) == {}


def until_settled(cache: Uniform) -> None:
    """Past the moment in which a cache has noticed that the server is another one, if it ever had one."""
    availability = availability_of(cache.cache)
    if not availability.is_new:
        until(lambda: availability.is_trusted)


async def test_flushed_and_evicted_is_a_miss(make: Make, server: RedisServer) -> None:
    cache = make(server.url(), isolated_ttl=0)
    await cache.set("row:1", 1)
    server.flush()
    until(lambda: not hears(cache.cache) or cache.cache._memory.get("row:1", 0.0) is None)
    assert await cache.get("row:1", MISSING) is MISSING
    await cache.set("row:1", 2)
    epoch = next(name for name in server.execute("KEYS", "*") if "epoch" in name)
    server.execute("DEL", epoch)
    until(lambda: cache.cache._memory.get("row:1", 0.0) is None)
    assert await cache.get("row:1", MISSING) is MISSING
    assert await cache.get_or_set("row:1", lambda: 3) == 3
    assert await cache.get_or_set("row:1", lambda: 4) == 3


async def test_one_instance_cut_off_alone(make: Make, redis_server: RedisServer, tcp_proxy: StartTcpProxy) -> None:
    proxy = tcp_proxy(redis_server.port)
    alone, others = make(redis_server.url(port=proxy.port)), make(redis_server.url())
    await alone.clear()
    await others.set_many({"row:1": "old", "row:2": "old", "row:3": "old"})
    assert await alone.get("row:2") == "old"
    proxy.cut()
    await alone.set("row:1", "by alone")
    await others.set("row:2", "by others")
    await others.delete("row:3")
    proxy.restore()
    until(lambda: trusts(alone.cache))
    for cache in (alone, others):
        until_settled(cache)
    assert await alone.get_many(["row:1", "row:2", "row:3"]) == {"row:2": "by others"}
    until(lambda: trusts(others.cache))
    assert await others.get("row:2") == "by others"


async def test_a_write_that_arrives_late_stays_out(
    make: Make, redis_server: RedisServer, tcp_proxy: StartTcpProxy
) -> None:
    proxy = tcp_proxy(redis_server.port)
    cache, other = make(redis_server.url(port=proxy.port)), make(redis_server.url())
    await cache.clear()
    await cache.set("row:1", "first")
    proxy.delay(to_server=0.6)
    await cache.set("row:1", "late")
    proxy.delay()
    await other.set("row:1", "newer")
    until(lambda: trusts(cache.cache))
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        assert await other.get("row:1", "gone") in ("newer", "gone")


def test_the_pool_is_waited_for_and_its_exhaustion_is_no_outage(redis_url: str) -> None:
    from araponga_infra.caching import RedisCacheService

    with RedisCacheService(redis_url, max_connections=1, timeout=0.5) as cache:
        cache.set("k", 1)
        link = cache._parts.connected.link  # type: ignore[union-attr]
        taken = link._take()
        assert cache.get("k", MISSING) is MISSING
        assert trusts(cache)
        link._give_back(taken)
        assert cache.get("k") == 1


def test_create_cache_with_a_dead_redis_is_a_memory_cache(caplog: pytest.LogCaptureFixture) -> None:
    cache = create_cache("redis://:secret@127.0.0.1:1/0")
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert cache.get_or_set("l", lambda: 2) == 2
    cache.close()
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text
    assert "secret" not in repr(cache)
