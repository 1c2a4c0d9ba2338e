"""Every database and driver that the promises are tested on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from araponga_infra.concurrency import VersionedSession
from tests.servers.postgres import PostgresDatabase, PostgresServer

from .blog import Base, Post, XminBase
from .databases import ASYNC_DRIVERS, SYNC_DRIVERS, AsyncDatabase, Database, SyncDatabase

_POSTGRES_DRIVERS = {"psycopg": "psycopg", "psycopg2": "psycopg2", "psycopg-async": "psycopg", "asyncpg": "asyncpg"}


@pytest.fixture(scope="session")
def blog_database(shared_postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    """One PostgreSQL database for all tests here, which make their tables anew."""
    with shared_postgres.temporary_database() as database:
        yield database


def open_database(driver: str, folder: Path, request: pytest.FixtureRequest) -> Database:
    is_async = driver in ASYNC_DRIVERS
    if "sqlite" in driver:
        url = f"sqlite{'+aiosqlite' if is_async else ''}:///{folder / 'blog.db'}"
    else:
        url = request.getfixturevalue("blog_database").url(_POSTGRES_DRIVERS[driver])
    return AsyncDatabase(driver, url) if is_async else SyncDatabase(driver, url)


@pytest.fixture(params=["sqlite", "psycopg", "aiosqlite", "psycopg-async", "asyncpg"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with the tables of `blog` and the post 1, over each driver, sync and async."""
    opened = open_database(request.param, tmp_path, request)
    try:
        opened.create(Base)
        with opened.session(Session) as run:
            run(_add_post)
        yield opened
    finally:
        opened.close()


@pytest.fixture(params=["psycopg", "psycopg2", "psycopg-async", "asyncpg"])
def xmin_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A PostgreSQL database with the tables that are versioned by xmin."""
    opened = open_database(request.param, tmp_path, request)
    try:
        opened.create(XminBase)
        yield opened
    finally:
        opened.close()


@pytest.fixture
def others(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    """Somebody else's sessions on the same database: always sync, on connections of their own."""
    name = "xmin_database" if "xmin_database" in request.fixturenames else "database"
    url = request.getfixturevalue(name).url.replace("+aiosqlite", "").replace("+asyncpg", "+psycopg")
    other = SyncDatabase("other", url)
    try:
        yield sessionmaker(other.engine)
    finally:
        other.close()


@pytest.fixture(params=[Session, VersionedSession], ids=["plain", "versioned"])
def session_class(request: pytest.FixtureRequest) -> type[Session]:
    """Which sessions the host's sessionmaker makes."""
    kind: type[Session] = request.param
    return kind


def _add_post(session: Session) -> None:
    session.add(Post(id=1))
    session.commit()


__all__ = ["SYNC_DRIVERS", "blog_database", "database", "open_database", "others", "session_class", "xmin_database"]
