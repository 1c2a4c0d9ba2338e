"""Redis Cluster, Sentinel, and clients of the host's own."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import trustme

from araponga_infra.caching import MISSING, RedisCacheService
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.testing.caching import SharedCacheContract, Uniform
from tests.caching.conftest import Make, build, hears, trusts, until
from tests.caching.sentinel import Watcher, watched
from tests.caching.tls_front import ending_tls
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


@pytest.fixture
def tls_port(redis_server: RedisServer, tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A port that ends TLS in front of Redis, and the file of the authority that its certificate is from."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ending_tls(context, redis_server.port) as port:
        yield port, str(tmp_path / "ca.pem")


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


async def test_a_user_with_no_more_rights_than_documented(
    make: Make, kind: str, redis_server: RedisServer, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    rights = "~araponga:* resetchannels &araponga:* +@read +@write +@scripting +@pubsub +info +time +scan"
    redis_server.execute("ACL", "SETUSER", "cache", "reset", "on", ">pw", *rights.split())
    redis_server.execute("ACL", "LOG", "RESET")
    try:
        cache = make(redis_url.replace("redis://", "redis://cache:pw@"), timeout=5)
        await use_it_all(cache)
        if "hybrid" in kind:
            until(lambda: hears(cache.cache))
        assert redis_server.execute("ACL", "LOG") == []
        assert caplog.records == []
    finally:
        redis_server.execute("ACL", "DELUSER", "cache")


async def use_it_all(cache: Uniform) -> None:
    """Every kind of command, and Redis trusted throughout."""
    await cache.set("row:1", 1, tags=("t",))
    await cache.set_many({"row:2": 2, "row:3": 3, "row:4": 4})
    assert await cache.get_or_set("row:5", lambda: 5, tags=("t",)) == 5
    assert await cache.get_many(["row:1", "row:2", "row:5"]) == {"row:1": 1, "row:2": 2, "row:5": 5}
    await cache.delete_by_tag("t")
    await cache.delete_by_pattern("row:[2]")
    await cache.delete("row:3")
    assert await cache.get_many([f"row:{number}" for number in range(1, 6)]) == {"row:4": 4}
    await Uniform(cache.cache.region("row", int)).clear()
    await cache.set("row:1", 1)
    await cache.clear()
    assert not await cache.exists("row:1")
    assert not cache.cache.is_degraded


async def test_tls(tls_port: tuple[int, str], make: Make, redis_url: str) -> None:
    """The servers of the tests need not speak TLS, so it ends in front of them."""
    port, authority = tls_port
    cache = make(f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority}", timeout=5)
    await use_it_all(cache)
    await cache.set("row:1", 1)
    assert await make(redis_url, timeout=5).get("row:1") == 1


async def test_a_certificate_of_nobody_known_is_as_good_as_no_redis(
    tls_port: tuple[int, str], make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make(f"rediss://127.0.0.1:{tls_port[0]}", timeout=5)
    await cache.set("row:1", 1)
    assert await cache.get("row:1") == 1
    assert cache.cache.is_degraded
    assert len(caplog.records) == 1


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
