"""What has been closed says so, and what is no option is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Integer, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from araponga_infra.concurrency import ConcurrencyHelper
from araponga_infra.errors import ClosedError, InvalidArgumentError
from araponga_infra.sessions import (
    AsyncReadOnlySessionFactory,
    AsyncReplicaSet,
    ReadOnlySession,
    ReadOnlySessionFactory,
    ReplicaSet,
)

pytestmark = pytest.mark.anyio


class Base(DeclarativeBase): ...


class Counter(Base):
    __tablename__ = "counter"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)


def one(session: Session) -> int:
    return int(session.scalar(text("SELECT 1")) or 0)


def test_a_closed_factory_makes_no_session() -> None:
    with ReadOnlySessionFactory(create_engine("sqlite://")) as factory:
        pass
    with pytest.raises(ClosedError, match="ReadOnlySessionFactory is closed"):
        factory()


async def test_a_closed_async_factory_makes_no_session(tmp_path: Path) -> None:
    async with AsyncReadOnlySessionFactory(f"sqlite:///{tmp_path}/a.db") as factory:
        pass
    with pytest.raises(ClosedError, match="AsyncReadOnlySessionFactory is closed"):
        factory()


@pytest.mark.parametrize(
    "use",
    [
        lambda replicas: replicas.read(),
        lambda replicas: replicas.read(fresh=True),
        lambda replicas: replicas.write,
        lambda replicas: replicas.write_token(),
        lambda replicas: replicas.run(one),
    ],
)
def test_a_closed_replica_set_serves_nobody(use: Callable[[ReplicaSet], object]) -> None:
    with ReplicaSet(create_engine("sqlite://")) as replicas:
        use(replicas)
    with pytest.raises(ClosedError, match="ReplicaSet is closed"):
        use(replicas)


async def test_a_closed_async_replica_set_serves_nobody(tmp_path: Path) -> None:
    async def work(session: Any) -> None: ...

    async with AsyncReplicaSet(f"sqlite:///{tmp_path}/a.db") as replicas:
        await replicas.run(work)
    with pytest.raises(ClosedError):
        replicas.read()
    with pytest.raises(ClosedError):
        _ = replicas.write
    with pytest.raises(ClosedError):
        await replicas.write_token()
    with pytest.raises(ClosedError):
        await replicas.run(work)


async def test_a_read_that_was_asked_for_before_does_not_open_a_closed_set_again(tmp_path: Path) -> None:
    with ReplicaSet(f"sqlite:///{tmp_path}/a.db") as replicas:
        reading = replicas.read()
    with pytest.raises(ClosedError), reading:
        pass
    async with AsyncReplicaSet(f"sqlite:///{tmp_path}/a.db") as others:
        later = others.read()
    with pytest.raises(ClosedError):
        async with later:
            pass


@pytest.mark.parametrize("option", ["bogus", "class_", "sync_session_class"])
def test_an_unknown_option_is_refused_at_the_call(option: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with pytest.raises(InvalidArgumentError, match=f"{option}: no option"):
        ReadOnlySessionFactory(url, **{option: 1})
    with pytest.raises(InvalidArgumentError, match=f"{option}: no option"):
        AsyncReadOnlySessionFactory(url, **{option: 1})


def test_an_option_of_sessions_reaches_them() -> None:
    with ReadOnlySessionFactory(create_engine("sqlite://"), info={"tenant": 7}) as factory, factory() as session:
        assert session.info == {"tenant": 7}


def test_units_of_work_run_on_the_sessions_that_write(tmp_path: Path) -> None:
    with ReplicaSet(f"sqlite:///{tmp_path}/a.db") as replicas:
        helper = ConcurrencyHelper(replicas.write)

        def count(session: ReadOnlySession, more: int) -> int:
            return session.query(Counter).count() + more

        helper.execute(lambda session: Base.metadata.create_all(session.connection()))
        helper.execute(lambda session: session.add(Counter(id=1)))
        assert replicas.run(count, 10) == 11
