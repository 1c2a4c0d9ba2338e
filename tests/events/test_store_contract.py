"""One suite over every store, sync and async."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

import pytest

from araponga_infra.events import EventStoreSource, InMemoryEventStore, SqlAlchemyEventStore
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
