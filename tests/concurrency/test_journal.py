"""What is written is checked: rows that others drew into the flush like the rest, and only with what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.orm import Session, load_only, selectinload, sessionmaker

from araponga_infra.concurrency import ConcurrencyConflictError, RowConflict, VersionedSession
from araponga_infra.errors import InvalidArgumentError

from .blog import Book, Post, Seat, Shelf, Tag
from .databases import Database

Others = sessionmaker[Session]


@pytest.fixture
def shelved(others: Others) -> None:
    with others.begin() as session:
        session.add(Shelf(id=1, books=[Book(id=1), Book(id=2)]))


def _retitle(others: Others, title: str) -> None:
    with others.begin() as other:
        other.get_one(Book, 2).title = title


@pytest.mark.usefixtures("shelved")
def test_a_row_that_only_a_relationship_writes(database: Database, others: Others) -> None:
    """`remove` changes the shelf's collection; the book's column is set in the middle of the flush."""
    calls: list[int] = []

    def take_off(session: Session, times: int) -> None:
        shelf = session.get_one(Shelf, 1)
        book = shelf.books[-1]
        calls.append(1)
        if len(calls) <= times:
            _retitle(others, f"Bazar {len(calls)}")
        shelf.books.remove(book)

    database.helper()(take_off, 1)
    assert len(calls) == 2
    with others() as session:
        book = session.get_one(Book, 2)
        assert (book.shelf_id, book.title, book.row_version) == (None, "Bazar 1", 3)


@pytest.mark.usefixtures("shelved")
def test_a_row_that_only_a_relationship_writes_is_named(database: Database, others: Others) -> None:
    def take_off(session: Session) -> None:
        shelf = session.get_one(Shelf, 1)
        book = shelf.books[-1]
        _retitle(others, "Bazar")
        shelf.books.remove(book)

    with pytest.raises(ConcurrencyConflictError) as refused:
        database.helper(max_attempts=1)(take_off)
    assert refused.value.conflicts == (RowConflict("Book", (2,), 1, 2),)


@pytest.mark.usefixtures("shelved")
def test_a_row_that_a_relationship_writes_must_have_been_read_with_its_version(database: Database) -> None:
    def take_off(session: Session) -> None:
        shelf = session.get_one(Shelf, 1, options=[selectinload(Shelf.books).load_only(Book.title)])
        shelf.books.remove(shelf.books[-1])

    with pytest.raises(InvalidArgumentError, match=r"^Book 2 was read without its row_version"):
        database.helper()(take_off)


@pytest.fixture
def audited() -> Iterator[type[VersionedSession]]:
    """A session class whose own listener, which comes after ours, writes the seat with whatever else is written."""

    class Audited(VersionedSession): ...

    def take_seat(session: Session, _context: Any, _objects: Any) -> None:
        if session.dirty and (seat := session.info.get("seat")) is not None:
            seat.holder = "audited"

    event.listen(Audited, "before_flush", take_seat)
    yield Audited
    event.remove(Audited, "before_flush", take_seat)


def test_a_row_that_the_hosts_own_listener_writes(
    database: Database, others: Others, audited: type[VersionedSession]
) -> None:
    with others.begin() as session:
        session.add(Seat(row="A", number=1))
    calls: list[int] = []

    def edit(session: Session) -> None:
        session.info["seat"] = session.get_one(Seat, ("A", 1))
        calls.append(1)
        if len(calls) == 1:
            with others.begin() as other:
                other.get_one(Seat, ("A", 1)).holder = "Caio"
        session.get_one(Post, 1).title = "Bazar"

    database.helper(audited)(edit)
    assert len(calls) == 2
    with others() as session:
        assert session.get_one(Seat, ("A", 1)).holder == "audited"


def test_a_primary_key_that_changed_is_looked_for_under_the_one_it_was_read_with(
    database: Database, others: Others
) -> None:
    """Both flushes fit; the conflict of the third must not name the row that moved."""
    with others.begin() as session:
        session.add_all([Seat(row="A", number=1), Seat(row="B", number=1)])

    def move(session: Session) -> None:
        moving, other_seat = session.get_one(Seat, ("A", 1)), session.get_one(Seat, ("B", 1))
        with others.begin() as other:
            other.get_one(Seat, ("B", 1)).holder = "Caio"
        moving.number = 2
        session.flush()
        moving.holder = "Iara"
        session.flush()
        other_seat.holder = "Iara"

    with pytest.raises(ConcurrencyConflictError) as refused:
        database.helper(max_attempts=1)(move)
    assert refused.value.conflicts == (RowConflict("Seat", ("B", 1), 1, 2),)


def test_a_flush_without_versioned_rows_leaves_no_notes(database: Database) -> None:
    def add(session: Session) -> None:
        session.add(Tag(id=1, name="Feira"))
        session.flush()
        session.get_one(Tag, 1).name = "Bazar"

    assert database.helper()(add) is None


def _title_only(session: Session) -> Post:
    return session.scalars(select(Post).options(load_only(Post.title))).one()


def _expire_and_read_version(session: Session, post: Post) -> int:
    session.expire(post, ["row_version"])
    return post.row_version


LATE_VERSIONS: dict[str, tuple[Callable[[Session], Post], Callable[[Session, Post], object]]] = {
    "load_only, then another query": (_title_only, lambda session, _post: session.scalars(select(Post)).all()),
    "load_only, then the attribute": (_title_only, lambda _session, post: post.row_version),
    "text, then another query": (
        lambda session: session.scalars(select(Post).from_statement(text("SELECT id, title FROM post"))).one(),
        lambda session, _post: session.scalars(select(Post)).all(),
    ),
    "refresh of the version": (
        lambda session: session.get_one(Post, 1),
        lambda session, post: session.refresh(post, ["row_version"]),
    ),
    "expiry of the version": (lambda session: session.get_one(Post, 1), _expire_and_read_version),
}


@pytest.mark.parametrize("case", LATE_VERSIONS)
def test_a_version_that_was_read_after_the_rest_checks_nothing_and_is_refused(
    database: Database, others: Others, session_class: type[Session], case: str
) -> None:
    read, read_version = LATE_VERSIONS[case]

    def exclaim(session: Session) -> None:
        post = read(session)
        with others.begin() as other:
            other.get_one(Post, 1).title = "Bazar"
        read_version(session, post)
        post.title += "!"

    with pytest.raises(InvalidArgumentError, match=r"^row_version of Post 1 was read after its other columns"):
        database.helper(session_class)(exclaim)
    with others() as session:
        assert session.get_one(Post, 1).title == "Bazar"


REREAD: dict[str, Callable[[Session, Post], object]] = {
    "refresh": lambda session, post: session.refresh(post),
    "populate_existing": lambda session, _post: session.scalars(
        select(Post), execution_options={"populate_existing": True}
    ).all(),
    "expiry": lambda session, post: session.expire(post),
    "rollback to a savepoint": lambda session, _post: session.begin_nested().rollback(),
}


@pytest.mark.parametrize("case", REREAD)
def test_a_row_that_was_read_as_a_whole_again_can_be_written(database: Database, others: Others, case: str) -> None:
    def exclaim(session: Session) -> str:
        post = session.get_one(Post, 1)
        with others.begin() as other:
            other.get_one(Post, 1).title = "Bazar"
        session.refresh(post, ["row_version"])
        REREAD[case](session, post)
        post.title += "!"
        return post.title

    if case == "rollback to a savepoint":
        with pytest.raises(InvalidArgumentError, match="read after its other columns"):
            database.helper()(exclaim)
    else:
        assert database.helper()(exclaim) == "Bazar!"


def test_columns_that_are_read_after_the_version_are_checked_by_it(database: Database, others: Others) -> None:
    calls: list[int] = []

    def exclaim(session: Session) -> str:
        post = session.scalars(select(Post).options(load_only(Post.row_version))).one()
        calls.append(1)
        if len(calls) == 1:
            with others.begin() as other:
                other.get_one(Post, 1).title = "Bazar"
        post.title += "!"
        return post.title

    assert database.helper()(exclaim) == "Bazar!"
    assert len(calls) == 2
