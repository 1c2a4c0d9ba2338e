"""A hot row does not end in give-ups: default settings, real databases."""

from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from araponga_infra.concurrency import AsyncConcurrencyHelper, ConcurrencyHelper
from araponga_infra.testing.clock import FakeClock
from tests.servers.postgres import PostgresDatabase

from .blog import Base, Post, like

_WORKERS, _EACH = 16, 50


async def like_async(session: AsyncSession, post_id: int) -> int:
    post = await session.get_one(Post, post_id)
    post.likes += 1
    return post.likes


def _prepare(url: str) -> None:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Post(id=1))
        session.commit()
    engine.dispose()


def _likes(url: str) -> tuple[int, int]:
    engine = create_engine(url)
    with Session(engine) as session:
        post = session.get_one(Post, 1)
        counted = post.likes, post.row_version
    engine.dispose()
    return counted


def test_16_threads_on_postgresql(emptied_database: PostgresDatabase) -> None:
    url = emptied_database.url("psycopg")
    _prepare(url)
    engine = create_engine(url, pool_size=_WORKERS)
    helper = ConcurrencyHelper(sessionmaker(engine))

    def like_often(_worker: int) -> list[int]:
        return [helper.execute(like, 1) for _ in range(_EACH)]

    with ThreadPoolExecutor(_WORKERS) as pool:
        seen = [count for counts in pool.map(like_often, range(_WORKERS)) for count in counts]
    engine.dispose()

    assert sorted(seen) == list(range(1, _WORKERS * _EACH + 1))
    assert _likes(url) == (_WORKERS * _EACH, _WORKERS * _EACH + 1)


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_16_tasks_on_postgresql(emptied_database: PostgresDatabase, driver: str) -> None:
    await asyncio.to_thread(_prepare, emptied_database.url("psycopg"))
    engine = create_async_engine(emptied_database.url(driver), pool_size=_WORKERS)
    helper = AsyncConcurrencyHelper(async_sessionmaker(engine))

    async def like_often() -> list[int]:
        return [await helper.execute(like_async, 1) for _ in range(_EACH)]

    seen = [count for counts in await asyncio.gather(*(like_often() for _ in range(_WORKERS))) for count in counts]
    await engine.dispose()

    assert sorted(seen) == list(range(1, _WORKERS * _EACH + 1))


@pytest.mark.anyio
async def test_10_tasks_on_one_sqlite_file_without_waiting(tmp_path: Path) -> None:
    _prepare(f"sqlite:///{tmp_path / 'blog.db'}")
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'blog.db'}")
    helper = AsyncConcurrencyHelper(async_sessionmaker(engine), clock=FakeClock())
    likes = await asyncio.gather(*(helper.execute(like_async, 1) for _ in range(10)))
    await engine.dispose()
    assert sorted(likes) == list(range(1, 11))


def _like_in_process(url: str, times: int) -> list[int]:
    engine = create_engine(url)
    helper = ConcurrencyHelper(sessionmaker(engine))
    try:
        return [helper.execute(like, 1) for _ in range(times)]
    finally:
        engine.dispose()


def test_4_processes_on_one_sqlite_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'blog.db'}"
    _prepare(url)
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(_like_in_process, url, 200) for _ in range(4)]
        seen = [count for run in runs for count in run.result()]
    assert sorted(seen) == list(range(1, 801))
    assert _likes(url) == (800, 801)
