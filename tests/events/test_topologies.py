"""The Redis store on a Redis Cluster, and behind Sentinel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis
import redis.asyncio

from araponga_infra.events import BackgroundEventProcessor, EventRouter, EventStoreSource, RedisStreamEventStore
from araponga_infra.events.stores.redis.clients import side_client
from araponga_infra.testing.events import EventStoreContract
from tests.caching.sentinel import watched
from tests.events.hosts import Happened, Host, eventually, resumed, settled
from tests.servers.redis_cluster import redis_cluster
from tests.servers.redis_server import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[RedisServer]]:
    with redis_cluster() as servers:
        yield servers


@pytest.fixture
def empty_cluster(cluster: list[RedisServer]) -> list[RedisServer]:
    for server in cluster:
        server.flush()
    return cluster


class TestClusterStoreSync(EventStoreContract):
    @pytest.fixture
    def is_sync(self) -> bool:
        return True

    @pytest.fixture
    def source(self, empty_cluster: list[RedisServer]) -> Iterator[EventStoreSource]:
        with redis.RedisCluster("127.0.0.1", empty_cluster[0].port, socket_timeout=1) as client:
            yield RedisStreamEventStore(client)


class TestClusterStore(EventStoreContract):
    @pytest.fixture
    async def source(self, empty_cluster: list[RedisServer]) -> AsyncIterator[EventStoreSource]:
        async with redis.asyncio.RedisCluster("127.0.0.1", empty_cluster[0].port, decode_responses=True) as client:
            yield RedisStreamEventStore(client)


@pytest.fixture(params=["sync", "async"])
async def on_cluster(
    request: pytest.FixtureRequest, empty_cluster: list[RedisServer]
) -> AsyncIterator[tuple[Host, Any]]:
    is_async = request.param == "async"
    kind: Any = redis.asyncio.RedisCluster if is_async else redis.RedisCluster
    client = kind("127.0.0.1", empty_cluster[1].port, socket_timeout=1)
    async with AsyncExitStack() as stack:
        yield Host(RedisStreamEventStore(client), is_async=is_async, engine=None, stack=stack), client
    await settled(client.aclose() if is_async else client.close())


def noting(seen: list[int]) -> EventRouter:
    router = EventRouter()

    @router.subscribe(Happened)
    def note(happened: Happened) -> None:
        seen.append(happened.number)

    return router


async def test_processors_share_a_cluster_hear_of_news_and_leave_the_hosts_client_open(
    on_cluster: tuple[Host, Any], empty_cluster: list[RedisServer]
) -> None:
    host, client = on_cluster
    seen: list[int] = []
    worker = await host.started(noting(seen), poll_interval=3600.0, lease=0.2)
    web = await host.started(consume=False)
    await eventually(lambda: worker._running._feed.is_dry)
    await settled(web.publish_many([Happened(number) for number in range(20)]))
    await eventually(lambda: sorted(seen) == list(range(20)))
    keys = [server.execute("KEYS", "*") for server in empty_cluster]
    assert sum(1 for each in keys if each) == 1, "all keys of a store lie on one node"
    await host.stop(worker)
    assert await settled(client.get("nothing")) is None


@pytest.mark.parametrize("is_async", [False, True])
async def test_processing_goes_on_after_a_failover_by_sentinel(is_async: bool) -> None:
    """The standby is promoted and the primary dies; without a restart of the processor, as soon as Sentinel says so."""
    seen: list[int] = []
    with watched() as (primary, replica, watcher):
        kind: Any = redis.asyncio.Sentinel if is_async else redis.Sentinel
        manager = kind([("127.0.0.1", watcher.port)], socket_timeout=1)
        client = manager.master_for("mymaster", socket_timeout=1)
        async with AsyncExitStack() as stack:
            host = Host(RedisStreamEventStore(client), is_async=is_async, engine=None, stack=stack)
            processor = await host.started(noting(seen), poll_interval=0.1, lease=0.5)
            await settled(processor.publish(Happened(1)))
            await eventually(lambda: seen == [1])
            await eventually(lambda: replica.execute("EXISTS", "{araponga}:events:subscriptions"), seconds=30)
            watcher.fail_over()
            await eventually(lambda: is_primary(replica), seconds=30)
            primary.kill()
            await eventually(lambda: watcher.primary_port() == replica.port, seconds=30)
            with redis.Redis(port=replica.port) as near:
                BackgroundEventProcessor(RedisStreamEventStore(near), consume=False).publish(Happened(2))
            await resumed(lambda: 2 in seen)

            async def is_published() -> bool:
                try:
                    await settled(processor.publish(Happened(3)))
                except redis.RedisError:
                    return False
                return True

            await eventually(is_published, seconds=30)
            await eventually(lambda: 3 in seen)
        for opened in (client, *manager.sentinels):
            await settled(opened.aclose() if is_async else opened.close())


def is_primary(server: RedisServer) -> bool:
    """A server closes its connections when it changes its role."""
    try:
        return bool(server.execute("INFO", "replication")["role"] == "master")
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize("kind", [redis.Redis, redis.asyncio.Redis])
async def test_threads_beside_the_host_connect_as_its_client_does(kind: Any) -> None:
    for url, connection, place in (
        ("redis://user:word@there:7000/3", redis.Connection, {"host": "there", "port": 7000, "db": 3}),
        ("rediss://user:word@there:7000/3?ssl_ca_certs=ca.pem", redis.SSLConnection, {"ssl_ca_certs": "ca.pem"}),
        ("unix://user:word@/run/redis.sock?db=3", redis.UnixDomainSocketConnection, {"path": "/run/redis.sock"}),
    ):
        pool = side_client(kind.from_url(url)).connection_pool
        expected = {"username": "user", "password": "word", **place}
        assert pool.connection_class is connection
        assert {name: pool.connection_kwargs[name] for name in expected} == expected
