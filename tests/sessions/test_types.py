"""What a caller's type checker sees of sessions: mypy and pyright read the assertions, and they run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import assert_type

import pytest
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from araponga_infra import ConcurrencyHelper
from araponga_infra.sessions import (
    AsyncReadOnlySession,
    AsyncReadOnlySessionFactory,
    AsyncReplicaSet,
    ReadOnlySession,
    ReadOnlySessionFactory,
    ReplicaSet,
    ReplicaStatus,
    WriteToken,
)

pytestmark = pytest.mark.anyio


def one(session: Session) -> int:
    return int(session.scalar(text("SELECT 1")) or 0)


def add(session: ReadOnlySession, number: int, word: str = "x") -> str:
    return word * (one(session) + number)


async def one_later(session: AsyncSession) -> int:
    return int(await session.scalar(text("SELECT 1")) or 0)


async def add_later(session: AsyncReadOnlySession, number: int, word: str = "x") -> str:
    return word * (await one_later(session) + number)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'content.db'}"


def test_factories(url: str) -> None:
    with ReadOnlySessionFactory(url) as factory, factory() as session:
        assert_type(factory, ReadOnlySessionFactory)
        assert_type(factory.engine, Engine)
        assert_type(session, ReadOnlySession)
        assert_type(session.scalar(select(text("1"))) is None, bool)


async def test_async_factories(url: str) -> None:
    async with AsyncReadOnlySessionFactory(url) as factory, factory() as session:
        assert_type(factory.engine, AsyncEngine)
        assert_type(session, AsyncReadOnlySession)
        assert_type(session.sync_session, ReadOnlySession)


def test_replica_sets() -> None:
    with ReplicaSet(create_engine("sqlite://")) as replicas:
        assert_type(replicas.write, sessionmaker[Session])
        assert_type(replicas.read(fresh=True), AbstractContextManager[ReadOnlySession])
        assert_type(replicas.write_token(), WriteToken | None)
        assert_type(replicas.status(), tuple[ReplicaStatus, ...])
        assert_type(ConcurrencyHelper(replicas.write).execute(one), int)


def test_run_gives_what_its_work_returns_and_takes_what_that_takes() -> None:
    with ReplicaSet(create_engine("sqlite://")) as replicas:
        assert_type(replicas.run(one), int)
        assert_type(replicas.run(add, 1), str)
        assert_type(replicas.run(add, 1, "y", after=None), str)
        assert_type(replicas.run(lambda session: session.scalars(select(text("1"))).all() == [], after="0/1"), bool)
        wrong: list[Callable[[], object]] = [
            lambda: replicas.run(add),  # type: ignore[arg-type]
            lambda: replicas.run(add, "no number"),  # type: ignore[arg-type]
            lambda: replicas.run(one, 1),  # type: ignore[arg-type]
        ]
        for call in wrong:
            with pytest.raises(TypeError):
                call()


async def test_async_replica_sets(url: str) -> None:
    async with AsyncReplicaSet(url) as replicas:
        assert_type(replicas.write, async_sessionmaker[AsyncSession])
        assert_type(replicas.read(), AbstractAsyncContextManager[AsyncReadOnlySession])
        assert_type(await replicas.write_token(), WriteToken | None)
        assert_type(await replicas.run(one_later), int)
        assert_type(await replicas.run(add_later, 1), str)
        assert_type(await replicas.run(add_later, 1, "y"), str)
        with pytest.raises(TypeError):
            await replicas.run(add_later)  # type: ignore[arg-type]
