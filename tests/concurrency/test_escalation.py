"""After a conflict the rows are locked: in one order, on every database, and left clean."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, event, select
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

from araponga_infra.concurrency import (
    AttemptFailed,
    ConcurrencyConflictError,
    ConcurrencyHelper,
    RowVersion,
    UnitGaveUp,
)
from araponga_infra.concurrency.classification import driver_code
from araponga_infra.telemetry import Record
from araponga_infra.testing.clock import FakeClock
from tests.servers.postgres import PostgresDatabase

from .blog import Asset, Base, Boat, Ledger, Post, Seat, like
from .databases import Database

Others = sessionmaker[Session]


class Notes:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def observe(self, record: Record, /) -> None:
        self.records.append(record)


class Statements:
    """What an engine is asked, in order."""

    def __init__(self, engine: Engine) -> None:
        self.texts: list[str] = []
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        self.texts.append(statement)


@pytest.fixture
def postgres_engine(emptied_database: PostgresDatabase) -> Iterator[Engine]:
    engine = create_engine(emptied_database.url("psycopg"))
    with Session(engine) as session:
        session.add_all([Post(id=1), Post(id=2), Seat(row="B", number=1), Seat(row="A", number=2)])
        session.commit()
    yield engine
    engine.dispose()


def test_conflicting_rows_are_locked_by_table_and_key(postgres_engine: Engine) -> None:
    others = sessionmaker(postgres_engine)
    calls: list[int] = []

    def take(session: Session) -> None:
        rows: list[Any] = [session.get_one(Seat, ("B", 1)), session.get_one(Seat, ("A", 2)), session.get_one(Post, 2)]
        calls.append(1)
        if len(calls) == 1:
            with others.begin() as other:
                other.get_one(Seat, ("B", 1)).holder = "Caio"
        rows[0].holder = rows[1].holder = "Iara"
        rows[2].title = "taken"

    helper = ConcurrencyHelper(sessionmaker(postgres_engine))
    statements = Statements(postgres_engine)
    helper.execute(take)

    locks = [statement for statement in statements.texts if "FOR" in statement]
    assert [lock.split("FROM ")[1].split()[0] for lock in locks] == ["post", "seat"]
    assert "ORDER BY seat.row, seat.number FOR NO KEY UPDATE" in " ".join(locks[1].replace('"', "").split())
    first_after_rollback = statements.texts.index(locks[0])
    assert not any("UPDATE post" in text for text in statements.texts[first_after_rollback : first_after_rollback + 2])


def _locked_tables(statements: Statements) -> list[str]:
    return [text.split("FROM ")[1].split()[0] for text in statements.texts if "FOR NO KEY UPDATE" in text]


def test_the_first_conflict_locks_all_that_the_flush_was_about_to_write(postgres_engine: Engine) -> None:
    others = sessionmaker(postgres_engine)
    with others.begin() as session:
        session.add(Ledger(id=1))
    calls: list[int] = []

    def write_all(session: Session) -> None:
        rows: list[Any] = [session.get_one(Ledger, 1), session.get_one(Post, 1), session.get_one(Seat, ("A", 2))]
        calls.append(1)
        if len(calls) == 1:
            with others.begin() as other:
                other.get_one(Ledger, 1).amount = 5
                other.get_one(Post, 1).likes = 5
                other.get_one(Seat, ("A", 2)).holder = "Caio"
        rows[0].amount, rows[1].title, rows[2].holder = 1, "a", "Iara"

    statements = Statements(postgres_engine)
    ConcurrencyHelper(sessionmaker(postgres_engine)).execute(write_all)
    assert len(calls) == 2
    assert _locked_tables(statements) == ["ledger", "post", "seat"]


def test_a_unit_with_three_hot_rows_needs_three_attempts(postgres_engine: Engine) -> None:
    """The first conflict locks what its flush wrote, the second all that both wrote: a third there is not."""
    others = sessionmaker(postgres_engine)
    with others.begin() as session:
        session.add(Ledger(id=1))
    overtaken_by: list[Callable[[Session], None]] = [
        lambda session: setattr(session.get_one(Ledger, 1), "amount", 5),
        lambda session: setattr(session.get_one(Post, 1), "likes", 5),
    ]
    calls: list[int] = []

    def write_all(session: Session) -> None:
        rows: list[Any] = [session.get_one(Ledger, 1), session.get_one(Post, 1), session.get_one(Seat, ("A", 2))]
        calls.append(1)
        if len(calls) <= len(overtaken_by):
            with others.begin() as other:
                overtaken_by[len(calls) - 1](other)
        rows[0].amount = 1
        session.flush()
        rows[1].title, rows[2].holder = "a", "Iara"

    statements = Statements(postgres_engine)
    ConcurrencyHelper(sessionmaker(postgres_engine)).execute(write_all)
    assert len(calls) == 3
    assert _locked_tables(statements) == ["ledger", "ledger", "post", "seat"]


def test_a_joined_subclass_is_locked_where_its_version_is(database: Database, others: Others) -> None:
    with others.begin() as session:
        session.add(Boat(id=1))
    calls: list[int] = []

    def refit(session: Session) -> int:
        boat = session.get_one(Boat, 1)
        calls.append(1)
        if len(calls) == 1:
            with others.begin() as other:
                other.get_one(Asset, 1).name = "by another"
        boat.berths += 1
        return boat.berths

    assert database.helper()(refit) == 3
    assert len(calls) == 2


def test_escalating_units_that_take_rows_in_opposite_order_finish(postgres_engine: Engine) -> None:
    """Each writes both posts, in its own order; without an order of locks they would deadlock again and again."""
    helper = ConcurrencyHelper(sessionmaker(postgres_engine))
    barrier = threading.Barrier(2, timeout=10)

    def like_both(session: Session, order: list[int], first_time: list[int]) -> None:
        posts = [session.get_one(Post, key) for key in order]
        if not first_time:
            first_time.append(1)
            barrier.wait()
        for post in posts:
            post.likes += 1
            session.flush()

    def run(order: list[int]) -> None:
        for _ in range(20):
            helper.execute(like_both, order, [])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, [[1, 2], [2, 1]]))
    with Session(postgres_engine) as session:
        assert session.scalars(select(Post.likes).order_by(Post.id)).all() == [40, 40]


def test_lock_after_none_never_locks_and_two_waits_for_the_second(postgres_engine: Engine) -> None:
    others = sessionmaker(postgres_engine)

    def run(lock_after: int | None) -> list[AttemptFailed]:
        calls: list[int] = []

        def edit(session: Session) -> None:
            post = session.get_one(Post, 1)
            calls.append(1)
            if len(calls) < 3:
                with others.begin() as other:
                    like(other, 1)
            post.title = f"edit {lock_after}"

        notes = Notes()
        helper = ConcurrencyHelper(
            sessionmaker(postgres_engine), lock_after=lock_after, clock=FakeClock(), observer=notes
        )
        helper.execute(edit)
        return [record for record in notes.records if isinstance(record, AttemptFailed)]

    assert [record.locks for record in run(None)] == [False, False]
    assert [record.locks for record in run(2)] == [False, True]


def test_an_observer_hears_of_each_failure_and_of_giving_up(database: Database, others: Others) -> None:
    def too_late(session: Session) -> None:
        post = session.get_one(Post, 1)
        with others.begin() as other:
            like(other, 1)
        post.title = "never"

    notes = Notes()
    with pytest.raises(ConcurrencyConflictError):
        database.helper(max_attempts=2, lock_after=None, clock=FakeClock(), observer=notes)(too_late)
    failed, gave_up = notes.records
    assert isinstance(failed, AttemptFailed)
    assert (failed.name, failed.failure, failed.entities, failed.attempt, failed.locks) == (
        "concurrency.attempt_failed", "STALE", ("Post",), 1, False,
    )  # fmt: skip
    assert gave_up == UnitGaveUp("STALE", ("Post",), 2)
    assert gave_up.name == "concurrency.gave_up"


def test_no_attempt_begins_after_the_timeout(database: Database, others: Others) -> None:
    clock = FakeClock()

    def too_late(session: Session) -> None:
        post = session.get_one(Post, 1)
        with others.begin() as other:
            like(other, 1)
        post.title = "never"
        clock.advance(3)

    with pytest.raises(ConcurrencyConflictError) as refused:
        database.helper(max_attempts=50, lock_after=None, timeout=10, clock=clock)(too_late)
    assert refused.value.attempts == 4
    assert clock.monotonic() <= 3 * 4 + 10 * 0.05


def _begins_before_select(engine: Engine) -> None:
    """SQLAlchemy's recipe for sqlite3: no transactions of the driver's own, a BEGIN at the start of each."""

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")


def _begins_immediate(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _write_ahead_log(engine: Engine) -> None:
    _begins_before_select(engine)

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL").close()


SETUPS = {
    "as it comes": lambda _engine: None,
    "BEGIN events": _begins_before_select,
    "BEGIN IMMEDIATE events": _begins_immediate,
    "write-ahead log": _write_ahead_log,
}


@pytest.mark.parametrize("setup", SETUPS)
def test_sqlite_takes_the_write_lock_however_the_host_begins(tmp_path: Path, setup: str) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'blog.db'}", connect_args={"timeout": 30})
    SETUPS[setup](engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Post(id=1))
        session.commit()
    helper = ConcurrencyHelper(sessionmaker(engine))

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda _: helper.execute(like, 1), range(40)))

    assert sorted(seen) == list(range(1, 41))
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        assert driver.in_transaction is (setup == "BEGIN IMMEDIATE events" and connection.in_transaction())
    engine.dispose()


def test_a_snapshot_of_sqlite_that_others_overtook_is_a_conflict_at_once(tmp_path: Path) -> None:
    """With a write-ahead log no waiting helps who has read and then writes, whatever the busy timeout."""
    engine = create_engine(f"sqlite:///{tmp_path / 'blog.db'}", connect_args={"timeout": 30})
    _write_ahead_log(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Post(id=1))
        session.commit()
    calls: list[int] = []

    def retitle(session: Session) -> int:
        post = session.get_one(Post, 1)
        calls.append(1)
        if len(calls) < 3:
            with Session(engine) as other:
                like(other, 1)
                other.commit()
        post.title = "Bazar"
        return post.likes

    make_session = sessionmaker(engine)
    with pytest.raises(ConcurrencyConflictError) as refused:
        ConcurrencyHelper(make_session, max_attempts=1).execute(retitle)
    assert isinstance(refused.value.__cause__, OperationalError)
    assert driver_code(refused.value.__cause__.orig).sqlite == sqlite3.SQLITE_BUSY_SNAPSHOT
    assert ConcurrencyHelper(make_session, lock_after=None).execute(retitle) == 2
    assert len(calls) == 3
    engine.dispose()


class EagerBase(DeclarativeBase): ...


class Group(EagerBase):
    __tablename__ = "eager_group"
    id: Mapped[int] = mapped_column(primary_key=True)


class Member(RowVersion, EagerBase):
    """Loaded with its group by an outer join, which PostgreSQL does not lock."""

    __tablename__ = "eager_member"
    id: Mapped[int] = mapped_column(primary_key=True)
    visits: Mapped[int] = mapped_column(default=0)
    group_id: Mapped[int | None] = mapped_column(ForeignKey(Group.id))
    group: Mapped[Group | None] = relationship(lazy="joined")


@pytest.fixture
def eager_engine(postgres_engine: Engine) -> Iterator[Engine]:
    EagerBase.metadata.create_all(postgres_engine)
    yield postgres_engine
    EagerBase.metadata.drop_all(postgres_engine)


def test_a_row_that_is_loaded_with_a_nullable_other_is_locked_all_the_same(eager_engine: Engine) -> None:
    make_session = sessionmaker(eager_engine)
    with make_session.begin() as session:
        session.add(Member(id=1))
    with make_session() as session, pytest.raises(DBAPIError, match="nullable side of an outer join"):
        session.get(Member, 1, with_for_update=True)
    statements, calls = Statements(eager_engine), list[int]()

    def visit(session: Session) -> int:
        member = session.get_one(Member, 1)
        calls.append(1)
        if len(calls) == 1:
            with make_session.begin() as other:
                other.get_one(Member, 1).visits += 1
        member.visits += 1
        return member.visits

    assert ConcurrencyHelper(make_session).execute(visit) == 2
    assert len(calls) == 2
    assert any("FOR NO KEY UPDATE" in text for text in statements.texts)


def test_the_connection_is_left_clean_after_begin_immediate(database: Database, others: Others) -> None:
    if not database.is_sqlite:
        return
    calls: list[int] = []

    def edit(session: Session) -> None:
        post = session.get_one(Post, 1)
        calls.append(1)
        if len(calls) == 1:
            with others.begin() as other:
                like(other, 1)
        post.title = "edited"

    execute = database.helper()
    execute(edit)
    assert len(calls) == 2

    def is_in_transaction(session: Session) -> bool:
        driver: Any = session.connection().connection.driver_connection
        return bool(driver.in_transaction)

    assert execute(is_in_transaction) is False, "the next user of the connection finds it as SQLAlchemy left it"
