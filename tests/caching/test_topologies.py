"""Redis Cluster, Sentinel, and clients of the host's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from araponga_infra.caching import MISSING, RedisCacheService
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.testing.caching import SharedCacheContract
from tests.caching.conftest import Make, build, hears, trusts, until
from tests.caching.sentinel import Watcher, watched
from tests.servers.redis_cluster import redis_cluster
from tests.servers.redis_server import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[RedisServer]]:
    """Three primaries."""
    with redis_cluster() as servers:
        yield servers


def flush(servers: list[RedisServer]) -> None:
    for server in servers:
        server.flush()


@pytest.mark.soak
class TestCluster(SharedCacheContract):
    """The whole contract; each look-up takes a round trip to each node that it concerns."""

    @pytest.fixture(params=["redis", "hybrid"])
    def flavour(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def cache(self, cluster: list[RedisServer], flavour: str) -> Iterator[Any]:
        flush(cluster)
        client = redis.RedisCluster("127.0.0.1", cluster[0].port, socket_timeout=1)
        with build(flavour, client, timeout=1) as cache:
            yield cache
        client.close()

    @pytest.fixture
    def other(self, cluster: list[RedisServer], cache: Any, flavour: str) -> Iterator[Any]:
        client = redis.RedisCluster("127.0.0.1", cluster[1].port, socket_timeout=1)
        with build(flavour, client, timeout=1) as other:
            yield other
        client.close()


@pytest.mark.soak
class TestAsyncCluster(SharedCacheContract):
    @pytest.fixture(params=["async redis", "async hybrid"])
    def flavour(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    async def cache(self, cluster: list[RedisServer], flavour: str) -> AsyncIterator[Any]:
        flush(cluster)
        client = redis.asyncio.RedisCluster("127.0.0.1", cluster[0].port)
        async with build(flavour, client, timeout=1) as cache:
            yield cache
        await client.aclose()

    @pytest.fixture
    async def other(self, cluster: list[RedisServer], cache: Any, flavour: str) -> AsyncIterator[Any]:
        client = redis.asyncio.RedisCluster("127.0.0.1", cluster[1].port)
        async with build(flavour, client, timeout=1) as other:
            yield other
        await client.aclose()


def test_keys_are_spread_over_a_cluster_and_patterns_reach_all_nodes(cluster: list[RedisServer]) -> None:
    flush(cluster)
    client = redis.RedisCluster("127.0.0.1", cluster[0].port, socket_timeout=1)
    with RedisCacheService(client, timeout=1) as cache:
        names = [f"row:{number}" for number in range(60)]
        cache.set_many(dict.fromkeys(names, 1))
        assert cache.get_many(names) == dict.fromkeys(names, 1)
        assert all(int(server.execute("DBSIZE")) > 5 for server in cluster)
        cache.delete_by_pattern("row:[0-9]")
        assert len(cache.get_many(names)) == 50
        cache.delete_by_pattern("row:*")
        assert cache.get_many(names) == {}
        assert cache.get_or_set("row:1", lambda: 5) == cache.get("row:1") == 5
        assert trusts(cache)
    client.close()


@pytest.fixture
async def own_client(kind: str, redis_url: str) -> AsyncIterator[Any]:
    if "async" in kind:
        client: Any = redis.asyncio.Redis.from_url(redis_url, decode_responses=True, socket_timeout=1)
        yield client
        await client.aclose()
    else:
        client = redis.Redis.from_url(redis_url, decode_responses=True, socket_timeout=1)
        yield client
        client.close()


async def test_a_client_of_the_hosts_is_used_and_left_open(make: Make, own_client: Any) -> None:
    cache = make(own_client, timeout=1)
    await cache.set("row:1", {"a": 1})
    assert await cache.get("row:1") == {"a": 1}
    assert await cache.get_or_set("row:2", lambda: 2) == 2
    await cache.delete_by_pattern("row:*")
    assert await cache.get("row:1", MISSING) is MISSING
    if hasattr(cache.cache, "_hot") and "ybrid" in type(cache.cache).__name__:
        until(lambda: hears(cache.cache))
    await (cache.aclose() if cache.is_async else cache.close())
    answer = own_client.ping()
    assert (await answer) if cache.is_async else answer


async def test_a_client_of_the_other_colour_is_refused(make: Make, kind: str, redis_url: str) -> None:
    wrong = redis.Redis if "async" in kind else redis.asyncio.Redis
    with pytest.raises(InvalidArgumentError, match="client of redis"):
        make(wrong.from_url(redis_url))


@pytest.fixture
def sentinels() -> Iterator[tuple[RedisServer, RedisServer, Watcher]]:
    """A primary, its replica, and a Sentinel that watches them."""
    with watched() as servers:
        yield servers


async def test_a_failover_by_sentinel(make: Make, kind: str, sentinels: tuple[RedisServer, RedisServer, Any]) -> None:
    primary, replica, watcher = sentinels
    sentinel: Any = redis.asyncio.Sentinel if "async" in kind else redis.Sentinel
    client = sentinel([("127.0.0.1", watcher.port)], socket_timeout=1).master_for("mymaster", socket_timeout=1)
    cache = make(client, timeout=1)
    await cache.set("row:1", "old")
    assert await cache.get("row:1") == "old"
    watcher.fail_over()
    until(lambda: is_primary(replica), 30)
    primary.kill()
    await cache.set("row:1", "new")
    until(lambda: trusts(cache.cache), 30)
    assert await cache.get("row:1", MISSING) in ("new", MISSING)
    await cache.set("row:2", 2)
    assert await cache.get("row:2") == 2
    manager = client.connection_pool.sentinel_manager
    for opened in (client, *manager.sentinels):
        await (opened.aclose() if "async" in kind else _closed(opened))


async def _closed(client: Any) -> None:
    client.close()


def is_primary(server: RedisServer) -> bool:
    """A server closes its connections when it changes its role."""
    try:
        return bool(server.execute("INFO", "replication")["role"] == "master")
    except redis.ConnectionError:
        return False
