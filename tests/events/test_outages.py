"""The store goes away and comes back: publishing says so, and processing resumes by itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis
import redis.asyncio
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from araponga_infra.events import EventRouter, RedisStreamEventStore, SqlAlchemyEventStore
from araponga_infra.telemetry import Record
from tests.events.hosts import Happened, Host, eventually, settled

pytestmark = pytest.mark.anyio


class Records:
    def __init__(self) -> None:
        self.names: list[str] = []

    def observe(self, record: Record) -> None:
        self.names.append(record.name)


@pytest.fixture(params=["postgres-sync", "postgres-async", "redis-sync", "redis-async"])
async def far(request: pytest.FixtureRequest, tcp_proxy: Any) -> AsyncIterator[tuple[Host, Any]]:
    """A host whose only way to its store is a proxy."""
    database, kind = request.param.split("-")
    is_async = kind == "async"
    async with AsyncExitStack() as stack:
        if database == "redis":
            server = request.getfixturevalue("redis_server")
            server.flush()
            proxy = tcp_proxy(server.port)
            kind_of_client: Any = redis.asyncio.Redis if is_async else redis.Redis
            client = kind_of_client.from_url(
                server.url(port=proxy.port), socket_timeout=1.0, socket_connect_timeout=1.0
            )
            yield Host(RedisStreamEventStore(client), is_async=is_async, engine=None, stack=stack), proxy
            proxy.restore()
            await stack.aclose()
            await settled(client.aclose() if is_async else client.close())
            return
        database = request.getfixturevalue("postgres_database")
        proxy = tcp_proxy(database.server.port)
        url = database.url("asyncpg" if is_async else "psycopg", port=proxy.port)
        engine: Any = (
            create_async_engine(url, connect_args={"timeout": 1})
            if is_async
            else create_engine(url, connect_args={"connect_timeout": 2})
        )
        source = SqlAlchemyEventStore(engine)
        await settled(source.create_schema())
        yield Host(source, is_async=is_async, engine=engine, stack=stack), proxy
        proxy.restore()
        await stack.aclose()
        await settled(engine.dispose())


def noting(seen: list[int]) -> EventRouter:
    router = EventRouter()

    @router.subscribe(Happened)
    async def note(happened: Happened) -> None:
        seen.append(happened.number)

    return router


@pytest.mark.parametrize("fault", ["cut", "black_hole"])
async def test_processing_resumes_when_the_store_is_back(far: tuple[Host, Any], fault: str) -> None:
    host, proxy = far
    seen, records = list[int](), Records()
    processor = await host.started(noting(seen), poll_interval=0.1, observer=records)
    await settled(processor.publish(Happened(1)))
    await eventually(lambda: seen == [1])
    getattr(proxy, fault)()
    await eventually(lambda: "events.store_unavailable" in records.names, seconds=30)
    proxy.restore()
    await eventually(lambda: "events.store_recovered" in records.names, seconds=30)
    deadline = time.monotonic() + 20
    while True:
        try:
            await settled(processor.publish(Happened(2)))
            break
        except Exception:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    await eventually(lambda: 2 in seen)


async def test_publishing_says_that_the_store_is_away(far: tuple[Host, Any]) -> None:
    host, proxy = far
    processor = await host.started(noting([]), consume=False)
    proxy.cut()
    with pytest.raises(Exception, match=r".") as caught:
        await settled(processor.publish(Happened(1)))
    assert not isinstance(caught.value, AssertionError)


async def test_handlers_that_run_through_an_outage_are_acknowledged_after_it(far: tuple[Host, Any]) -> None:
    host, proxy = far
    router, runs, gate = EventRouter(), list[int](), threading.Event()

    @router.subscribe(Happened)
    def slow(happened: Happened) -> None:
        runs.append(happened.number)
        gate.wait(20)

    processor = await host.started(router, poll_interval=0.1, lease=20.0)
    await settled(processor.publish_many([Happened(1), Happened(2)]))
    await eventually(lambda: sorted(runs) == [1, 2])
    proxy.cut()
    gate.set()
    await asyncio.sleep(0.2)
    proxy.restore()

    async def is_empty() -> bool:
        try:
            stats = await settled(processor.stats())
        except Exception:
            return False
        return not (stats.queued or stats.running or stats.retrying or stats.dead)

    await eventually(is_empty)
    assert sorted(runs) == [1, 2]
