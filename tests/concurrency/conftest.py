"""Every database and driver that the promises are tested on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from araponga_infra.concurrency import VersionedSession
from tests.servers.postgres import PostgresDatabase, PostgresServer

from .blog import Base, Post, XminBase
from .databases import ASYNC_DRIVERS, AsyncDatabase, Database, SyncDatabase

_POSTGRES_DRIVERS = {"psycopg": "psycopg", "psycopg2": "psycopg2", "psycopg-async": "psycopg", "asyncpg": "asyncpg"}


@pytest.fixture(scope="session")
def blog_database(shared_postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    """One PostgreSQL database with all tables, for all tests here."""
    with shared_postgres.temporary_database() as database:
        engine = create_engine(database.url("psycopg"))
        for base in (Base, XminBase):
            base.metadata.create_all(engine)
        engine.dispose()
        yield database


@pytest.fixture
def emptied_database(blog_database: PostgresDatabase, postgres: PostgresServer) -> PostgresDatabase:
    """That database on a healthy server, its tables emptied."""
    tables = [table.name for base in (Base, XminBase) for table in base.metadata.sorted_tables]
    blog_database.execute(f"TRUNCATE {', '.join(tables)}")
    return blog_database


@pytest.fixture(scope="session")
def blog_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables, to be copied."""
    path = tmp_path_factory.mktemp("blog") / "blog.db"
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return path


def open_database(driver: str, folder: Path, request: pytest.FixtureRequest, **options: Any) -> Database:
    """A database with empty tables; `options` are those of its engine."""
    is_async = driver in ASYNC_DRIVERS
    if "sqlite" in driver:
        path = folder / "blog.db"
        shutil.copy(request.getfixturevalue("blog_file"), path)
        url = f"sqlite{'+aiosqlite' if is_async else ''}:///{path}"
    else:
        url = request.getfixturevalue("emptied_database").url(_POSTGRES_DRIVERS[driver])
    return AsyncDatabase(driver, url, **options) if is_async else SyncDatabase(driver, url, **options)


@pytest.fixture(params=["sqlite", "psycopg", "aiosqlite", "psycopg-async", "asyncpg"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with the tables of `blog` and the post 1, over each driver, sync and async."""
    opened = open_database(request.param, tmp_path, request)
    try:
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
