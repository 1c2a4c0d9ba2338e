"""Units of work do not nest: in the same task, in child tasks and threads that know of the unit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from araponga_infra.concurrency import AsyncConcurrencyHelper, ConcurrencyHelper, NestedUnitOfWorkError

from .blog import Base, Post, like


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'blog.db'}")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Post(id=1))
        session.commit()
    yield engine
    engine.dispose()


@pytest.fixture
def helper(engine: Engine) -> ConcurrencyHelper:
    return ConcurrencyHelper(sessionmaker(engine))


async def like_async(session: AsyncSession, post_id: int) -> int:
    return await session.run_sync(like, post_id)


def test_execute_inside_a_unit_is_refused_and_leaves_nothing_open(helper: ConcurrencyHelper) -> None:
    with pytest.raises(NestedUnitOfWorkError, match=r"\.within\(session"):
        helper.execute(lambda _session: helper.execute(like, 1))
    assert helper.execute(like, 1) == 1


def test_a_helper_of_another_database_is_refused_as_well(helper: ConcurrencyHelper, engine: Engine) -> None:
    other = ConcurrencyHelper(sessionmaker(engine))
    with pytest.raises(NestedUnitOfWorkError):
        helper.execute(lambda _session: other.execute(like, 1))


def test_a_thread_of_its_own_is_outside(helper: ConcurrencyHelper) -> None:
    likes: list[int] = []

    def work(_session: Session) -> None:
        thread = threading.Thread(target=lambda: likes.append(helper.execute(like, 1)))
        thread.start()
        thread.join()

    helper.execute(work)
    assert likes == [1]


@pytest.fixture
async def async_helper(engine: Engine) -> AsyncIterator[AsyncConcurrencyHelper]:
    async_engine = create_async_engine(str(engine.url).replace("sqlite:", "sqlite+aiosqlite:"))
    yield AsyncConcurrencyHelper(async_sessionmaker(async_engine))
    await async_engine.dispose()


@pytest.mark.anyio
async def test_a_child_task_is_inside_while_the_unit_is_open(async_helper: AsyncConcurrencyHelper) -> None:
    """Else `gather` inside a unit would wait for ever for rows that the unit itself has locked."""

    async def work(_session: AsyncSession) -> None:
        await asyncio.create_task(async_helper.execute(like_async, 1))

    with pytest.raises(NestedUnitOfWorkError):
        await async_helper.execute(work)


@pytest.mark.anyio
async def test_a_child_task_is_outside_once_the_unit_has_ended(async_helper: AsyncConcurrencyHelper) -> None:
    is_over = asyncio.Event()

    async def later() -> int:
        await is_over.wait()
        return await async_helper.execute(like_async, 1)

    async def work(_session: AsyncSession) -> asyncio.Task[int]:
        return asyncio.create_task(later())

    background = await async_helper.execute(work)
    is_over.set()
    assert await background == 1


@pytest.mark.anyio
async def test_to_thread_knows_of_the_unit(async_helper: AsyncConcurrencyHelper, helper: ConcurrencyHelper) -> None:
    async def work(_session: AsyncSession) -> None:
        await asyncio.to_thread(helper.execute, like, 1)

    with pytest.raises(NestedUnitOfWorkError):
        await async_helper.execute(work)


@pytest.mark.anyio
async def test_tasks_side_by_side_do_not_know_of_each_other(async_helper: AsyncConcurrencyHelper) -> None:
    likes = await asyncio.gather(*(async_helper.execute(like_async, 1) for _ in range(3)))
    assert sorted(likes) == [1, 2, 3]
