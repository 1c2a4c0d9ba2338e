"""The stores, each as sync and as async code sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from araponga_infra.testing.clock import FakeClock


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
