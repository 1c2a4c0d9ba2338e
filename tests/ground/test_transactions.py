"""`after_commit` runs after the outermost COMMIT and never otherwise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from araponga_infra import InvalidArgumentError
from araponga_infra.transactions import after_commit


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'test.db'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE note (id INTEGER PRIMARY KEY)"))
    yield engine
    engine.dispose()


@pytest.fixture
def ran() -> list[str]:
    return []


def note(session: Session) -> None:
    session.execute(text("INSERT INTO note DEFAULT VALUES"))


def test_it_runs_after_commit_and_once(engine: Engine, ran: list[str]) -> None:
    with Session(engine) as session:
        after_commit(session, lambda: ran.append("first"))
        note(session)
        after_commit(session, lambda: ran.append("second"))
        assert ran == []
        session.commit()
        assert ran == ["first", "second"]
        note(session)
        session.commit()
    assert ran == ["first", "second"]


def test_the_connection_is_back_in_its_pool_by_then(engine: Engine, ran: list[str]) -> None:
    with Session(engine) as session:
        note(session)
        after_commit(session, lambda: ran.append(engine.pool.status()))
        session.commit()
    assert len(ran) == 1
    assert ran[0].endswith("Current Checked out connections: 0")


def test_a_rollback_drops_it(engine: Engine, ran: list[str]) -> None:
    with Session(engine) as session:
        note(session)
        after_commit(session, lambda: ran.append("never"))
        session.rollback()
        note(session)
        session.commit()
    assert ran == []


def test_a_close_without_commit_drops_it(engine: Engine, ran: list[str]) -> None:
    session = Session(engine)
    note(session)
    after_commit(session, lambda: ran.append("never"))
    session.close()
    session.commit()
    assert ran == []


def test_a_failing_commit_drops_it(engine: Engine, ran: list[str]) -> None:
    with Session(engine) as session:
        note(session)
        after_commit(session, lambda: ran.append("never"))

        @event.listens_for(session, "before_commit")
        def fail(_session: Session) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            session.commit()
    assert ran == []


def test_a_released_savepoint_waits_for_the_commit(engine: Engine, ran: list[str]) -> None:
    with Session(engine) as session:
        with session.begin_nested(), session.begin_nested():
            note(session)
            after_commit(session, lambda: ran.append("outer decides"))
        assert ran == []
        session.commit()
    assert ran == ["outer decides"]


def test_a_rolled_back_savepoint_drops_what_it_registered(engine: Engine, ran: list[str]) -> None:
    with Session(engine) as session:
        after_commit(session, lambda: ran.append("kept"))
        savepoint = session.begin_nested()
        after_commit(session, lambda: ran.append("never"))
        with session.begin_nested():
            after_commit(session, lambda: ran.append("never either"))
        savepoint.rollback()
        session.commit()
    assert ran == ["kept"]


def test_a_failed_statement_in_a_savepoint_drops_what_it_registered(engine: Engine, ran: list[str]) -> None:
    with Session(engine) as session:
        note(session)
        savepoint = session.begin_nested()
        after_commit(session, lambda: ran.append("never"))
        with pytest.raises(IntegrityError):
            session.execute(text("INSERT INTO note (id) VALUES (1)"))
        savepoint.rollback()
        session.commit()
    assert ran == []


@pytest.mark.parametrize("mode", ["conditional_savepoint", "rollback_only", "create_savepoint"])
def test_in_a_joined_session_the_outer_commit_decides(engine: Engine, ran: list[str], mode: str) -> None:
    with engine.connect() as connection:
        with connection.begin():
            with Session(connection, join_transaction_mode=mode) as session:  # type: ignore[arg-type]
                note(session)
                after_commit(session, lambda: ran.append("outer"))
                session.commit()
            assert ran == []
        connection.execute(text("SELECT 1"))
        assert ran == ["outer"]
    assert ran == ["outer"]


def test_in_a_joined_session_giving_the_connection_back_is_soon_enough(engine: Engine, ran: list[str]) -> None:
    with engine.begin() as connection, Session(connection, join_transaction_mode="create_savepoint") as session:
        after_commit(session, lambda: ran.append("outer"))
        note(session)
        session.commit()
        assert ran == []
    assert ran == ["outer"]


@pytest.mark.parametrize("ending", ["rollback", "close"])
def test_in_a_joined_session_the_outer_rollback_drops_it(engine: Engine, ran: list[str], ending: str) -> None:
    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            note(session)
            after_commit(session, lambda: ran.append("never"))
            session.commit()
        getattr(outer, ending)()
        with connection.begin():
            connection.execute(text("SELECT 1"))
    with engine.begin() as connection:
        connection.execute(text("SELECT 1"))
    assert ran == []


def test_in_a_joined_session_an_outer_commit_that_fails_drops_it(engine: Engine, ran: list[str]) -> None:
    with engine.begin() as setup:
        setup.execute(text("CREATE TABLE child (id INTEGER REFERENCES note (id) DEFERRABLE INITIALLY DEFERRED)"))
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        connection.commit()
        outer = connection.begin()
        with Session(connection, join_transaction_mode="rollback_only") as session:
            session.execute(text("INSERT INTO child VALUES (99)"))
            after_commit(session, lambda: ran.append("never"))
            session.commit()
        with pytest.raises(IntegrityError):
            outer.commit()
        connection.connection.rollback()
    with engine.begin() as connection:
        connection.execute(text("SELECT 1"))
    assert ran == []


def test_what_it_raises_is_logged_and_the_others_still_run(
    engine: Engine, ran: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR), Session(engine) as session:
        note(session)
        after_commit(session, fail)
        after_commit(session, lambda: ran.append("still"))
        session.commit()
    assert ran == ["still"]
    assert "ZeroDivisionError" in caplog.text


def test_scoped_sessions_are_sessions(engine: Engine, ran: list[str]) -> None:
    scoped = scoped_session(sessionmaker(engine))
    after_commit(scoped, lambda: ran.append("scoped"))
    scoped.commit()
    scoped.remove()
    assert ran == ["scoped"]


def test_anything_else_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="session is a str"):
        after_commit("session", lambda: None)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_an_awaitable_is_awaited_before_commit_returns(tmp_path: Path, ran: list[str]) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")

    async def slowly() -> None:
        await asyncio.sleep(0)
        ran.append("awaited")

    async with AsyncSession(engine) as session, session.begin():
        after_commit(session, slowly)
        async with session.begin_nested():
            after_commit(session, slowly)
        assert ran == []
    assert ran == ["awaited", "awaited"]
    scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    after_commit(scoped, slowly)
    await scoped.rollback()
    await scoped.remove()
    await engine.dispose()
    assert ran == ["awaited", "awaited"]


def test_a_lost_connection_at_commit_drops_it(engine: Engine, ran: list[str]) -> None:
    with Session(engine) as session:
        note(session)
        after_commit(session, lambda: ran.append("never"))
        driver = session.connection().connection.driver_connection
        assert driver is not None
        with engine.connect() as other:
            other.exec_driver_sql("PRAGMA busy_timeout = 0")
            other.exec_driver_sql("BEGIN")
            other.exec_driver_sql("SELECT * FROM note").all()
            session.connection().exec_driver_sql("PRAGMA busy_timeout = 0")
            with pytest.raises(OperationalError):
                session.commit()
    assert ran == []
