"""One suite over every store, sync and async."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import redis
import redis.asyncio
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from araponga_infra.events import EventStoreSource, InMemoryEventStore, RedisStreamEventStore, SqlAlchemyEventStore
from araponga_infra.testing.events import EventStoreContract


class TestInMemoryStore(EventStoreContract):
    @pytest.fixture
    def source(self) -> EventStoreSource:
        return InMemoryEventStore()


class TestInMemoryStoreSync(TestInMemoryStore):
    @pytest.fixture
    def is_sync(self) -> bool:
        return True


class TestSqliteStoreSync(EventStoreContract):
    @pytest.fixture
    def is_sync(self) -> bool:
        return True

    @pytest.fixture
    def source(self, sqlite_engine: Engine) -> EventStoreSource:
        store = SqlAlchemyEventStore(sqlite_engine)
        store.create_schema()
        return store


class TestSqliteStore(EventStoreContract):
    @pytest.fixture
    async def source(self, async_sqlite_engine: AsyncEngine) -> EventStoreSource:
        store = SqlAlchemyEventStore(async_sqlite_engine)
        await store.create_schema()
        return store


class TestPostgresStoreSync(EventStoreContract):
    @pytest.fixture
    def is_sync(self) -> bool:
        return True

    @pytest.fixture
    def source(self, postgres_engine: Engine) -> EventStoreSource:
        store = SqlAlchemyEventStore(postgres_engine)
        store.create_schema()
        return store


class TestPostgresStore(EventStoreContract):
    @pytest.fixture
    async def source(self, async_postgres_engine: AsyncEngine) -> EventStoreSource:
        store = SqlAlchemyEventStore(async_postgres_engine, schema=None)
        await store.create_schema()
        return store


class TestRedisStoreSync(EventStoreContract):
    @pytest.fixture
    def is_sync(self) -> bool:
        return True

    @pytest.fixture
    def source(self, redis_url: str) -> Iterator[EventStoreSource]:
        with redis.Redis.from_url(redis_url) as client:
            yield RedisStreamEventStore(client)


class TestRedisStore(EventStoreContract):
    @pytest.fixture
    async def source(self, redis_url: str) -> AsyncIterator[EventStoreSource]:
        async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
            yield RedisStreamEventStore(client, namespace="other")
