"""REPEATABLE READ and SERIALIZABLE report 40001 where READ COMMITTED matches no row; deadlocks are 40P01."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, SAWarning
from sqlalchemy.orm import Session, sessionmaker

from araponga_infra.backoff import Backoff
from araponga_infra.concurrency import ConcurrencyConflictError, RowConflict, VersionedSession
from araponga_infra.testing.clock import FakeClock
from tests.servers import wait_until

from .blog import Post, Tag, like
from .conftest import open_database
from .databases import Asked, Database, SyncDatabase

Others = sessionmaker[Session]


@pytest.fixture(params=["psycopg", "psycopg2", "psycopg-async", "asyncpg"])
def driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["REPEATABLE READ", "SERIALIZABLE"])
def database(driver: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = open_database(driver, tmp_path, request, isolation_level=request.param)
    with opened.session(Session) as run:
        run(lambda session: session.add(Post(id=1)))
        run(lambda session: session.commit())
    yield opened
    opened.close()


def test_a_serialization_failure_runs_the_work_again(database: Database, others: Others) -> None:
    calls: list[int] = []

    def edit(session: Session) -> int:
        post = session.get_one(Post, 1)
        calls.append(post.row_version)
        if len(calls) == 1:
            with others.begin() as other:
                like(other, 1)
        post.title = "edited"
        session.flush()
        return post.row_version

    assert database.helper()(edit) == 3
    assert calls == [1, 2]


def test_giving_up_after_a_serialization_failure_names_the_row(database: Database, others: Others) -> None:
    def edit(session: Session) -> None:
        post = session.get_one(Post, 1)
        with others.begin() as other:
            like(other, 1)
        post.title = "never"

    with pytest.raises(ConcurrencyConflictError) as refused:
        database.helper(max_attempts=1)(edit)
    assert refused.value.conflicts == (RowConflict("Post", (1,), 1, 2),)


def _hold_until_somebody_waits(others: Others, is_held: threading.Event) -> None:
    with others.begin() as other, others() as looking:
        like(other, 1)
        other.flush()
        is_held.set()
        for _ in range(2_000):
            if looking.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                return
            threading.Event().wait(0.005)
    raise AssertionError("nobody waited for the row")


def test_where_a_lock_that_waits_fails_no_unit_goes_on_locking_first(database: Database, others: Others) -> None:
    calls: list[int] = []

    def edit(session: Session) -> None:
        post = session.get_one(Post, 1)
        calls.append(1)
        if len(calls) == 1:
            with others.begin() as other:
                like(other, 1)
        post.title += "!"

    execute = database.helper(clock=FakeClock())
    execute(edit)
    asked = Asked(database)
    is_held = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(_hold_until_somebody_waits, others, is_held)
        is_held.wait(10)
        execute(edit)
        holding.result()
    assert asked.is_locked_first()
    assert len(calls) == 3, "the lock failed before the work ran"
    execute(edit)
    assert not asked.is_locked_first()
    asked.close()
    with others() as session:
        post = session.get_one(Post, 1)
        assert (post.title, post.likes) == ("Feira!!!", 2)


def test_a_savepoint_that_is_repeated_never_succeeds_and_the_unit_does(database: Database, others: Others) -> None:
    """The snapshot stays the one of the transaction; only a new transaction sees what the others wrote."""
    repeated: list[int] = []

    def edit(session: Session) -> None:
        post = session.get_one(Post, 1)
        if not repeated:
            with others.begin() as other:
                like(other, 1)
            for attempt in range(3):
                repeated.append(attempt)
                with pytest.raises(DBAPIError), session.begin_nested():  # noqa: PT012
                    post.title = "never"
                    session.flush()
        post.title = "edited"

    database.helper()(edit)
    assert repeated == [0, 1, 2]
    with others() as session:
        post = session.get_one(Post, 1)
        assert (post.title, post.likes, post.row_version) == ("edited", 1, 3)


def test_outside_of_execute_it_is_a_conflict_as_well(database: Database, others: Others) -> None:
    def edit(session: Session) -> None:
        post = session.get_one(Post, 1)
        with others.begin() as other:
            like(other, 1)
        post.title = "never"
        session.flush()

    with database.session(VersionedSession) as run, pytest.raises(ConcurrencyConflictError, match="Post 1"):
        run(edit)


@pytest.fixture
def serializable(driver: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = open_database(driver, tmp_path, request, isolation_level="SERIALIZABLE")
    yield opened
    opened.close()


SETS_LEVEL: dict[str, tuple[Callable[[Session], object], type[Exception]]] = {
    "as SQL": (lambda s: s.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")), DBAPIError),
    "on the connection": (
        lambda s: s.connection(execution_options={"isolation_level": "REPEATABLE READ"}),
        SAWarning,
    ),
}


@pytest.mark.parametrize("case", SETS_LEVEL)
def test_a_level_that_the_work_sets_comes_too_late_for_a_retry(
    driver: str, request: pytest.FixtureRequest, tmp_path: Path, case: str
) -> None:
    """Documented: the lock that the retry begins with is the first statement of its transaction."""
    set_level, error = SETS_LEVEL[case]
    database = open_database(driver, tmp_path, request)
    others = SyncDatabase("psycopg", database.url.replace("+asyncpg", "+psycopg"))
    levels: list[str | None] = []

    def edit(session: Session) -> None:
        set_level(session)
        levels.append(session.scalar(text("SHOW transaction_isolation")))
        post = session.get_one(Post, 1)
        with Session(others.engine) as other:
            like(other, 1)
            other.commit()
        post.title = "never"

    with Session(others.engine) as session:
        session.add(Post(id=1))
        session.commit()
    try:
        with pytest.raises(error):
            database.helper()(edit)
    finally:
        others.close()
        database.close()
    assert levels == ["repeatable read"]


def add_if_none(session: Session, number: int) -> None:
    if session.scalar(select(func.count(Tag.id))) == 0:
        session.add(Tag(id=number, name="the only one"))


def test_write_skew_that_surfaces_at_commit_is_retried(serializable: Database) -> None:
    """Two units that each add a tag if there is none: one of the two COMMITs is refused with 40001."""
    calls: list[int] = []

    def add_too(session: Session) -> None:
        calls.append(1)
        if session.scalar(select(func.count(Tag.id))) != 0:
            return
        session.add(Tag(id=1, name="mine"))
        session.flush()
        if len(calls) == 1:
            with Session(other.engine) as concurrent:
                add_if_none(concurrent, 2)
                concurrent.commit()

    other = SyncDatabase("psycopg", serializable.url.replace("+asyncpg", "+psycopg"), isolation_level="SERIALIZABLE")
    try:
        serializable.helper(backoff=Backoff(0.001, 0.001))(add_too)
        with Session(other.engine) as session:
            assert session.scalar(select(func.count(Tag.id))) == 1
    finally:
        other.close()
    assert len(calls) == 2


def test_a_deadlock_is_retried(driver: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    database = open_database(driver, tmp_path, request)
    with database.session(Session) as run:
        run(lambda session: session.add_all([Post(id=1), Post(id=2)]))
        run(lambda session: session.commit())
    is_locked, may_lock = threading.Event(), threading.Event()
    calls: list[int] = []

    def other_way_round() -> None:
        other = SyncDatabase("psycopg", database.url.replace("+asyncpg", "+psycopg"))
        with Session(other.engine) as session:
            session.execute(text("UPDATE post SET likes = likes + 1 WHERE id = 2"))
            is_locked.set()
            assert may_lock.wait(10)
            session.execute(text("SET LOCAL deadlock_timeout = '10s'"))
            session.execute(text("UPDATE post SET likes = likes + 1 WHERE id = 1"))
            session.commit()
        other.close()

    def both(session: Session) -> None:
        calls.append(1)
        session.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
        session.execute(text("UPDATE post SET likes = likes + 1 WHERE id = 1"))
        if len(calls) == 1:
            assert is_locked.wait(10)
            may_lock.set()
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            wait_until(lambda: session.scalar(waiting) == 1, 10, "the other one to wait: PostgreSQL looks only once")
        session.execute(text("UPDATE post SET likes = likes + 1 WHERE id = 2"))

    with ThreadPoolExecutor(1) as pool:
        other: Any = pool.submit(other_way_round)
        database.helper()(both)
        other.result()
    database.close()
    assert len(calls) == 2
