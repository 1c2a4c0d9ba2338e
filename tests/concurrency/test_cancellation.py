"""A cancelled unit leaves no transaction and no connection behind."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

from araponga_infra.backoff import Backoff
from araponga_infra.concurrency import AsyncConcurrencyHelper
from tests.servers.postgres import PostgresDatabase

from .blog import Post, Tag

pytestmark = pytest.mark.anyio

_OPEN = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"  # noqa: E501


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("moment", ["in the work", "in a statement", "while waiting"])
async def test_cancelling_leaves_nothing_open(emptied_database: PostgresDatabase, driver: str, moment: str) -> None:
    engine = create_async_engine(emptied_database.url(driver))
    reached = asyncio.Event()

    async def work(session: AsyncSession) -> None:
        session.add(Tag(id=1, name="never"))
        await session.flush()
        if moment == "in a statement":
            asyncio.get_running_loop().call_later(0.05, reached.set)
            await session.execute(text("SELECT pg_sleep(30)"))
        reached.set()
        if moment == "while waiting":
            raise serialization_failure()
        await asyncio.Event().wait()

    helper = AsyncConcurrencyHelper(async_sessionmaker(engine), backoff=Backoff(60, 60, jitter=False))
    running = asyncio.create_task(helper.execute(work))
    await asyncio.wait_for(reached.wait(), 10)
    if moment == "while waiting":
        await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)

    pool = engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0
    assert emptied_database.execute(_OPEN) == [(0,)]
    assert emptied_database.execute("SELECT count(*) FROM tag") == [(0,)]
    assert await AsyncConcurrencyHelper(async_sessionmaker(engine)).execute(_add_post) == 1
    await engine.dispose()


_LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT max(i) FROM n"


@pytest.mark.parametrize("moment", ["in the work", "in a statement"])
async def test_cancelling_gives_a_sqlite_file_back(blog_file: Path, tmp_path: Path, moment: str) -> None:
    """A statement that runs is not interrupted: it ends in the driver's thread, and nothing of it stays."""
    path = shutil.copy(blog_file, tmp_path / "blog.db")
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    reached = asyncio.Event()

    async def work(session: AsyncSession) -> None:
        session.add(Tag(id=1, name="never"))
        await session.flush()
        asyncio.get_running_loop().call_soon(reached.set)
        if moment == "in a statement":
            await session.execute(text(_LONG))
        await asyncio.Event().wait()

    running = asyncio.create_task(AsyncConcurrencyHelper(async_sessionmaker(engine)).execute(work))
    await asyncio.wait_for(reached.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)

    others = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 30})
    assert await AsyncConcurrencyHelper(async_sessionmaker(others)).execute(_add_post) == 1
    async with AsyncSession(others) as session:
        assert await session.get(Tag, 1) is None
    await others.dispose()
    await engine.dispose()


async def _add_post(session: AsyncSession) -> int:
    session.add(Post(id=1))
    return 1


def serialization_failure() -> Exception:
    from sqlalchemy.exc import OperationalError

    original = Exception("could not serialize")
    original.sqlstate = "40001"  # type: ignore[attr-defined]
    return OperationalError("COMMIT", {}, original)
