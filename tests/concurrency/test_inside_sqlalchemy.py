"""What this room takes from inside SQLAlchemy, beyond its documented interface: each test goes red when it is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, insert
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Mapper, Session, sessionmaker
from sqlalchemy.sql import visitors

from araponga_infra.concurrency import ConcurrencyConflictError, RowConflict, VersionedSession
from araponga_infra.concurrency.bulk import _UPSERTS, _written_by

from .blog import Base, Book, Post, Seat, Shelf
from .databases import Database

Others = sessionmaker[Session]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@contextmanager
def listening(target: Any, name: str, listener: Callable[..., None]) -> Iterator[None]:
    event.listen(target, name, listener)
    try:
        yield
    finally:
        event.remove(target, name, listener)


def test_a_flush_is_one_call_of_its_contexts_execute_after_all_listeners(engine: Engine) -> None:
    """The journal takes its notes there, since only then are all rows of the flush known."""
    seen: list[object] = []

    def wrap(_session: Session, context: Any, _objects: object) -> None:
        execute = context.execute

        def noted() -> None:
            seen.append({mapper.class_: len(states) for mapper, states in context.mappers.items()})
            seen.append([context.states[state] for states in context.mappers.values() for state in states])
            execute()

        context.execute = noted
        seen.append("first listener")

    with Session(engine) as session:
        event.listen(session, "before_flush", wrap)
        event.listen(session, "before_flush", lambda *_: seen.append("last listener"))
        event.listen(session, "after_flush", lambda *_: seen.append("flushed"))
        session.add(Post(id=1))
        session.flush()
        assert seen == ["first listener", "last listener", {Post: 1}, [(False, False)], "flushed"]
        seen.clear()
        session.delete(session.get_one(Post, 1))
        session.flush()
    assert seen[3] == [(True, False)]


def test_rows_that_a_relationship_draws_in_are_registered_during_execute(engine: Engine) -> None:
    """The journal takes notes of these one by one."""
    registered: list[Any] = []

    def wrap(_session: Session, context: Any, _objects: object) -> None:
        execute = context.execute

        def noted() -> None:
            register = context.register_object

            def note(state: Any, *args: Any, **kwargs: Any) -> Any:
                is_registered = register(state, *args, **kwargs)
                registered.append((state.class_, context.states.get(state)))
                return is_registered

            context.register_object = note
            execute()

        context.execute = noted

    with Session(engine) as session:
        session.add(Shelf(id=1, books=[Book(id=1)]))
        session.commit()
        shelf = session.get_one(Shelf, 1)
        shelf.books.clear()
        event.listen(session, "before_flush", wrap)
        session.flush()
    assert (Book, (False, False)) in registered


class Asked:
    """False, and counts how often somebody wants to know."""

    def __init__(self) -> None:
        self.times: int = 0

    def __bool__(self) -> bool:
        self.times += 1
        return False


def test_a_mapper_is_asked_by_each_flush_whether_the_server_counts(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy takes a default of the server for a yes; the answer that is put in its place must be what it reads."""
    assert Mapper._version_id_has_server_side_value.fget(Post.__mapper__) is True
    assert Post.__mapper__._version_id_has_server_side_value is False
    asked = Asked()
    monkeypatch.setitem(vars(Post.__mapper__), "_version_id_has_server_side_value", asked)
    with Session(engine) as session:
        session.add(Post(id=1))
        session.flush()
        session.get_one(Post, 1).title = "Bazar"
        session.flush()
    assert asked.times > 0


@pytest.mark.parametrize("statement", [insert(Post), sqlite.insert(Post), insert(Post.__table__)])  # type: ignore[arg-type]
def test_prefixes_of_an_insert_can_be_read(statement: Any) -> None:
    [(prefix, dialect)] = statement.prefix_with("OR REPLACE", dialect="sqlite")._prefixes
    assert (str(prefix), dialect) == ("OR REPLACE", "sqlite")


UPSERTS: dict[str, Any] = {
    "postgresql": postgresql.insert(Post).on_conflict_do_update(index_elements=["id"], set_={"title": "a"}),
    "sqlite": sqlite.insert(Post).on_conflict_do_update(index_elements=["id"], set_={"title": "a"}),
    "mysql": mysql.insert(Post).on_duplicate_key_update(title="a"),
}


@pytest.mark.parametrize("dialect", UPSERTS)
def test_what_an_upsert_sets_can_be_read(dialect: str) -> None:
    """Which clause is an upsert's, and what it sets, is nowhere told in the open."""
    [clause] = [part for part in visitors.iterate(UPSERTS[dialect]) if part.__visit_name__ in _UPSERTS]
    assert _written_by(clause) == {"title"}


@pytest.fixture
def seats(others: Others) -> None:
    with others.begin() as session:
        session.add_all([Seat(row="A", number=1), Seat(row="B", number=1)])


def take(others: Others, row: str) -> None:
    with others.begin() as other:
        other.get_one(Seat, (row, 1)).holder = "Caio"


@pytest.mark.usefixtures("seats")
def test_a_listener_that_raises_leaves_the_session_able_to_note(database: Database, others: Others) -> None:
    def refuse(_session: Session, _context: object, _objects: object) -> None:
        raise ZeroDivisionError("mine")

    def work(session: Session) -> None:
        seat = session.get_one(Seat, ("A", 1))
        seat.holder = "Iara"
        with listening(session, "before_flush", refuse), pytest.raises(ZeroDivisionError, match="mine"):
            session.flush()
        take(others, "A")
        session.flush()

    with database.session() as run, pytest.raises(ConcurrencyConflictError) as refused:
        run(work)
    assert refused.value.conflicts == (RowConflict("Seat", ("A", 1), 1, 2),)


@pytest.mark.usefixtures("seats")
def test_a_flush_of_another_session_inside_a_flush_keeps_notes_of_its_own(database: Database, others: Others) -> None:
    if database.is_sqlite:
        return  # one writer at a time: the inner session could not write

    def work(session: Session) -> None:
        mine, theirs = session.get_one(Seat, ("A", 1)), ("B", 1)
        inner = VersionedSession(others.kw["bind"])

        def flush_inner(*_args: object) -> None:
            with inner:
                seat = inner.get_one(Seat, theirs)
                take(others, "B")
                seat.holder = "Iara"
                with pytest.raises(ConcurrencyConflictError) as refused:
                    inner.flush()
            assert refused.value.conflicts == (RowConflict("Seat", theirs, 1, 2),)

        take(others, "A")
        mine.holder = "Iara"
        with listening(session, "before_flush", flush_inner):
            session.flush()

    with database.session() as run, pytest.raises(ConcurrencyConflictError) as refused:
        run(work)
    assert refused.value.conflicts == (RowConflict("Seat", ("A", 1), 1, 2),)


@pytest.mark.usefixtures("seats")
def test_a_flush_that_a_flush_brings_about_is_checked_as_well(database: Database, others: Others) -> None:
    """`after_flush_postexec` may change rows; COMMIT flushes again."""
    if database.is_sqlite:
        return  # after the first flush nobody else can write

    def work(session: Session) -> None:
        first, second = session.get_one(Seat, ("A", 1)), session.get_one(Seat, ("B", 1))

        def change_second(*_args: object) -> None:
            if second.holder is None:
                take(others, "B")
                second.holder = "Iara"

        first.holder = "Iara"
        with listening(session, "after_flush_postexec", change_second):
            session.commit()

    with database.session() as run, pytest.raises(ConcurrencyConflictError) as refused:
        run(work)
    assert refused.value.conflicts == (RowConflict("Seat", ("B", 1), 1, 2),)


@pytest.mark.usefixtures("seats")
def test_notes_go_on_after_a_savepoint_was_rolled_back(database: Database, others: Others) -> None:
    if database.is_sqlite:
        return  # its one writer at a time leaves nobody to conflict with once the transaction has written

    def work(session: Session) -> None:
        first, second = session.get_one(Seat, ("A", 1)), session.get_one(Seat, ("B", 1))
        take(others, "A")
        with pytest.raises(ConcurrencyConflictError), session.begin_nested():
            first.holder = "Iara"
        assert second.holder is None
        take(others, "B")
        second.holder = "Iara"
        session.commit()

    with database.session() as run, pytest.raises(ConcurrencyConflictError) as refused:
        run(work)
    assert RowConflict("Seat", ("B", 1), 1, 2) in refused.value.conflicts
