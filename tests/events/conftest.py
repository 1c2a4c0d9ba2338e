"""The stores, each as sync and as async code sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from araponga_infra.events import InMemoryEventStore, RedisStreamEventStore, SqlAlchemyEventStore
from araponga_infra.testing.clock import FakeClock
from tests.events.hosts import HOSTS, Host, settled


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'events.db'}")
    yield engine
    engine.dispose()


@pytest.fixture
async def async_sqlite_engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'events.db'}")
    yield engine
    await engine.dispose()


@pytest.fixture
def postgres_engine(postgres_database: Any) -> Iterator[Engine]:
    engine = create_engine(postgres_database.url("psycopg"))
    yield engine
    engine.dispose()


@pytest.fixture
async def async_postgres_engine(postgres_database: Any) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(postgres_database.url("asyncpg"))
    yield engine
    await engine.dispose()


@pytest.fixture(params=HOSTS)
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Host]:
    """A processor's surroundings, for each store, sync and async."""
    database, kind = request.param.split("-")
    is_async = kind == "async"
    async with AsyncExitStack() as stack:
        if database == "memory":
            yield Host(InMemoryEventStore(), is_async=is_async, engine=None, stack=stack)
            await stack.aclose()
            return
        if database == "redis":
            kind_of_client: Any = redis.asyncio.Redis if is_async else redis.Redis
            client = kind_of_client.from_url(request.getfixturevalue("redis_url"))
            yield Host(RedisStreamEventStore(client), is_async=is_async, engine=None, stack=stack)
            await stack.aclose()
            await settled(client.aclose() if is_async else client.close())
            return
        if database == "postgres":
            url = request.getfixturevalue("postgres_database").url("psycopg")
        else:
            url = f"sqlite{'+aiosqlite' if is_async else ''}:///{tmp_path / 'events.db'}"
        engine: Any = create_async_engine(url) if is_async else create_engine(url)
        source = SqlAlchemyEventStore(engine)
        await settled(source.create_schema())
        yield Host(source, is_async=is_async, engine=engine, stack=stack)
        await stack.aclose()
        await settled(engine.dispose())
