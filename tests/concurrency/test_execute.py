"""`execute`: the whole unit again after a conflict, and everything else untouched."""

from __future__ import annotations

import pickle

import pytest
from sqlalchemy import delete, text, update
from sqlalchemy.exc import IntegrityError, SAWarning
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.orm.exc import StaleDataError

from araponga_infra.backoff import Backoff
from araponga_infra.concurrency import (
    ConcurrencyConflictError,
    PreconditionFailedError,
    RowConflict,
    etag,
    expect_version,
    parse_if_match,
)
from araponga_infra.testing.clock import FakeClock

from .blog import Comment, Post, Seat, Tag, like, retitle
from .databases import Database

Others = sessionmaker[Session]


def test_a_conflict_runs_the_work_again_and_no_edit_is_lost(
    database: Database, others: Others, session_class: type[Session]
) -> None:
    seen: list[int] = []

    def slow_edit(session: Session) -> Post:
        post = session.get_one(Post, 1)
        seen.append(post.row_version)
        if len(seen) == 1:
            with others.begin() as other:
                other.get_one(Post, 1).body = "Domingo"
        post.title = "Feira de trocas"
        return post

    post = database.helper(session_class)(slow_edit)

    assert seen == [1, 2]
    assert (post.title, post.body, post.row_version) == ("Feira de trocas", "Domingo", 3)
    assert etag(post) == '"3"'


def test_what_is_returned_is_usable_after_the_session_closed(database: Database) -> None:
    def touch_everything(session: Session) -> list[Post]:
        post = session.get_one(Post, 1)
        session.execute(update(Post).where(Post.id == 1).values(likes=Post.likes + 1))
        session.expire(post, ["body"])
        return [post]

    [post] = database.helper()(touch_everything)
    assert (post.likes, post.body, post.row_version) == (1, "Sábado", 2)


def test_giving_up_names_the_row_the_versions_and_the_attempts(
    database: Database, others: Others, session_class: type[Session]
) -> None:
    def always_too_late(session: Session) -> None:
        post = session.get_one(Post, 1)
        with others.begin() as other:
            like(other, 1)
        post.title = "never"

    clock = FakeClock()
    with pytest.raises(ConcurrencyConflictError) as refused:
        database.helper(session_class, lock_after=None, clock=clock, backoff=Backoff(1, 8, jitter=False))(
            always_too_late
        )

    error = refused.value
    assert error.conflicts == (RowConflict("Post", (1,), expected=3, actual=4),)
    assert error.attempts == 3
    assert str(error) == (
        "Post 1 was expected at version 3 and is at version 4 now; nothing was committed after 3 attempts: "
        "read again and repeat the change"
    )
    assert clock.monotonic() == 3, "one second, then two"
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.conflicts, copy.attempts, str(copy)) == (error.conflicts, 3, str(error))


def test_a_row_that_is_gone_has_no_actual_version(database: Database, others: Others) -> None:
    def edit_deleted(session: Session) -> None:
        post = session.get_one(Post, 1)
        with others.begin() as other:
            other.execute(delete(Post).where(Post.id == 1))
        post.title = "never"

    with pytest.raises(ConcurrencyConflictError, match=r"Post 1 was expected at version 1 and is gone") as refused:
        database.helper(max_attempts=1)(edit_deleted)
    assert refused.value.conflicts == (RowConflict("Post", (1,), 1, None),)


def test_a_conflicting_delete_is_a_conflict(database: Database, others: Others) -> None:
    seen: list[int] = []

    def remove(session: Session) -> None:
        post = session.get_one(Post, 1)
        seen.append(post.row_version)
        if len(seen) == 1:
            with others.begin() as other:
                like(other, 1)
        session.delete(post)

    database.helper()(remove)
    assert seen == [1, 2]
    with others() as session:
        assert session.get(Post, 1) is None


def test_one_stale_delete_among_several_is_a_conflict(database: Database, others: Others) -> None:
    """Drivers that run all DELETEs as one batch tell no row counts of it."""
    with others.begin() as session:
        session.add_all([Seat(row="A", number=1), Seat(row="A", number=2), Seat(row="A", number=3)])

    def remove_all(session: Session) -> None:
        seats = [session.get_one(Seat, ("A", number)) for number in (1, 2, 3)]
        with others.begin() as other:
            other.get_one(Seat, ("A", 2)).holder = "Iara"
        for seat in seats:
            session.delete(seat)

    with pytest.raises(ConcurrencyConflictError) as refused:
        database.helper(max_attempts=1)(remove_all)
    assert refused.value.conflicts == (RowConflict("Seat", ("A", 2), 1, 2),)
    with others() as session:
        assert session.get_one(Seat, ("A", 2)).holder == "Iara"


def test_only_the_rows_that_changed_are_named(database: Database, others: Others) -> None:
    with others.begin() as session:
        session.add_all([Seat(row="A", number=1), Seat(row="B", number=2), Seat(row="B", number=3)])

    def take_all(session: Session) -> None:
        seats = [session.get_one(Seat, key) for key in [("A", 1), ("B", 2), ("B", 3)]]
        with others.begin() as other:
            other.get_one(Seat, ("B", 2)).holder = "Iara"
        for seat in seats:
            seat.holder = "Caio"

    with pytest.raises(ConcurrencyConflictError) as refused:
        database.helper(max_attempts=1)(take_all)
    assert refused.value.conflicts == (RowConflict("Seat", ("B", 2), 1, 2),)
    assert "Seat ('B', 2) was expected" in str(refused.value)


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), ValueError("mine"), KeyboardInterrupt()])
def test_other_errors_propagate_from_the_first_attempt(
    database: Database, others: Others, error: BaseException, session_class: type[Session]
) -> None:
    calls: list[int] = []

    def fail(session: Session) -> None:
        calls.append(1)
        like(session, 1)
        session.flush()
        raise error

    with pytest.raises(type(error)) as raised:
        database.helper(session_class)(fail)
    assert raised.value is error
    assert len(calls) == 1
    with others() as session:
        assert session.get_one(Post, 1).likes == 0, "nothing was committed"


def test_a_violated_constraint_propagates_untouched(database: Database, session_class: type[Session]) -> None:
    calls: list[int] = []

    def add_again(session: Session) -> None:
        calls.append(1)
        session.add(Post(id=1))

    with pytest.raises(IntegrityError):
        database.helper(session_class)(add_again)
    assert len(calls) == 1


def test_a_failed_precondition_is_not_retried(database: Database, session_class: type[Session]) -> None:
    calls: list[int] = []
    database.helper()(retitle, 1, "Mutirão")

    def edit_what_i_saw(session: Session) -> None:
        calls.append(1)
        expect_version(session.get_one(Post, 1), parse_if_match('"1"'))

    with pytest.raises(PreconditionFailedError) as refused:
        database.helper(session_class)(edit_what_i_saw)
    assert len(calls) == 1
    assert str(refused.value) == (
        "Post 1 was expected at version 1 and is at version 2 now: read it again before changing it"
    )


def test_a_precondition_that_a_conflict_overtakes_ends_as_precondition_failed(
    database: Database, others: Others
) -> None:
    calls: list[int] = []

    def edit_what_i_saw(session: Session) -> None:
        calls.append(1)
        post = session.get_one(Post, 1)
        expect_version(post, 1)
        with others.begin() as other:
            like(other, 1)
        post.title = "never"

    with pytest.raises(PreconditionFailedError):
        database.helper()(edit_what_i_saw)
    assert len(calls) == 2


def test_no_net_change_is_no_conflict(database: Database, others: Others) -> None:
    def only_read(session: Session) -> str:
        title = session.get_one(Post, 1).title
        with others.begin() as other:
            like(other, 1)
        return title

    assert database.helper(max_attempts=1)(only_read) == "Feira"


def test_rows_added_in_the_unit_are_no_suspects(database: Database) -> None:
    """They are not in the database after the rollback, and yet nobody has deleted them."""

    def add_and_edit(session: Session) -> None:
        new = Post(id=2)
        session.add(new)
        session.flush()
        session.execute(text("UPDATE post SET row_version = 7 WHERE id = 2"))
        new.title = "out of step with its own row"

    with pytest.raises(StaleDataError):
        database.helper()(add_and_edit)


def test_a_stale_row_without_a_version_is_not_a_conflict(database: Database, others: Others) -> None:
    """An UPDATE of an unversioned row that is gone raises StaleDataError as well."""
    with others.begin() as session:
        session.add(Tag(id=1, name="feira"))
    calls: list[int] = []

    def rename(session: Session) -> None:
        calls.append(1)
        tag = session.get_one(Tag, 1)
        with others.begin() as other:
            other.execute(delete(Tag))
        tag.name = "never"

    execute = database.helper(max_attempts=5)
    with pytest.raises(StaleDataError, match="tag"):
        execute(rename)
    assert len(calls) == 1


def test_a_delete_of_a_row_without_a_version_that_is_gone_is_warned_of_and_stands(
    database: Database, others: Others
) -> None:
    """What SQLAlchemy makes of it, untouched: the row is gone either way."""
    with others.begin() as session:
        session.add(Tag(id=1, name="feira"))
    calls: list[int] = []

    def remove(session: Session) -> None:
        calls.append(1)
        tag = session.get_one(Tag, 1)
        with others.begin() as other:
            other.execute(delete(Tag))
        session.delete(tag)

    with pytest.warns(SAWarning, match="expected to delete 1 row"):
        database.helper()(remove)
    assert len(calls) == 1


def test_a_unit_that_conflicts_with_itself_says_so_at_once(database: Database) -> None:
    calls: list[int] = []

    def out_of_step(session: Session) -> None:
        calls.append(1)
        post = session.get_one(Post, 1)
        session.execute(
            update(Post).where(Post.id == 1).values(likes=1), execution_options={"synchronize_session": False}
        )
        post.title = "never"

    with pytest.raises(StaleDataError):
        database.helper()(out_of_step)
    assert len(calls) == 1


def test_a_child_does_not_count_as_a_change_of_its_parent(database: Database) -> None:
    def comment(session: Session) -> int:
        post = session.get_one(Post, 1)
        post.comments.append(Comment(id=1, text="Vou!"))
        session.flush()
        return post.row_version

    assert database.helper()(comment) == 1
