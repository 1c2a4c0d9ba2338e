"""`delete_in`: with the COMMIT, and with nothing less."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from araponga_infra.caching import (
    AsyncCachetoolsCacheService,
    AsyncDistributedCacheService,
    CachetoolsCacheService,
    create_async_cache,
)
from araponga_infra.errors import InvalidArgumentError

pytestmark = pytest.mark.anyio


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://")
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine() -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine("sqlite+aiosqlite://")
    yield engine
    await engine.dispose()


@pytest.fixture
def cache() -> CachetoolsCacheService:
    cache = CachetoolsCacheService()
    cache.set("row:1", 1)
    return cache


def test_a_key_goes_with_the_commit_and_not_before(engine: Engine, cache: CachetoolsCacheService) -> None:
    with Session(engine) as session:
        cache.delete_in(session, "row:1")
        with session.begin_nested():
            session.execute(text("select 1"))
        assert cache.exists("row:1")
        session.commit()
    assert not cache.exists("row:1")


def test_a_key_stays_on_rollback(engine: Engine, cache: CachetoolsCacheService) -> None:
    with Session(engine) as session:
        cache.region("row", int).delete_in(session, 1)
        session.rollback()
        session.commit()
    assert cache.exists("row:1")


def test_the_outer_transaction_decides(engine: Engine, cache: CachetoolsCacheService) -> None:
    for is_committed in (False, True):
        with engine.connect() as connection:
            outer = connection.begin()
            with Session(connection) as session:
                cache.delete_in(session, "row:1")
                session.commit()
            assert cache.exists("row:1")
            if is_committed:
                outer.commit()
            else:
                outer.rollback()
        assert cache.exists("row:1") is not is_committed


async def test_an_async_cache_is_awaited_before_commit_returns(async_engine: AsyncEngine, redis_url: str) -> None:
    caches: list[AsyncDistributedCacheService] = [create_async_cache(), create_async_cache(redis_url)]
    for cache in caches:
        await cache.set("row:1", 1)
        async with AsyncSession(async_engine) as session:
            cache.delete_in(session, "row:1")
            assert await cache.exists("row:1")
            await session.commit()
            assert not await cache.exists("row:1")
        await cache.aclose()


async def test_an_async_cache_and_run_sync(async_engine: AsyncEngine) -> None:
    cache = AsyncCachetoolsCacheService()
    await cache.set("row:1", 1)
    async with AsyncSession(async_engine) as session:
        await session.run_sync(lambda plain: cache.delete_in(plain, "row:1"))
        await session.commit()
    assert not await cache.exists("row:1")


async def test_a_sync_cache_and_an_async_session(async_engine: AsyncEngine, cache: CachetoolsCacheService) -> None:
    async with AsyncSession(async_engine) as session:
        cache.delete_in(session, "row:1")
        await session.commit()
    assert not cache.exists("row:1")


def test_an_async_cache_and_a_plain_session_are_refused(engine: Engine) -> None:
    with Session(engine) as session, pytest.raises(InvalidArgumentError, match="AsyncSession"):
        AsyncCachetoolsCacheService().delete_in(session, "row:1")
    with pytest.raises(InvalidArgumentError, match="session"):
        AsyncCachetoolsCacheService().delete_in(5, "row:1")  # type: ignore[arg-type]
