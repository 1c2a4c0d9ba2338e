"""The same rows on SQLite and on PostgreSQL, by every driver."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

from .models import Base, add_posts

POSTS = 4


def _fill(engine: Engine) -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        add_posts(session, POSTS)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A SQLite file with four posts."""
    engine = create_engine(f"sqlite:///{tmp_path / 'queries.db'}")
    _fill(engine)
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "psycopg"])
def any_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The same on each database; a test may name further drivers by indirect parameters."""
    if request.param == "sqlite":
        yield request.getfixturevalue("engine")
        return
    engine = create_engine(request.getfixturevalue("postgres_database").url(request.param))
    _fill(engine)
    yield engine
    engine.dispose()


@pytest.fixture(params=["aiosqlite", "psycopg", "asyncpg"])
async def async_engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """The same with each async driver."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'queries.db'}"
    if request.param != "aiosqlite":
        url = request.getfixturevalue("postgres_database").url(request.param)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.run_sync(lambda plain: _add(Session(plain)))
    yield engine
    await engine.dispose()


def _add(session: Session) -> None:
    add_posts(session, POSTS)
    session.flush()
